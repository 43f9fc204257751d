"""Where conda-build would have passed what proves nothing here, told in a run's results.

A policy may accept them by name; nothing else about them is a matter of taste.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from pytest_manualbuild.checks import proving
from pytest_manualbuild.model import CheckKind, Plan, PlannedPackage
from pytest_manualbuild.records import Cause, CheckResult, Outcome


class Kind(StrEnum):
    """What conda-build passes and we do not."""

    NOTHING_RAN = "nothing-ran"  # no test at all: it does not even install the package then
    EXIT_0 = "exit-0"  # a command ended the shell well, and hid those after it
    UNSOLVABLE = "downstream-unsolvable"  # no environment has a downstream package beside ours


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One such case."""

    kind: Kind
    host: str
    package: str
    """The artifact's key."""
    sentence: str
    checks: tuple[str, ...] = ()
    """Names of the checks that did not run, and that nothing else keeps from passing."""


def found(plan: Plan, results: Iterable[CheckResult]) -> Iterator[Deviation]:
    """Yield where the results of a run would have passed in conda-build, and do not here.

    One that failed, or that could not be found out, is never among them, nor is anything beside
    it of the same package on the same host.
    """
    known = {planned.artifact.key: planned for planned in plan.packages}
    grouped: dict[tuple[str, str], list[CheckResult]] = {}
    for result in results:
        if result.package in known:
            grouped.setdefault((result.host, result.package), []).append(result)
    for (host, package), theirs in grouped.items():
        planned = known[package]
        hidden, alone = _hidden(planned, theirs), _alone(planned, theirs)
        if not all(_passed(one) or one.check in hidden | alone for one in theirs):
            continue
        if hidden:
            yield Deviation(
                kind=Kind.EXIT_0,
                host=host,
                package=package,
                sentence=f"{len(hidden)} commands never ran, since their shell ended before them"
                " with exit status 0; conda-build passes that.",
                checks=tuple(one.check for one in theirs if one.check in hidden),
            )
        if alone:
            yield Deviation(
                kind=Kind.UNSOLVABLE,
                host=host,
                package=package,
                sentence=f"The tests of {len(alone)} downstream packages were not run, since no"
                " environment can hold them beside this one; conda-build and rattler-build only"
                " warn.",
                checks=tuple(one.check for one in theirs if one.check in alone),
            )
        if not proving(planned.sections) - hidden - alone:
            yield Deviation(
                kind=Kind.NOTHING_RAN,
                host=host,
                package=package,
                sentence="Nothing but its installation was tested; conda-build passes that.",
            )


def _hidden(planned: PlannedPackage, results: Sequence[CheckResult]) -> frozenset[str]:
    """Return the checks that can only be hidden: what ended their shell passed before them."""
    by_name = {result.check: result for result in results}
    hidden, ended = set(), set()
    for check in planned.checks:
        result = by_name.get(check.name)
        if result is None or check.language != "shell":
            continue
        if result.outcome is Outcome.PASSED:
            ended.add(check.section)
        elif (result.outcome, result.cause) == (Outcome.SKIPPED, Cause.EXIT_0) and (
            check.section in ended
        ):
            hidden.add(check.name)
    return frozenset(hidden)


def _alone(planned: PlannedPackage, results: Sequence[CheckResult]) -> frozenset[str]:
    """Return the checks of downstream packages that cannot be beside the package."""
    beside = {check.name for check in planned.checks if check.kind is CheckKind.DOWNSTREAM}
    return frozenset(
        one.check
        for one in results
        if one.check in beside and (one.outcome, one.cause) == (Outcome.SKIPPED, Cause.UNSOLVABLE)
    )


def _passed(result: CheckResult) -> bool:
    return result.outcome is Outcome.PASSED
