"""The gate's rules about what a run says of itself: no part of it gainsays another. Pure.

A real run never writes what is refused here, so each of these is a report that was made up or
changed. What a rule asks for is what the engine always writes, on every kind of host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from pytest_manualbuild import evidence as evidences
from pytest_manualbuild.audit.binary import declared, version
from pytest_manualbuild.checks import name_asked_for
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.gate.verdict import Reason, reject, unsure
from pytest_manualbuild.hosts.facts import mismatch, virtual_packages
from pytest_manualbuild.hosts.runs import is_run_id
from pytest_manualbuild.model import (
    Artifact,
    Check,
    CheckKey,
    CheckKind,
    Facts,
    Host,
    PlannedPackage,
)
from pytest_manualbuild.records import Cause, CheckResult, HostRecord, LinkedEnvironment, Outcome

TOOLS = " (build)"
"""What the name of an environment ends with that holds tools, and not the package under test."""
_IN_A_SHELL = (
    CheckKind.INSTALL,
    CheckKind.IMPORT,
    CheckKind.COMMAND,
    CheckKind.SCRIPT,
    CheckKind.USE,
    CheckKind.PIP_CHECK,
)
"""What runs in the environment of its section, and passes only with its exit status."""
_CAUSES = {
    Outcome.PASSED: {Cause.OK},
    Outcome.FAILED: {
        Cause.EXIT_STATUS,
        Cause.TIMEOUT,
        Cause.TEST_FAILED,
        Cause.UNSOLVABLE,
        Cause.UNINSTALLABLE,
        Cause.CONTENTS,
        Cause.FUNCTION,
    },
    Outcome.ERROR: {
        Cause.HOST_UNAVAILABLE,
        Cause.HOST_LOST,
        Cause.CHANNEL,
        Cause.ENVIRONMENT,
        Cause.INTERRUPTED,
        Cause.INTERNAL,
    },
    Outcome.SKIPPED: {
        Cause.RECIPE,
        Cause.NOT_REACHED,
        Cause.EXIT_0,
        Cause.NOT_APPLICABLE,
        Cause.WAIVED,
        Cause.NOT_SELECTED,
        Cause.UNSOLVABLE,  # of a downstream package
    },
}
_FEW_LOGS = 8
"""With fewer logs, no section has used up what its logs may hold (``execution.capture``)."""
# What `uname -m`, or Windows, says on a host of each subdir. Some machines run the programs of
# another one: a Mac with Rosetta, Windows on ARM, and Linux those with 32 bits.


def contradictions(stored: Stored, wrote: Collection[CheckKey]) -> Iterator[Reason]:
    """Yield what in the evidence of one run cannot be together.

    ``wrote`` names the checks of which the JUnit report has output.
    """
    evidence = stored.evidence
    if not is_run_id(evidence.run_id):
        yield reject(f"{evidence.run_id!r} is not the id of a run.")
    yield from _summary(stored)
    hosts = {host.name: host for host in evidence.plan.matrix.hosts}
    for record in evidence.hosts:
        if record.name in hosts:
            yield from _host(evidence, hosts[record.name], record)
    yield from _results(evidence)
    yield from _logs(evidence, wrote)


def _summary(stored: Stored) -> Iterator[Reason]:
    evidence = stored.evidence
    if stored.result != evidences.summary(evidence):
        yield reject(f"The evidence calls its result {stored.result}, and it is another.")
    # pytest itself says 0 or 1; its other statuses are those of a run that was cut.
    fitting = {evidences.status(evidence.plan, evidence.results, said) for said in (0, 1)}
    if evidence.exit_status not in fitting:
        yield reject(
            f"The exit status of the run ({evidence.exit_status}) does not fit its results."
        )


def _host(evidence: Evidence, host: Host, record: HostRecord) -> Iterator[Reason]:
    name = host.name
    results = [one for one in evidence.results if one.host == name]
    passed = [one for one in results if one.outcome is Outcome.PASSED]
    ran = _ran(evidence, passed)
    facts = record.facts or Facts()
    if record.state == "tested" and record.message:
        yield reject(f"{name}: it was tested, and yet its message is {record.message!r}.")
    if record.state == "tested" and facts == Facts() and ran:
        yield reject(f"{name}: it was tested, and yet it did not say what it is.")
    if (
        host.decides
        and record.state == "lost"
        and passed
        and not any(one.outcome is Outcome.ERROR for one in results)
    ):
        yield unsure(f"{name}: the host was lost, whatever passed there. {record.message}".rstrip())
    if passed and (why := mismatch(host.subdir, facts)):
        yield reject(f"{name}: {why}.")
    planned = {one.artifact.key: one for one in evidence.plan.packages}
    for key in sorted(ran):
        artifact = planned[key].artifact
        if need := _unmet(artifact, facts, host.subdir):
            yield reject(f"{key}: it passed on {name}, which cannot have it: {need}.")
    yield from _absent(evidence, record, passed)
    yield from _unsolved(evidence, record, results)
    for key, environment in record.environments.items():
        package = key if key in planned else key.partition(" ")[0]
        if package not in planned:
            yield reject(f"{name}: it has an environment of {key!r}, which is no package.")
        else:
            yield from _installed(f"{package}: on {name}", environment, planned[package].artifact)
            yield from _beside(f"{package}: on {name}", environment, evidence.plan.packages)


def _ran(evidence: Evidence, passed: Collection[CheckResult]) -> set[str]:
    """Return the packages of which a check passed that needed the package on the host."""
    checks = _checks(evidence)
    return {
        one.package
        for one in passed
        if (found := checks.get((one.package, one.check))) is not None
        and found[1].kind is not CheckKind.CONTENTS
    }


def _absent(
    evidence: Evidence, record: HostRecord, passed: Collection[CheckResult]
) -> Iterator[Reason]:
    """Yield environments that were not there, and downstream packages that were not in theirs."""
    for key, beside in sorted(_environments(evidence, passed).items()):
        where = f"{record.name}: a check passed in the environment of {key!r}, and"
        found = record.environments.get(key)
        if found is None:
            yield reject(f"{where} there was none.")
        elif beside and beside not in {one.name for one in found.packages}:
            yield reject(f"{where} {beside} was not in it.")


def _environments(evidence: Evidence, passed: Collection[CheckResult]) -> dict[str, str]:
    """Return the keys of the environments in which these checks must have passed.

    Each with the downstream package that must be in it; empty: there need be none.
    """
    checks = _checks(evidence)
    keys = {}
    for one in passed:
        planned, check = checks.get((one.package, one.check), (None, None))
        if planned is None or check is None or check.kind is CheckKind.CONTENTS:
            continue
        if check.section < len(planned.sections):
            downstream = check.kind is CheckKind.DOWNSTREAM
            keys[_environment_key(planned, check)] = (
                name_asked_for(check.text) if downstream else ""
            )
    return keys


def _unsolved(
    evidence: Evidence, record: HostRecord, results: Collection[CheckResult]
) -> Iterator[Reason]:
    """Yield downstream packages that no environment could hold, and that had one."""
    checks = _checks(evidence)
    for one in results:
        planned, check = checks.get((one.package, one.check), (None, None))
        if planned is None or check is None or check.section >= len(planned.sections):
            continue
        if (check.kind, one.outcome, one.cause) == (
            CheckKind.DOWNSTREAM,
            Outcome.SKIPPED,
            Cause.UNSOLVABLE,
        ) and _environment_key(planned, check) in record.environments:
            yield reject(
                f"{one.package}: {one.check} on {one.host}: no environment could hold it, and yet"
                " there was one."
            )


def _environment_key(planned: PlannedPackage, check: Check) -> str:
    key = planned.environment_key(check.section)
    return f"{key} {check.text}" if check.kind is CheckKind.DOWNSTREAM else key


def _unmet(artifact: Artifact, facts: Facts, subdir: str) -> str:
    """Return what the package demands of a host's system that the host does not have, if any.

    The solver knows all of such specs; here are those that leave no doubt.
    """
    has = dict(virtual_packages(facts, subdir))
    for spec in (*artifact.depends, *artifact.constrains):
        found = re.match(r"__[a-z0-9_]+", spec.strip())
        if found is None or facts == Facts():
            continue
        name = found.group()
        if name not in has:
            if spec in artifact.depends:
                return f"it needs {spec}, and the host has no {name}"
        elif "|" not in spec and _numbers(declared((spec,), name)) > _numbers(has[name]):
            return f"it needs {spec}, and the host has {name} {has[name]}"
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Return a version for comparing, where 11.0 is 11."""
    numbers = list(version(text)) if text else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _installed(where: str, environment: LinkedEnvironment, artifact: Artifact) -> Iterator[Reason]:
    planned = (artifact.name, artifact.version, artifact.build, artifact.subdir)
    for one in environment.packages:
        if one.sha256 == artifact.sha256 and planned != (
            one.name,
            one.version,
            one.build,
            one.subdir,
        ):
            yield reject(
                f"{where}, its bytes were installed as {one.subdir}/{one.name}-{one.version}"
                f"-{one.build}."
            )


def _beside(
    where: str, environment: LinkedEnvironment, planned: Collection[PlannedPackage]
) -> Iterator[Reason]:
    """Yield packages that stood in for others of the run: those would go out untested together."""
    bytes_of: dict[tuple[str, str, str, str], set[str]] = {}
    for one in (package.artifact for package in planned):
        dist = (one.subdir, one.name, one.version, one.build)
        bytes_of.setdefault(dist, set()).add(one.sha256)
    for found in environment.packages:
        dist = (found.subdir, found.name, found.version, found.build)
        if dist in bytes_of and found.sha256 not in bytes_of[dist]:
            yield reject(
                f"{where}, {found.name} {found.version} {found.build} was installed from other"
                " bytes than those of this run's package."
            )


def _checks(evidence: Evidence) -> dict[tuple[str, str], tuple[PlannedPackage, Check]]:
    return {
        (planned.artifact.key, check.name): (planned, check)
        for planned in evidence.plan.packages
        for check in planned.checks
    }


def _results(evidence: Evidence) -> Iterator[Reason]:
    checks = _checks(evidence)
    judged = [
        (one, checks[one.package, one.check][1])
        for one in evidence.results
        if (one.package, one.check) in checks
    ]
    # What was left out on purpose (-k) is a reason of its own, and no installation that failed.
    without = {
        (one.host, one.package, check.section): one.outcome
        for one, check in judged
        if check.kind is CheckKind.INSTALL
        and one.outcome is not Outcome.PASSED
        and one.cause is not Cause.NOT_SELECTED
    }
    # Whether a host can have a package is found out for a section, before any of it runs.
    ran = {
        (one.host, one.package, check.section)
        for one, check in judged
        if one.outcome is Outcome.PASSED and check.kind is not CheckKind.DOWNSTREAM
    }
    for one, check in judged:
        where = f"{one.package}: {one.check} on {one.host}: {one.outcome}, and yet"
        if one.cause not in _CAUSES[one.outcome]:
            yield reject(f"{where} {one.cause}.")
        if one.cause is Cause.NOT_APPLICABLE and (one.host, one.package, check.section) in ran:
            yield reject(f"{where} what belongs to it passed there.")
        if one.outcome is not Outcome.PASSED:
            continue
        if one.message:
            yield reject(f"{where} its message is {one.message!r}.")
        if check.kind in (*_IN_A_SHELL, CheckKind.DOWNSTREAM) and one.exit_status is None:
            yield reject(f"{where} nothing says with which exit status.")
        found = without.get((one.host, one.package, check.section))
        if check.kind in _IN_A_SHELL and found:
            yield reject(f"{where} the installation before it is {found}.")


def _logs(evidence: Evidence, wrote: Collection[CheckKey]) -> Iterator[Reason]:
    checks = _checks(evidence)
    owners: dict[str, tuple[str, str, int, str]] = {}
    for one in evidence.results:
        planned, check = checks.get((one.package, one.check), (None, None))
        if planned is None or check is None:
            continue
        where = f"{one.package}: {one.check} on {one.host}"
        if one.log is None:
            many = sum(
                1 for log in evidence.logs if log.startswith(f"logs/{one.host}/{planned.label}/")
            )
            if check.kind in _IN_A_SHELL and one.key in wrote and many < _FEW_LOGS:
                yield reject(f"{where}: it wrote something, and the evidence has no log of it.")
            continue
        if not one.log.startswith(f"logs/{one.host}/{planned.label}/"):
            yield reject(f"{where}: its log is that of something else: {one.log}.")
        # Checks that are one statement of a script share its log.
        beside = check.text if check.kind is CheckKind.DOWNSTREAM else ""
        whose = (one.host, one.package, check.section, beside)
        if owners.setdefault(one.log, whose) != whose:
            yield reject(f"{where}: its log {one.log} is that of another check as well.")
