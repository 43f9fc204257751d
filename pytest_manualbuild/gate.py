"""The gate: evidence, packages, matrix and policy in, a verdict with every reason out.

Pure: it reads no file and asks no clock. It refuses what it does not know, and
it goes on after the first reason, so that one reading tells all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from pytest_manualbuild import matrix as matrices
from pytest_manualbuild import plan as planning
from pytest_manualbuild.errors import ManualBuildError
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.model import Artifact, Cause, Check, Outcome, TestSection
from pytest_manualbuild.policy import Policy
from pytest_manualbuild.recipe import specs
from pytest_manualbuild.reports.junit import Case as JunitCase

CLOCK_SKEW = timedelta(minutes=10)


class Decision(StrEnum):
    """What the gate says."""

    ACCEPT = "accept"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One reason why packages may not go out, in a sentence."""

    decision: Decision
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate's decision and every reason for it."""

    decision: Decision
    reasons: tuple[Reason, ...]
    packages: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 accept, 1 reject, 8 inconclusive."""
        return {Decision.ACCEPT: 0, Decision.REJECT: 1, Decision.INCONCLUSIVE: 8}[self.decision]

    def text(self) -> str:
        """Return the verdict in lines for people."""
        lines = [f"{self.decision.upper()}: {', '.join(self.packages) or 'no package'}"]
        lines += [f"  - {reason.text}" for reason in self.reasons]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One package of the evidence, as it lies there now."""

    key: str
    artifact: Artifact | None
    """None: the file is not there, or cannot be read; ``problem`` says why."""
    problem: str = ""
    carried: TestSection | None = None
    """The tests of the recipe inside the package; None when it carries none."""
    altered: tuple[str, ...] = ()
    """How its ``info/test`` differs from them, or why they cannot be read, in sentences."""
    reviewed: TestSection | None = None
    """The tests of the recipe that is kept with the evidence."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that the gate looks at."""

    stored: Stored
    packages: tuple[Found, ...]
    junit: tuple[JunitCase, ...] | None
    """None: the report cannot be read."""
    junit_sha256: str
    matrix_text: str
    recipe_sha256: str
    logs: dict[str, str]
    policy: Policy
    now: datetime


def judge(case: Case) -> Verdict:
    """Judge evidence; every rule runs, and every reason is in the verdict."""
    reasons = [
        reason
        for rule in (_whole, _identity, _packages, _tests, _results, _junit, _age, _policy)
        for reason in rule(case)
    ]
    decisions = {reason.decision for reason in reasons}
    decision = (
        Decision.REJECT
        if Decision.REJECT in decisions
        else Decision.INCONCLUSIVE
        if decisions
        else Decision.ACCEPT
    )
    keys = tuple(found.key for found in case.packages)
    return Verdict(decision=decision, reasons=tuple(dict.fromkeys(reasons)), packages=keys)


def _reject(text: str) -> Reason:
    return Reason(decision=Decision.REJECT, text=text)


def _unsure(text: str) -> Reason:
    return Reason(decision=Decision.INCONCLUSIVE, text=text)


def _whole(case: Case) -> Iterator[Reason]:
    """The run covered its plan."""
    evidence = case.stored.evidence
    for sentence in evidence.narrowed:
        yield _reject(f"The run did not cover the plan: {sentence}")
    if not evidence.complete and not evidence.narrowed:
        yield _reject("The run did not come to its end.")
    if not evidence.plan.packages:
        yield _unsure("The evidence names no package.")
    if any(result.cause is Cause.NOT_SELECTED for result in evidence.results) and (
        not evidence.narrowed
    ):
        yield _reject("Checks were left out of the run, and the evidence does not say so.")


def _identity(case: Case) -> Iterator[Reason]:
    """The parts belong together: plan, matrix, recipe, logs."""
    evidence = case.stored.evidence
    if planning.digest(evidence.plan) != evidence.plan_sha256:
        yield _reject("The plan in the evidence is not the one that its digest names.")
    try:
        hosts = matrices.parse(case.matrix_text, "matrix.toml")
    except ManualBuildError as error:
        yield _reject(f"The matrix kept with the evidence cannot be read: {error.problem}")
    else:
        planned = evidence.plan.matrix
        if (hosts.sha256, hosts.hosts) != (planned.sha256, planned.hosts):
            yield _reject("The matrix kept with the evidence is not the one that was run.")
    if case.recipe_sha256 != evidence.plan.recipe_sha256:
        yield _reject("The recipe kept with the evidence is not the one that was run.")
    for name in sorted(evidence.logs.keys() | case.logs.keys()):
        if evidence.logs.get(name) != case.logs.get(name):
            yield _reject(f"The log {name} is not the one that the run wrote.")


def _packages(case: Case) -> Iterator[Reason]:
    """The packages are the very bytes that were tested."""
    plan = case.stored.evidence.plan
    keys = {planned.artifact.key: planned.artifact for planned in plan.packages}
    if len(keys) != len(plan.packages):
        yield _reject("A package stands in the plan twice.")
    if {key: artifact.sha256 for key, artifact in keys.items()} != case.stored.subjects:
        yield _reject("The evidence is about other packages than its plan.")
    for found in case.packages:
        planned = keys[found.key]
        if found.artifact is None:
            yield _reject(f"{found.key}: {found.problem}")
        elif found.artifact.sha256 != planned.sha256:
            yield _reject(
                f"{found.key}: these are other bytes (sha256 {found.artifact.sha256[:16]}…) than"
                f" those that were tested ({planned.sha256[:16]}…)."
            )
        elif _without_path(found.artifact) != _without_path(planned):
            yield _reject(f"{found.key}: the plan describes the package wrongly.")


def _without_path(artifact: Artifact) -> dict[str, object]:
    names = artifact.__dataclass_fields__.keys() - {"path"}
    return {name: getattr(artifact, name) for name in names}


def _tests(case: Case) -> Iterator[Reason]:
    """What was planned is what the reviewed recipe says and what the package carries."""
    plan = case.stored.evidence.plan
    for found in case.packages:
        planned = plan.package(found.key)
        if found.artifact is None:
            continue
        if planned.checks != planning.checks(planned.section):
            yield _reject(f"{found.key}: the planned checks are not those of its test section.")
        if found.reviewed is None:
            yield _reject(f"{found.key}: the recipe kept with the evidence does not describe it.")
        elif found.reviewed != planned.section:
            yield _reject(f"{found.key}: the recipe kept with the evidence has other tests.")
        if found.carried is None and found.altered:
            yield from (_reject(f"{found.key}: {problem}") for problem in found.altered)
        elif found.carried is None:
            yield _reject(
                f"{found.key}: the package carries no recipe, so its tests cannot be compared;"
                " build it with its recipe inside."
            )
        else:
            for difference in (*_differences(planned.section, found.carried), *found.altered):
                yield _reject(f"{found.key}: {difference}")
        if len(planned.checks) == 1:
            yield _unsure(f"{found.key}: its recipe has no tests: only `install` is proven.")


def _differences(reviewed: TestSection, carried: TestSection) -> Iterator[str]:
    ours, theirs = planning.checks(reviewed), planning.checks(carried)
    for check in _only(ours, theirs):
        yield f"the recipe inside the package lacks the check {check.name!r}."
    for check in _only(theirs, ours):
        yield f"the recipe inside the package has another check {check.name!r}."
    if ours == theirs:
        for name in ("scripts", "files", "source_files", "downstreams", "commands"):
            if getattr(reviewed, name) != getattr(carried, name):
                yield f"the recipe inside the package has other test {name}."
        if not specs.agree(reviewed.requires, carried.requires):
            yield "the recipe inside the package has other test requires."


def _only(these: Sequence[Check], those: Sequence[Check]) -> list[Check]:
    left = Counter((check.name, check.text) for check in those)
    only = []
    for check in these:
        if left[check.name, check.text]:
            left[check.name, check.text] -= 1
        else:
            only.append(check)
    return only


def _results(case: Case) -> Iterator[Reason]:
    """Each check has one result on each host, and it passed wherever it is required."""
    evidence = case.stored.evidence
    plan = evidence.plan
    artifacts = [planned.artifact for planned in plan.packages]
    cells = planning.cells(plan.matrix.hosts, artifacts)
    if set(plan.cells) != set(cells) or len(plan.cells) != len(cells):
        yield _reject("The plan does not send every package to every host of the matrix.")
    counted = Counter((r.host, r.package, r.check) for r in evidence.results)
    wanted = [
        (cell.host, cell.package, check.name)
        for cell in cells
        for check in planning.checks(plan.package(cell.package).section)
    ]
    for host, package, check in wanted:
        if counted[host, package, check] != 1:
            yield _reject(
                f"{package}: {check} on {host}: {counted[host, package, check]} results, 1 needed."
            )
    for host, package, check in counted.keys() - set(wanted):
        yield _reject(f"{package}: {check} on {host}: a result that nobody planned.")
    yield from _outcomes(evidence)
    for artifact in artifacts:
        judged = [h for h in plan.matrix.hosts if h.required and not h.standin]
        if not any(artifact.subdir in (host.subdir, "noarch") for host in judged):
            yield _unsure(
                f"{artifact.key}: the matrix {plan.matrix.name!r} requires no host for"
                f" {artifact.subdir}; run with a --matrix that does."
            )
    said = {r.outcome for r in evidence.results}
    status = evidence.exit_status
    if (status == 0 and said & {Outcome.FAILED, Outcome.ERROR}) or status not in (0, 1, 8, 16):
        yield _reject(f"The exit status of the run ({status}) does not fit its results.")


def _outcomes(evidence: Evidence) -> Iterator[Reason]:
    hosts = {host.name: host for host in evidence.plan.matrix.hosts}
    lost: set[tuple[str, str]] = set()
    for result in evidence.results:
        host = hosts.get(result.host)
        if host is None or result.outcome is Outcome.PASSED:
            if result.cause is not Cause.OK and result.outcome is Outcome.PASSED:
                yield _reject(f"{result.check} on {result.host}: passed, and yet {result.cause}.")
            continue
        where = f"{result.package}: {result.check} on {result.host}"
        if result.outcome is Outcome.FAILED:
            yield _reject(f"{where} failed ({result.cause}). {result.message}".rstrip())
        elif not host.required or host.standin:
            continue
        elif result.outcome is Outcome.ERROR:
            # One host that broke is one reason, not one for each of its checks.
            if (result.host, result.message) not in lost:
                lost.add((result.host, result.message))
                yield _unsure(f"{where}: could not be found out. {result.message}".rstrip())
        elif result.cause is not Cause.NOT_SELECTED:
            yield _unsure(
                f"{where} was skipped ({result.cause}), and a skip never satisfies a required"
                f" host. {result.message}".rstrip()
            )


def _junit(case: Case) -> Iterator[Reason]:
    """The JUnit report says the same."""
    evidence = case.stored.evidence
    if case.junit_sha256 != evidence.junit_sha256:
        yield _reject("junit.xml is not the report that the evidence names.")
    if case.junit is None:
        yield _reject("junit.xml cannot be read.")
        return
    hashes = {p.artifact.key: p.artifact.sha256 for p in evidence.plan.packages}
    ours = Counter((r.host, r.package, r.check, r.outcome) for r in evidence.results)
    theirs = Counter((c.host, c.artifact, c.check, c.outcome) for c in case.junit)
    for host, package, check, outcome in sorted((theirs - ours).keys() | (ours - theirs).keys()):
        yield _reject(
            f"junit.xml and the evidence differ: {package}: {check} on {host}: {outcome}."
        )
    if any(hashes.get(c.artifact) != c.sha256 for c in case.junit):
        yield _reject("junit.xml is about other bytes.")


def _age(case: Case) -> Iterator[Reason]:
    """The run is not from the future, and not too old."""
    evidence = case.stored.evidence
    try:
        started = datetime.fromisoformat(evidence.started)
        finished = datetime.fromisoformat(evidence.finished)
        if finished < started:
            yield _reject("The run ended before it started.")
        if finished > case.now + CLOCK_SKEW:
            yield _reject(f"The run is from the future ({evidence.finished}).")
        days = case.policy.gate.max_age_days
        if days is not None and case.now - finished > timedelta(days=days):
            yield _reject(f"The run is older than the policy's {days} days ({evidence.finished}).")
    except (ValueError, TypeError):
        yield _reject("The times of the run are not valid.")


def _policy(case: Case) -> Iterator[Reason]:
    """Whatever else the policy demands; what this version cannot check is refused."""
    policy, plan = case.policy, case.stored.evidence.plan
    if policy.matrix is not None and policy.matrix.sha256 != plan.matrix.sha256:
        yield _reject(
            f"The policy wants the matrix {policy.matrix.name!r}, and another one was run."
        )
    if policy.gate.approvals or policy.signers.allowed_signers:
        yield _unsure("The policy wants signatures, which this version cannot check.")
    if policy.enabled:
        for planned in plan.packages:
            yield from _enabled(planned.artifact, policy, case.now.date())


def _enabled(artifact: Artifact, policy: Policy, today: date) -> Iterator[Reason]:
    rows = [row for row in policy.enabled if row.package == artifact.name]
    if not rows:
        yield _reject(f"{artifact.key}: the policy does not enable {artifact.name}.")
    elif not any(row.until is None or _not_passed(row.until, today) for row in rows):
        yield _reject(f"{artifact.key}: the policy enabled {artifact.name} until {rows[-1].until}.")
    if any(row.builders for row in rows):
        yield _unsure(f"{artifact.key}: the policy names builders; this version knows none.")


def _not_passed(until: str, today: date) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", until):
        return False
    try:
        return date.fromisoformat(until) >= today
    except ValueError:
        return False
