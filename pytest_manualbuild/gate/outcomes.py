"""The gate's rules about results: what passed, what did not, and on which hosts. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pytest_manualbuild import checks
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.gate import people as persons
from pytest_manualbuild.gate.people import People
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Reason, reject, unsure
from pytest_manualbuild.model import (
    Cause,
    CheckResult,
    Host,
    HostRecord,
    Outcome,
    Plan,
    PlannedPackage,
)

REACHED = ("tested", "lost")
"""States of a host on which something can have passed."""


def outcomes(stored: Stored, people: People, policy: Policy, now: datetime) -> Iterator[Reason]:
    """Yield each result that keeps packages from going out, and what was waived."""
    evidence = stored.evidence
    plan = evidence.plan
    hosts = {host.name: host for host in plan.matrix.hosts}
    packages = {planned.artifact.key for planned in plan.packages}
    waived, reasons = persons.waived(people, policy, plan, now)
    lost: set[tuple[str, str]] = set()
    for result in evidence.results:
        host = hosts.get(result.host)
        if host is None or result.package not in packages:
            continue  # nobody planned it, which is a reason of its own
        if result.outcome is Outcome.PASSED:
            yield from _passed(evidence, result)
        elif waived.of(plan, result) is None:
            # One host that broke is one reason, not one for each of its checks.
            same = (result.host, result.message)
            if result.outcome is not Outcome.ERROR or same not in lost:
                yield from _not_passed(plan, host, result)
            if result.outcome is Outcome.ERROR:
                lost.add(same)
    yield from reasons
    yield from waived.notes()
    if people.waivers:
        yield from _proven(evidence, hosts)


def _passed(evidence: Evidence, result: CheckResult) -> Iterator[Reason]:
    where = f"{result.package}: {result.check} on {result.host}"
    if result.cause is not Cause.OK:
        yield reject(f"{where}: passed, and yet {result.cause}.")
    if result.exit_status not in (None, 0):
        yield reject(f"{where}: passed, and yet its exit status is {result.exit_status}.")
    if result.log is not None and result.log not in evidence.logs:
        yield reject(f"{where}: the evidence does not have its log {result.log}.")


def _not_passed(plan: Plan, host: Host, result: CheckResult) -> Iterator[Reason]:
    where = f"{result.package}: {result.check} on {result.host}"
    again = f"pytest --recipe {plan.recipe} --matrix {plan.matrix.name} --on {host.name}"
    if result.outcome is Outcome.FAILED:
        yield reject(f"{where} failed ({result.cause}). {result.message}".rstrip(), help=again)
    elif not host.required or host.standin:
        return
    elif result.outcome is Outcome.ERROR:
        yield unsure(f"{where}: could not be found out. {result.message}".rstrip(), help=again)
    elif result.cause is not Cause.NOT_SELECTED:
        yield unsure(
            f"{where} was skipped ({result.cause}), and a skip never satisfies a required"
            f" host. {result.message}".rstrip(),
            help=again,
        )


def _proven(evidence: Evidence, hosts: dict[str, Host]) -> Iterator[Reason]:
    """Waivers may not leave a package without anything that passed."""
    for planned in evidence.plan.packages:
        tests = checks.proving(planned.sections)
        if not any(
            result.outcome is Outcome.PASSED
            and (result.package, result.check in tests) == (planned.artifact.key, True)
            and (host := hosts.get(result.host)) is not None
            and host.required
            and not host.standin
            for result in evidence.results
        ):
            yield unsure(f"{planned.artifact.key}: with what is waived, nothing is proven of it.")


def hosts(evidence: Evidence) -> Iterator[Reason]:
    """Yield where something passed on a host that was not reached, or with other bytes."""
    records = {record.name: record for record in evidence.hosts}
    names = [host.name for host in evidence.plan.matrix.hosts]
    if sorted(records) != sorted(names) or len(records) != len(evidence.hosts):
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
            if record is None or record.state not in REACHED:
                state = record.state if record else "unknown"
                yield reject(f"{planned.artifact.key}: it passed on {name}, which is {state}.")
            elif not _same_bytes(record, planned):
                yield reject(
                    f"{planned.artifact.key}: on {name}, other bytes were installed than those"
                    " of the plan."
                )


def _same_bytes(record: HostRecord, planned: PlannedPackage) -> bool:
    """Say whether each environment of a package was made from the very file of the plan."""
    artifact = planned.artifact
    environments = [
        environment
        for key, environment in record.environments.items()
        if key == artifact.key or key.startswith(f"{artifact.key} ")  # of a further test section
    ]
    return bool(environments) and all(
        [one.sha256 for one in environment.packages if one.name == artifact.name]
        == [artifact.sha256]
        for environment in environments
    )
