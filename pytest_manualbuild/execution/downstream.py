"""Finds the tests of a downstream package, and says what their results mean for the one under test.

A downstream package is tested in environments that hold it beside the package under test, as
rattler-build does. Its own downstreams are not: that would never end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild.checks import checks, proving
from pytest_manualbuild.model import Artifact, Check, PlannedPackage, TestSection
from pytest_manualbuild.recipe.folder import files, script_file, test_file
from pytest_manualbuild.records import Cause, CheckResult, InstalledPackage, Outcome

_SCRIPTS = ("run_test.py", "run_test.pl", "run_test.lua", "run_test.r")
_REQUIRES = "test_time_dependencies.json"


class Downstream(msgspec.Struct, frozen=True, kw_only=True):
    """A package that was found beside the one under test."""

    planned: PlannedPackage
    """Its tests, and the package under test, which every environment must hold."""
    name: str
    """Its name, version and build."""
    spec: str
    """Names exactly this file of it: a channel named after the first has the build as well."""
    folder: Path
    """Where the files of its tests lie."""


def find(
    found: InstalledPackage, info: Path, artifact: Artifact, label: str, subdir: str
) -> Downstream | None:
    """Return a downstream package with the tests in its ``info/``; None if it has none.

    ``label`` names the package under test, ``subdir`` is that of the host. Raises RecipeError,
    OSError or ValueError when the tests cannot be read.
    """
    described = (*_rattler_build(info, found.name), *_conda_build(info, subdir))
    if not described:
        return None
    named = {"PKG_NAME": found.name, "PKG_VERSION": found.version, "PKG_BUILD_STRING": found.build}
    described = tuple(replace(one, env=named | one.env) for one in described)
    return Downstream(
        planned=PlannedPackage(
            artifact=artifact, label=label, sections=described, checks=checks(described)
        ),
        name=f"{found.name}-{found.version}-{found.build}",
        spec=f"{found.name} =={found.version} {found.build}[sha256={found.sha256}]",
        folder=info / "test",
    )


def _rattler_build(info: Path, name: str) -> Iterator[TestSection]:
    path = info / "tests/tests.yaml"
    if path.is_file():
        from pytest_manualbuild.recipe import rattler_tests  # noqa: PLC0415 # YAML is slow to load

        for section in rattler_tests.packaged(path.read_bytes(), name, beside=True):
            # What a package must contain is looked at when it is built, in its own files.
            if not section.downstreams and not section.contents:
                yield section


def _conda_build(info: Path, subdir: str) -> Iterator[TestSection]:
    folder = (info / "test").resolve()  # as its files are named
    there = list(files(folder)) if folder.is_dir() else []
    # Where a noarch package has no run_test.bat, it is told that Windows does not run the other.
    batch = subdir.startswith("win-") and folder / "run_test.bat" in there
    names = (*_SCRIPTS, "run_test.bat" if batch else "run_test.sh")
    found = [
        test_file(folder, path) for path in there if path.parent != folder or path.name not in names
    ]
    scripts = [script_file(folder, folder / name) for name in names if folder / name in there]
    requires = folder / _REQUIRES
    if scripts:
        yield TestSection(
            scripts=tuple(scripts),
            files=tuple(found),
            requires=tuple(json.loads(requires.read_text())) if requires.is_file() else (),
        )


class Tally:
    """Takes the results of a downstream package's checks; gives one when all of them are there."""

    def __init__(
        self, found: Downstream, check: Check, give: Callable[[CheckResult], None]
    ) -> None:
        self._found = found
        self._check = check
        self._give = give
        self._results: list[CheckResult] = []
        self._lock = threading.Lock()

    def add(self, result: CheckResult) -> None:
        """Take one result."""
        with self._lock:
            self._results.append(result)
            if len(self._results) == len(self._found.planned.checks):
                self._give(self._concluded())

    def _concluded(self) -> CheckResult:
        """Return the result of the whole: it passed only if all did, and more than installing."""
        for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED):
            for one in self._results:
                if one.outcome is outcome:
                    return self._as(one, f"{self._found.name}: {one.check}: {one.message}")
        says = proving(self._found.planned.sections)
        ran = [one for one in self._results if one.check in says]
        if not ran:
            return replace(
                self._as(self._results[0], f"{self._found.name} has no tests to run."),
                outcome=Outcome.SKIPPED,
                cause=Cause.RECIPE,
            )
        return self._as(ran[-1], "")

    def _as(self, result: CheckResult, message: str) -> CheckResult:
        spent_s = sum(one.duration_s for one in self._results)
        return replace(result, check=self._check.name, message=message, duration_s=spent_s)
