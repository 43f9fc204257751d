"""The gate's rules about results: what passed, what did not, and on which hosts. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import date, datetime

import msgspec

from pytest_manualbuild import checks, deviations, matrix
from pytest_manualbuild.deviations import Kind
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.gate import coherence
from pytest_manualbuild.gate import people as persons
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.people import People
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Reason, note, reject, unsure
from pytest_manualbuild.hosts.facts import lacking
from pytest_manualbuild.model import CheckKey, Facts, Host, Plan, PlannedPackage
from pytest_manualbuild.records import Cause, CheckResult, HostRecord, Outcome

REACHED = ("tested", "lost")
"""States of a host on which something can have passed."""


class Excused(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy accepts as conda-build does."""

    results: frozenset[CheckKey] = frozenset()
    """(host, package key, check) of what never ran, as conda-build passes over it."""
    untested: frozenset[str] = frozenset()
    """Keys of the packages that nothing but their installation needs to be proven of."""
    notes: tuple[Reason, ...] = msgspec.field(default=())


def excused(evidence: Evidence, policy: Policy, today: date) -> Excused:
    """Return what of a run the policy accepts; nothing that failed or was not found out."""
    results: set[CheckKey] = set()
    untested, notes = set(), []
    for one in deviations.found(evidence.plan, evidence.results):
        package = evidence.plan.package(one.package).artifact.name
        row = policies.accepted(policy, package, one, today)
        if row is None:
            continue
        results |= {(one.host, one.package, check) for check in one.checks}
        if one.kind is Kind.NOTHING_RAN:
            untested.add(one.package)
        which = f" ({'; '.join(one.checks)})" if one.checks else ""
        notes.append(
            note(
                f"accepted by policy ({one.kind}): {one.package} on {one.host}{which}:"
                f" {one.sentence} {row.reason}"
            )
        )
    return Excused(results=frozenset(results), untested=frozenset(untested), notes=tuple(notes))


def outcomes(stored: Stored, people: People, policy: Policy, now: datetime) -> Iterator[Reason]:
    """Yield each result that keeps packages from going out, and what was waived."""
    evidence = stored.evidence
    plan = evidence.plan
    hosts = {host.name: host for host in plan.matrix.hosts}
    packages = {planned.artifact.key for planned in plan.packages}
    waived, reasons = persons.waived(people, policy, plan, now)
    accepted = excused(evidence, policy, now.date())
    lost: set[tuple[str, str]] = set()
    for result in evidence.results:
        host = hosts.get(result.host)
        if host is None or result.package not in packages:
            continue  # nobody planned it, which is a reason of its own
        if result.outcome is Outcome.PASSED:
            yield from _passed(evidence, result)
        elif result.key in accepted.results:
            continue  # told in the notes of what is accepted
        elif waived.of(plan, result) is None:
            # One host that broke is one reason, not one for each of its checks.
            same = (result.host, result.message)
            if result.outcome is not Outcome.ERROR or same not in lost:
                yield from _not_passed(plan, host, result)
            if result.outcome is Outcome.ERROR:
                lost.add(same)
    yield from reasons
    yield from waived.notes()
    yield from accepted.notes
    yield from _tested(plan, accepted)
    if people.waivers:
        yield from _proven(evidence, hosts, accepted)


def _passed(evidence: Evidence, result: CheckResult) -> Iterator[Reason]:
    where = f"{result.package}: {result.check} on {result.host}"
    if result.exit_status not in (None, 0):
        yield reject(f"{where}: passed, and yet its exit status is {result.exit_status}.")
    if result.log is not None and result.log not in evidence.logs:
        yield reject(f"{where}: the evidence does not have its log {result.log}.")


def _not_passed(plan: Plan, host: Host, result: CheckResult) -> Iterator[Reason]:
    where = f"{result.package}: {result.check} on {result.host}"
    # Whoever copies this line must run nothing that a stranger wrote into a report.
    name = plan.matrix.name
    shipped = (matrix.shipped_folder() / f"{name}.toml").is_file()
    of = name if shipped else f"{name}.toml"
    words = ("pytest", "--recipe", plan.recipe, "--matrix", of, "--on", host.name)
    again = shlex.join(words)
    if result.outcome is Outcome.FAILED:
        yield reject(f"{where} failed ({result.cause}). {result.message}".rstrip(), help=again)
    elif not host.decides:
        return
    elif result.outcome is Outcome.ERROR:
        yield unsure(f"{where}: could not be found out. {result.message}".rstrip(), help=again)
    elif result.cause is not Cause.NOT_SELECTED:
        yield unsure(
            f"{where} was skipped ({result.cause}), and a skip never satisfies a required"
            f" host. {result.message}".rstrip(),
            help=again,
        )


def _tested(plan: Plan, accepted: Excused) -> Iterator[Reason]:
    """There is something to pass, or the policy can do without."""
    for planned in plan.packages:
        key = planned.artifact.key
        never = {check for _, package, check in accepted.results if package == key}
        if not checks.proving(planned.sections) - never and key not in accepted.untested:
            yield unsure(
                f"{key}: its recipe tests nothing: only `install` is proven.",
                help="Write tests into the recipe, and build it again.",
            )


def _proven(evidence: Evidence, hosts: dict[str, Host], accepted: Excused) -> Iterator[Reason]:
    """Waivers may not leave a package without anything that passed."""
    for planned in evidence.plan.packages:
        tests = checks.proving(planned.sections)
        if planned.artifact.key in accepted.untested:
            tests = frozenset(check.name for check in planned.checks)
        if not any(
            result.outcome is Outcome.PASSED
            and (result.package, result.check in tests) == (planned.artifact.key, True)
            and (host := hosts.get(result.host)) is not None
            and host.decides
            for result in evidence.results
        ):
            yield unsure(f"{planned.artifact.key}: with what is waived, nothing is proven of it.")


def hosts(evidence: Evidence) -> Iterator[Reason]:
    """Yield where something passed on a host that was not reached, or with other bytes."""
    records = {record.name: record for record in evidence.hosts}
    wanted = {host.name: host for host in evidence.plan.matrix.hosts}
    if sorted(records) != sorted(wanted) or len(records) != len(evidence.hosts):
        yield reject("The evidence does not describe each host of the matrix once.")
    for one in evidence.hosts:
        if one.reused:
            yield reject(f"{one.name} was not a fresh host: run {one.reused[:12]} kept it.")
    for planned in evidence.plan.packages:
        passed = [
            result.host
            for result in evidence.results
            if result.package == planned.artifact.key and result.outcome is Outcome.PASSED
        ]
        for name in dict.fromkeys(passed):
            record = records.get(name)
            if name not in wanted:
                continue  # a result that nobody planned, which is a reason of its own
            if record is None or record.state not in REACHED:
                state = record.state if record else "unknown"
                yield reject(f"{planned.artifact.key}: it passed on {name}, which is {state}.")
            elif not _same_bytes(record, planned):
                yield reject(
                    f"{planned.artifact.key}: on {name}, other bytes were installed than those"
                    " of the plan."
                )
            elif need := lacking(wanted[name], record.facts or Facts(), planned.needs):
                yield reject(
                    f"{planned.artifact.key}: it passed on {name}, which does not provide {need!r}."
                )


def _same_bytes(record: HostRecord, planned: PlannedPackage) -> bool:
    """Say whether each environment of a package was made from the very file of the plan."""
    artifact = planned.artifact
    environments = [
        environment
        for key, environment in record.environments.items()
        # Those of further test sections; what holds tools does not hold the package.
        if key == artifact.key
        or (key.startswith(f"{artifact.key} ") and not key.endswith(coherence.TOOLS))
    ]
    return bool(environments) and all(
        [one.sha256 for one in environment.packages if one.name == artifact.name]
        == [artifact.sha256]
        for environment in environments
    )
