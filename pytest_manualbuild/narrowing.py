"""Says in sentences why a run did not cover its plan, or the plan not its matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import pytest

from pytest_manualbuild.body import left_out
from pytest_manualbuild.model import CheckKey
from pytest_manualbuild.records import Cause, CheckResult, HostRecord


def reasons(
    session: pytest.Session,
    status: int,
    *,
    planned: Collection[CheckKey],
    selected: set[CheckKey],
    results: Mapping[CheckKey, CheckResult],
    records: Iterable[HostRecord],
) -> tuple[str, ...]:
    """Return the reasons; none means that the run proves all that it can."""
    found = []
    on = session.config.option.mb_on
    if on is not None:
        found.append(left_out(on))
    in_part = sum(1 for one in results.values() if one.cause is Cause.NOT_SELECTED)
    unselected = len(planned) - len(selected) + in_part
    if unselected:
        found.append(f"{unselected} of {len(planned)} checks were not selected (-k, --lf...).")
    found += [
        f"{record.name} was not a fresh host: run {record.reused[:12]} had kept it."
        for record in records
        if record.reused
    ]
    unheard = sum(1 for key in selected if key not in results)
    if session.shouldfail:
        found.append(f"The run stopped early: {session.shouldfail} (-x).")
    elif status == pytest.ExitCode.INTERRUPTED:
        found.append("The run was interrupted.")
    elif unheard:
        found.append(f"{unheard} checks have no result: a worker crashed or the run was cut.")
    return tuple(found)
