"""The pytest nodes of a plan: recipe, host, package, and one item for each check.

Items ask the engine for their result and say it in pytest's words. They run
nothing themselves, and never import a file of the recipe.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from pytest_manualbuild import recipe
from pytest_manualbuild.checks import INLINE
from pytest_manualbuild.model import Check, CheckKey, CheckKind, Plan, PlannedPackage
from pytest_manualbuild.records import CheckResult, Outcome
from pytest_manualbuild.reports.text import shown, tail

PROPERTY = "manualbuild"
"""The user property of a report that carries the result, as JSON: it passes from worker to
controller and is the same with and without pytest-xdist."""
Ask = Callable[[CheckKey], CheckResult]


class RecipeNode(pytest.Collector):
    """The root: one recipe under test."""

    def __init__(self, *, plan: Plan, command: Sequence[str], ask: Ask, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.command = command
        """What runs it again, without a selection."""
        self.ask = ask
        self.file = recipe.file(Path(plan.recipe))

    def collect(self) -> Iterator[HostNode]:
        """Yield the hosts that have something to test, in the order of the matrix."""
        for name in dict.fromkeys(cell.host for cell in self.plan.cells):
            yield HostNode.from_parent(self, name=name)


class HostNode(pytest.Collector):
    """One host."""

    parent: RecipeNode

    def collect(self) -> Iterator[PackageNode]:
        """Yield the packages that this host tests."""
        for cell in self.parent.plan.cells:
            if cell.host == self.name:
                planned = self.parent.plan.package(cell.package)
                yield PackageNode.from_parent(self, name=planned.label, planned=planned)


class PackageNode(pytest.Collector):
    """One package on one host."""

    parent: HostNode

    def __init__(self, *, planned: PlannedPackage, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned = planned

    def collect(self) -> Iterator[CheckItem]:
        """Yield the checks, in the order in which they run."""
        for check in self.planned.checks:
            if check.kind is CheckKind.FUNCTION:
                continue  # pytest itself makes items of functions: `recipe_tests`
            yield CheckItem.from_parent(self, name=item_name(self.planned, check), check=check)


class CheckItem(pytest.Item):
    """One check of one package on one host."""

    parent: PackageNode

    def __init__(self, *, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check
        self.extra_keyword_matches |= {check.name, self.selection}
        self.result: CheckResult | None = None

    @property
    def key(self) -> CheckKey:
        """(host, package key, check name), as the engine knows it."""
        package = self.parent
        return package.parent.name, package.planned.artifact.key, self.check.name

    @property
    def selection(self) -> str:
        """What selects this check and no other with ``-k``."""
        return f"/{self.parent.parent.name}/{self.parent.name}/{self.name}/"

    def setup(self) -> None:
        """Wait for the result. What we could not find out is an error, not a failure."""
        result = self.parent.parent.parent.ask(self.key)
        self.result = result
        self.user_properties.append((PROPERTY, msgspec.json.encode(result).decode()))
        match result.outcome:
            case Outcome.ERROR:
                pytest.fail(self._story(result), pytrace=False)
            case Outcome.SKIPPED:
                reason = f"{result.cause}: {result.message}".rstrip(": ")
                raise pytest.skip.Exception(reason, _use_item_location=True)
            case Outcome.PASSED | Outcome.FAILED:
                pass

    def runtest(self) -> None:
        """Fail if the package failed the check."""
        if self.result is None:  # never: setup set it
            pytest.fail("This check has no result.", pytrace=False)
        if self.result.outcome is not Outcome.PASSED:
            pytest.fail(self._story(self.result), pytrace=False)

    def protocol(self) -> None:
        """Report the check: pytest's three phases, without what it does to functions in them.

        No fixture, capture or filter of warnings has a part in what ran elsewhere, and they take
        twice the time of all else.
        """
        hook = self.ihook
        hook.pytest_runtest_logstart(nodeid=self.nodeid, location=self.location)
        phases: tuple[tuple[Literal["setup", "call", "teardown"], Callable[[], object]], ...] = (
            ("setup", self.setup),
            ("call", self.runtest),
            ("teardown", self.teardown),
        )
        well = True
        for when, phase in phases:
            if when == "call" and not well:
                continue
            call = pytest.CallInfo.from_call(
                phase, when, reraise=(pytest.exit.Exception, KeyboardInterrupt)
            )
            well = call.excinfo is None
            report = hook.pytest_runtest_makereport(item=self, call=call)
            hook.pytest_runtest_logreport(report=report)
            if report.failed:
                hook.pytest_exception_interact(node=self, call=call, report=report)
        hook.pytest_runtest_logfinish(nodeid=self.nodeid, location=self.location)

    def duration_s(self, when: str) -> float:
        """Return how long the check took, and not how long its result was waited for."""
        return self.result.duration_s if when == "call" and self.result else 0.0

    def reportinfo(self) -> tuple[Path, int, str]:
        """Say in headings which check of which package on which host it is."""
        host, _, check = self.key
        return self.parent.parent.parent.file, 0, f"{host}: {self.parent.name}: {check}"

    def _story(self, result: CheckResult) -> str:
        host, package, _ = self.key
        lines = [f"{package} on {host}: {result.outcome} ({result.cause})"]
        if self.check.kind is CheckKind.COMMAND:
            lines.append(f"$ {shown(self.check.text)}")
        if result.message:
            lines.append(shown(result.message))
        for title, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            if text.strip():
                lines.append(f"--- {title} ---")
                lines += tail(text)
        if result.log:
            lines.append(f"All of its output: {result.log}")
        again = (*self.parent.parent.parent.command, "--on", host, "-k", self.selection)
        lines.append(f"To repeat this check: {shlex.join(again)}")
        return "\n".join(lines)


def item_name(planned: PlannedPackage, check: Check) -> str:
    """Return a name for pytest that is free of what breaks its selection: ``::``, ``[``, ``@``."""
    name = _plain_name(check)
    label = planned.sections[check.section].label
    if not label or check.name == name:
        return name  # the `install` of the package, whichever section proves it
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
    # What was lost of `tests[0][>=3.9]` must not make two names one.
    lost = f"-{check.section}" if re.search(r"[^A-Za-z0-9.\[\]]", label) else ""
    return f"{plain}{lost}-{name}"


def _plain_name(check: Check) -> str:
    match check.kind:
        case CheckKind.INSTALL:
            return "install"
        case CheckKind.IMPORT | CheckKind.USE:
            return f"imports-{check.index}"
        case CheckKind.COMMAND:
            return f"commands-{check.index}"
        case CheckKind.SCRIPT if check.text == INLINE:
            return "script"
        case CheckKind.SCRIPT:
            return check.text.replace("/", "-")
        case CheckKind.PIP_CHECK | CheckKind.FUNCTION | CheckKind.CONTENTS | CheckKind.DOWNSTREAM:
            return f"{check.kind}-{check.index}"


def nodeids(plan: Plan, root: str) -> dict[str, CheckKey]:
    """Return the key of every node id of the plan, below a root of that name."""
    return {
        f"{root}::{cell.host}::{planned.label}::{item_name(planned, check)}": (
            cell.host,
            cell.package,
            check.name,
        )
        for cell in plan.cells
        for planned in [plan.package(cell.package)]
        for check in planned.checks
        if check.kind is not CheckKind.FUNCTION
    }
