"""Where conda-build would have passed what proves nothing here, told in a run's results.

A policy may accept them by name; nothing else about them is a matter of taste.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from pytest_manualbuild.checks import proving
from pytest_manualbuild.model import Cause, CheckResult, Outcome, Plan


class Kind(StrEnum):
    """What conda-build passes and we do not."""

    NOTHING_RAN = "nothing-ran"  # no test at all: it does not even install the package then
    EXIT_0 = "exit-0"  # a command ended the shell well, and hid those after it


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One such case."""

    kind: Kind
    host: str
    package: str
    """The artifact's key."""
    sentence: str


def found(plan: Plan, results: Iterable[CheckResult]) -> Iterator[Deviation]:
    """Yield where the results of a run would have passed in conda-build, and do not here."""
    bare = {planned.artifact.key for planned in plan.packages if not proving(planned.sections)}
    for (host, package), group in groupby(results, key=lambda one: (one.host, one.package)):
        theirs = list(group)
        hidden = [one for one in theirs if one.cause is Cause.EXIT_0]
        if hidden and all(
            one.outcome is Outcome.PASSED or one.cause is Cause.EXIT_0 for one in theirs
        ):
            yield Deviation(
                kind=Kind.EXIT_0,
                host=host,
                package=package,
                sentence=f"{len(hidden)} commands never ran, since their shell ended before them"
                " with exit status 0; conda-build passes that.",
            )
        if package in bare and all(one.outcome is Outcome.PASSED for one in theirs):
            yield Deviation(
                kind=Kind.NOTHING_RAN,
                host=host,
                package=package,
                sentence="Nothing but its installation was tested; conda-build passes that.",
            )
