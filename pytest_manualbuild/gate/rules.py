"""The gate: evidence, packages, matrix and policy in, a verdict with every reason out.

Pure: it reads no file and asks no clock. It refuses what it does not know, and
it goes on after the first reason, so that one reading tells all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import matrix as matrices
from pytest_manualbuild import plan as planning
from pytest_manualbuild.checks import checks, of_the_package
from pytest_manualbuild.commits import Reviewed
from pytest_manualbuild.errors import ManualBuildError
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.gate import coherence, history, outcomes
from pytest_manualbuild.gate import people as persons
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.agreement import differences
from pytest_manualbuild.gate.people import People
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Decision, Reason, Verdict, note
from pytest_manualbuild.gate.verdict import reject as _reject
from pytest_manualbuild.gate.verdict import unsure as _unsure
from pytest_manualbuild.model import Artifact, Output, TestSection
from pytest_manualbuild.recipe.rattler_tests import shipped
from pytest_manualbuild.records import Cause, Finding, Severity
from pytest_manualbuild.reports.junit import Case as JunitCase

CLOCK_SKEW = timedelta(minutes=10)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One package of the evidence, as it lies there now."""

    key: str
    artifact: Artifact | None
    """None: the file is not there, or cannot be read; ``problem`` says why."""
    problem: str = ""
    carried: tuple[TestSection, ...] | None = None
    """The tests of the recipe inside the package; None when it carries none."""
    altered: tuple[str, ...] = ()
    """How its ``info/test`` differs from them, or why they cannot be read, in sentences."""
    shipped: tuple[TestSection, ...] | None = None
    """Those of its ``info/tests/tests.yaml``, which rattler-build writes and runs."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """sha256 of its files by path, where it has ``info/tests/tests.yaml``."""
    reviewed: Output | None = None
    """The package as the recipe that is kept with the evidence describes it."""
    findings: tuple[Finding, ...] = ()
    """What the audit finds in the file now."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run, and what lies in its folder now."""

    stored: Stored
    junit: tuple[JunitCase, ...] | None
    """None: the report cannot be read."""
    junit_difference: str = ""
    """Where it is not the report that is written of this evidence, in words."""
    missing: frozenset[str] = frozenset()
    """Files of a run that are not there."""
    junit_sha256: str
    matrix_text: str
    recipe_sha256: str
    logs: dict[str, str]
    reviewed: Reviewed | None = None
    """What the clone that the policy names says of the recipe's commit; None: it was not asked."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the gate looks at."""

    stored: Stored
    """What the runs say together."""
    runs: tuple[Run, ...]
    packages: tuple[Found, ...]
    people: People
    policy: Policy
    now: datetime
    published: bool = False
    """The packages are out already: a report of them does not get too old."""


def judge(case: Case) -> Verdict:
    """Judge evidence; every rule runs, and every reason is in the verdict."""
    found = [
        reason if reason.help or reason.decision is Decision.ACCEPT else replace(reason, help=help_)
        for rule, help_ in _RULES
        for reason in rule(case)
    ]
    reasons = [reason for reason in found if reason.decision is not Decision.ACCEPT]
    decisions = {reason.decision for reason in reasons}
    decision = (
        Decision.REJECT
        if Decision.REJECT in decisions
        else Decision.INCONCLUSIVE
        if decisions
        else Decision.ACCEPT
    )
    names = {planned.artifact.name for planned in case.stored.evidence.plan.packages}
    return Verdict(
        decision=decision,
        reasons=tuple(dict.fromkeys(reasons)),
        notes=tuple(dict.fromkeys(one.text for one in found if one.decision is Decision.ACCEPT)),
        packages=tuple(
            (one.key, one.artifact.sha256 if one.artifact else "") for one in case.packages
        ),
        evidence_sha256=case.people.evidence_sha256,
        policy_sha256=policies.digest(case.policy, names),
    )


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


def _identity(run: Run) -> Iterator[Reason]:
    """The parts belong together: plan, matrix, recipe, logs."""
    evidence = run.stored.evidence
    if run.stored.plan_sha256 != evidence.plan_sha256:
        yield _reject("The plan in the evidence is not the one that its digest names.")
    yield from _matrix(run)
    if run.recipe_sha256 != evidence.plan.recipe_sha256:
        yield _reject("The recipe kept with the evidence is not the one that was run.")
    went = {cell.host for cell in evidence.plan.cells}
    for name in sorted({result.host for result in evidence.results} - went):
        yield _reject(f"There are results of {name}, and the run's plan did not go there.")
    for name in sorted(evidence.logs.keys() | run.logs.keys()):
        if name not in run.logs:
            yield _reject(f"The log {name} is missing.")
        elif evidence.logs.get(name) != run.logs[name]:
            yield _reject(f"The log {name} is not the one that the run wrote.")


def _matrix(run: Run) -> Iterator[Reason]:
    planned = run.stored.evidence.plan.matrix
    if "matrix.toml" in run.missing:
        yield _reject("The matrix kept with the evidence is missing: matrix.toml.")
        return
    try:
        hosts = matrices.parse(run.matrix_text, "matrix.toml")
    except ManualBuildError as error:
        yield _reject(f"The matrix kept with the evidence cannot be read: {error.problem}")
    else:
        if replace(hosts, name=planned.name) != planned:
            yield _reject("The matrix kept with the evidence is not the one that was run.")


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
    names = set(artifact.__struct_fields__) - {"path"}
    return {name: getattr(artifact, name) for name in names}


def _tests(case: Case) -> Iterator[Reason]:
    """What was planned is what the reviewed recipe says and what the package carries."""
    plan = case.stored.evidence.plan
    for found in case.packages:
        planned = plan.package(found.key)
        if found.artifact is None:
            continue
        if planned.checks != checks(planned.sections):
            yield _reject(f"{found.key}: the planned checks are not those of its test sections.")
        if found.reviewed is None:
            yield _reject(f"{found.key}: the recipe kept with the evidence does not describe it.")
        elif found.reviewed.sections != planned.sections:
            yield _reject(f"{found.key}: the recipe kept with the evidence has other tests.")
        elif found.reviewed.needs != planned.needs:
            planned_needs, needs = (
                ", ".join(names) or "nothing" for names in (planned.needs, found.reviewed.needs)
            )
            yield _reject(
                f"{found.key}: the plan says that its tests need {planned_needs} of a host, the"
                f" recipe kept with the evidence {needs}."
            )
        if found.carried is None and found.altered:
            yield from (_reject(f"{found.key}: {problem}") for problem in found.altered)
        elif found.carried is None:
            yield _reject(
                f"{found.key}: the package carries no recipe, so its tests cannot be compared;"
                " build it with its recipe inside."
            )
        else:
            tests = of_the_package(planned.sections)
            inside = differences(tests, found.carried, "the recipe inside the package")
            for difference in (*inside, *found.altered):
                yield _reject(f"{found.key}: {difference}")


def _shipped(case: Case) -> Iterator[Reason]:
    """What rattler-build would run from the package is what the reviewed recipe says."""
    for found in case.packages:
        sections = of_the_package(case.stored.evidence.plan.package(found.key).sections)
        if found.artifact is None or not sections or not sections[0].schema:
            continue
        for difference in differences(
            shipped(sections), found.shipped or (), "info/tests/tests.yaml of the package"
        ):
            yield _reject(f"{found.key}: {difference}")
        for section in sections:
            for file in section.files:
                path = f"{section.cwd}/{file.path}"
                if found.files.get(path) != file.sha256:
                    yield _reject(f"{found.key}: its test file {path} is not the reviewed one.")


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
        for check in checks(plan.package(cell.package).sections)
    ]
    for host, package, check in wanted:
        if counted[host, package, check] != 1:
            yield _reject(
                f"{package}: {check} on {host}: {counted[host, package, check]} results, 1 needed."
            )
    for host, package, check in counted.keys() - set(wanted):
        yield _reject(f"{package}: {check} on {host}: a result that nobody planned.")
    yield from outcomes.outcomes(case.stored, case.people, case.policy, case.now)
    yield from outcomes.hosts(evidence)
    for artifact in artifacts:
        judged = [h for h in plan.matrix.hosts if h.decides]
        if not any(artifact.subdir in (host.subdir, "noarch") for host in judged):
            yield _unsure(
                f"{artifact.key}: the matrix {plan.matrix.name!r} requires no host for"
                f" {artifact.subdir}; run with a --matrix that does."
            )


def _junit(run: Run) -> Iterator[Reason]:
    """The JUnit report says the same."""
    evidence = run.stored.evidence
    if "junit.xml" in run.missing:
        yield _reject("junit.xml is missing.")
        return
    if run.junit_sha256 != evidence.junit_sha256:
        yield _reject("junit.xml is not the report that the evidence names.")
    if run.junit is None:
        yield _reject("junit.xml cannot be read.")
        return
    hashes = {p.artifact.key: p.artifact.sha256 for p in evidence.plan.packages}
    ours = Counter((r.host, r.package, r.check, r.outcome) for r in evidence.results)
    theirs = Counter((c.host, c.artifact, c.check, c.outcome) for c in run.junit)
    for host, package, check, outcome in sorted((theirs - ours).keys() | (ours - theirs).keys()):
        yield _reject(
            f"junit.xml and the evidence differ: {package}: {check} on {host}: {outcome}."
        )
    if any(hashes.get(c.artifact) != c.sha256 for c in run.junit):
        yield _reject("junit.xml is about other bytes.")
    elif ours == theirs and run.junit_difference:
        yield _reject(f"junit.xml and the evidence differ: {run.junit_difference}.")


def _coherent(run: Run) -> Iterator[Reason]:
    """No part of what the run says gainsays another."""
    wrote = {(case.host, case.artifact, case.check) for case in run.junit or () if case.wrote}
    yield from coherence.contradictions(run.stored, wrote)


def _age(case: Case) -> Iterator[Reason]:
    """No run is from the future, and none too old."""
    for run in case.runs:
        yield from _times(case, run.stored.evidence)


def _times(case: Case, evidence: Evidence) -> Iterator[Reason]:
    try:
        started = datetime.fromisoformat(evidence.started)
        finished = datetime.fromisoformat(evidence.finished)
        if finished < started:
            yield _reject("The run ended before it started.")
        if finished > case.now + CLOCK_SKEW:
            yield _reject(f"The run is from the future ({evidence.finished}).")
        days = case.policy.gate.max_age_days
        if days is not None and not case.published and case.now - finished > timedelta(days=days):
            yield _reject(f"The run is older than the policy's {days} days ({evidence.finished}).")
    except (ValueError, TypeError):
        yield _reject("The times of the run are not valid.")


def _unused(case: Case) -> Iterator[Reason]:
    """No run was used with another report."""
    if case.policy.ledger is not None:
        runs = [run.stored.evidence.run_id for run in case.runs]
        for fault in case.policy.ledger.faults(runs, case.people.evidence_sha256):
            yield _reject(f"The policy's ledger: {fault}.")


def _policy(case: Case) -> Iterator[Reason]:
    """The matrix is the policy's, and the packages are enabled."""
    policy, plan = case.policy, case.stored.evidence.plan
    if policy.matrix is not None and policy.matrix.sha256 != plan.matrix.sha256:
        yield _reject(
            f"The policy wants the matrix {policy.matrix.name!r}, and another one was run."
        )
    yield from persons.enabled(case.people, policy, plan, case.now.date())


def _people(case: Case) -> Iterator[Reason]:
    """The runner signed, and enough others approved."""
    yield from persons.runner(case.people, case.policy)
    yield from persons.approvals(case.people, case.policy, case.stored)


def _history(case: Case) -> Iterator[Reason]:
    """The recipe is one that was reviewed."""
    for run in case.runs:
        yield from history.reviewed(run.stored.evidence, case.policy, run.reviewed)


def _audit(case: Case) -> Iterator[Reason]:
    """The packages hold nothing that must not go out."""
    for found in case.packages:
        if found.artifact is None:
            continue
        for raw in found.findings:
            finding = policies.weigh(case.policy, found.artifact.name, raw, case.now.date())
            where = f"{found.key}: {finding.code}: " + f"{finding.file}: " * bool(finding.file)
            if finding.severity is Severity.ERROR:
                yield _reject(where + finding.message, help=finding.remedy)
            else:
                yield note(f"{finding.severity}: {where}{finding.message}")


def _each(rule: Callable[[Run], Iterator[Reason]]) -> Callable[[Case], Iterator[Reason]]:
    """Make a rule about one run a rule about every run."""
    return lambda case: (reason for run in case.runs for reason in rule(run))


_RUN = "Run all of it again, and change nothing in the folder: pytest --recipe ... --matrix ..."
_BUILD = "Build it again from the recipe that was reviewed, then run its tests."
_RULES: tuple[tuple[Callable[[Case], Iterator[Reason]], str], ...] = (
    (_whole, _RUN),
    (_each(_identity), _RUN),
    (_packages, "Give the files that were tested with --artifacts, or run the tests of these."),
    (_tests, _BUILD),
    (_shipped, _BUILD),
    (_results, _RUN),
    (_each(_junit), _RUN),
    (_each(_coherent), _RUN),
    (_age, _RUN),
    (_unused, _RUN),
    (_policy, "The policy is to be changed by those who review it: manualbuild policy check FILE"),
    (_people, persons.SIGN),
    (_history, history.COMMIT),
    (_audit, "Build it again."),
)
