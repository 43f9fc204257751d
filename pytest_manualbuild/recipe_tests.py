"""A recipe's own test functions (``--recipe-tests``): ordinary pytest functions on every host.

pytest collects and runs them in this process; only the names that the plan has may run, from the
very bytes that it has. One function is one check of a package on a host, however many parameters
it has: it passed when all of them passed.
"""

from __future__ import annotations

import hashlib
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from msgspec.structs import replace

from pytest_manualbuild import recipe_fixtures
from pytest_manualbuild.errors import HostError
from pytest_manualbuild.execution.ready import cause_of
from pytest_manualbuild.execution.visit import Visit
from pytest_manualbuild.model import CheckKey, Plan
from pytest_manualbuild.nodes import PROPERTY, RecipeNode
from pytest_manualbuild.recipe_fixtures import CELL
from pytest_manualbuild.records import Cause, CheckResult, Outcome
from pytest_manualbuild.reports.text import tail

_CASE = re.compile(r"^[^:]+::(?P<check>tests/[^\[]+)\[(?P<host>[^/\[\]]+)/(?P<label>[^/]+)/")
_MOST_TEXT = 64 * 1024
_WORST = (Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED, Outcome.PASSED)


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """What the functions need of the session."""

    visit: Callable[[CheckKey], AbstractContextManager[Visit | None]]
    """Gives the host of a check, or None where its result is there already."""
    result: Callable[[CheckKey], CheckResult]
    give: Callable[[CheckResult], None]
    check_s: float
    """How long one function may take, in seconds."""


class RecipeTests:
    """The plugin that collects and runs the functions."""

    def __init__(self, config: pytest.Config, plan: Plan, runner: Runner) -> None:
        """Import nothing yet."""
        config.pluginmanager.register(recipe_fixtures, "manualbuild-recipe-fixtures")
        # One file of that name may be in many recipes; and none is to be written into them.
        config.option.importmode = "importlib"
        sys.dont_write_bytecode = True
        self._plan = plan
        self._runner = runner
        self._labels = {one.label: one.artifact.key for one in plan.packages}
        self._modules = {
            file.path: file.sha256
            for package in plan.packages
            for section in package.sections
            for file in section.modules
        }
        self._made: Counter[CheckKey] = Counter()
        self._selected: Counter[CheckKey] = Counter()
        self._here: Visit | None = None
        self._over: Counter[CheckKey] = Counter()
        self._cases: dict[CheckKey, dict[str, CheckResult]] = {}

    def key(self, nodeid: str) -> CheckKey | None:
        """Return the check that a node id is a case of; None for other items."""
        if (found := _CASE.match(nodeid)) is None:
            return None
        return found["host"], self._labels.get(found["label"], ""), found["check"]

    def items(self, session: pytest.Session, root: RecipeNode) -> Iterator[pytest.Item]:
        """Import the files, and yield an item for each function, package and host."""
        found: list[pytest.Item] = []
        for name, sha256 in self._modules.items():
            path = Path(self._plan.recipe) / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise pytest.UsageError(f"{path}: it changed since the run was planned.")
            module = pytest.Module.from_parent(
                root, path=path, name=name, nodeid=f"{root.nodeid}::{name}"
            )
            found += session.genitems(module)
        if not session.testsfailed:  # pytest says what cannot be imported, and stops
            self._made.update(key for item in found if (key := self.key(item.nodeid)))
            self._check(self._made.keys())
        yield from found

    def _check(self, made: Any) -> None:  # noqa: ANN401 # a view of keys
        planned = {
            (cell.host, cell.package, name)
            for cell in self._plan.cells
            for section in self._plan.package(cell.package).sections
            for name in section.functions
        }
        for _, _, check in sorted(made - planned):
            raise pytest.UsageError(
                f"{check}: it only came up while the file ran, so it is in no plan."
                " Write it as a function of the file itself."
            )
        for _, _, check in sorted(planned - made):
            raise pytest.UsageError(
                f"{check}: pytest does not take it for a test. Rename it, or make it one."
            )

    def select(self, items: Sequence[pytest.Item]) -> list[CheckKey]:
        """Note which cases were selected; return their checks."""
        self._selected = Counter(key for item in items if (key := self.key(item.nodeid)))
        return list(self._selected)

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each function on each host with each package."""
        if CELL in metafunc.fixturenames:
            labels = {one.artifact.key: one.label for one in self._plan.packages}
            cells = [(cell.host, cell.package) for cell in self._plan.cells]
            metafunc.parametrize(
                CELL,
                cells,
                indirect=True,
                ids=[f"{host}/{labels[package]}/" for host, package in cells],
                scope="session",
            )

    @contextmanager
    def visit(self, host: str, package: str) -> Iterator[Visit | None]:
        """Give a host to the functions that come next; None where they cannot run."""
        with self._runner.visit((host, package, "")) as there:
            self._here = there
            try:
                yield there
            finally:
                self._here = None

    def tell(self, item: pytest.Item) -> NoReturn:
        """End a function with the result that it has, as its host or environment is not there."""
        key = self.key(item.nodeid)
        if key is None:  # never: whoever is here has a host
            pytest.fail("This function has no host.", pytrace=False)
        result = self._runner.result(key)
        item.stash[_GIVEN] = result
        why = f"{result.cause}: {result.message}"
        if result.outcome is Outcome.SKIPPED:
            pytest.skip(why)
        pytest.fail(why, pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """End a function that takes too long."""
        limit_s = self._runner.check_s
        if self.key(item.nodeid) is None or threading.current_thread() is not _MAIN:
            return (yield)

        def end(*_: object) -> None:
            raise _TookTooLong(f"It ran longer than {limit_s:g} s.")

        before = signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Take what became of a case; the last one of a check carries the result of all."""
        report = yield
        key = self.key(item.nodeid)
        if key is None:
            return report
        cases = self._cases.setdefault(key, {})
        before = cases.get(item.nodeid)
        case = item.stash.get(_GIVEN, None) or _case(key, report, call)
        if self._here is not None and case.outcome in {Outcome.FAILED, Outcome.ERROR}:
            self._here.failures.append(item.nodeid)
        if before is None or _WORST.index(case.outcome) < _WORST.index(before.outcome):
            cases[item.nodeid] = case
        if report.when == "call":
            cases[item.nodeid] = replace(cases[item.nodeid], duration_s=round(report.duration, 3))
        if report.when == "teardown":
            self._over[key] += 1
            if self._over[key] == self._selected[key]:
                result = self._whole(key, cases)
                self._runner.give(result)
                text = msgspec.json.encode(result).decode()
                report.user_properties = [*report.user_properties, (PROPERTY, text)]
        return report

    def _whole(self, key: CheckKey, cases: dict[str, CheckResult]) -> CheckResult:
        """Return one result for all cases of a check: the worst."""
        worst = min(cases.values(), key=lambda one: _WORST.index(one.outcome))
        took_s = round(sum(one.duration_s for one in cases.values()), 3)
        left_out = self._made[key] - self._selected[key]
        if left_out and worst.outcome is Outcome.PASSED:
            return replace(
                worst,
                outcome=Outcome.SKIPPED,
                cause=Cause.NOT_SELECTED,
                message=f"{left_out} of its {self._made[key]} cases were not selected.",
                duration_s=took_s,
            )
        return replace(worst, duration_s=took_s)


class _TookTooLong(BaseException):
    """A function was ended, whatever exceptions it catches."""


_GIVEN: pytest.StashKey[CheckResult] = pytest.StashKey()
_MAIN = threading.main_thread()


def _case(key: CheckKey, report: pytest.TestReport, call: pytest.CallInfo[None]) -> CheckResult:
    """Return what one phase of one case says."""
    host, package, check = key
    raised = call.excinfo.value if call.excinfo is not None else None
    outcome, cause, message = Outcome.PASSED, Cause.OK, ""
    if report.failed:
        outcome, cause = Outcome.FAILED, Cause.FUNCTION
        words = str(raised or report.longreprtext).splitlines() or [type(raised).__name__]
        message = words[0]
        if isinstance(raised, HostError):
            outcome, cause, message = Outcome.ERROR, cause_of(raised), str(raised)
        elif isinstance(raised, _TookTooLong):
            cause = Cause.TIMEOUT
    elif report.skipped:
        outcome, cause = Outcome.SKIPPED, Cause.RECIPE
        message = str(raised) or "It was skipped."
    parameters = report.nodeid.partition("/-")[2].rstrip("]")
    if parameters and message:
        message = f"[{parameters}] {message}"
    said = report.longreprtext if report.failed else ""
    return CheckResult(
        host=host,
        package=package,
        check=check,
        outcome=outcome,
        cause=cause,
        message=_plain(message),
        stdout=_plain("\n".join(tail(report.capstdout))[:_MOST_TEXT]),
        stderr=_plain("\n".join(tail(said))[:_MOST_TEXT]),
    )


def _plain(text: str) -> str:
    """Return a text that can be written: names of files may have bytes that are no characters."""
    return text.encode(errors="backslashreplace").decode()
