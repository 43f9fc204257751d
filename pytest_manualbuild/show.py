"""What a run under ``--recipe`` shows in pytest's terminal: header, progress, grid, last line."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_manualbuild import deviations, recipe
from pytest_manualbuild.errors import ManualBuildError
from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.hosts.kept import Kept
from pytest_manualbuild.model import Plan

QUIET_S = 30.0
"""Without a terminal, how long a wait may be before a line says what goes on."""


def header(planned: Plan) -> list[str]:
    """Return the lines that say what is tested, and where."""
    lines = [f"recipe: {recipe.file(Path(planned.recipe))}"]
    lines += [
        f"package: {package.artifact.key}  sha256 {package.artifact.sha256}"
        for package in planned.packages
    ]
    files = {one for package in planned.packages for s in package.sections for one in s.modules}
    lines += [
        f"recipe test, runs on this machine: {one.path}  sha256 {one.sha256}"
        for one in sorted(files, key=lambda one: one.path)
    ]
    names = (
        ", ".join(dict.fromkeys(cell.host for cell in planned.cells)) or "none for these packages"
    )
    lines.append(f"hosts ({planned.matrix.name}): {names}")
    return lines


class Waiting:
    """One line that changes while results are waited for, and leaves nothing behind."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began_s: float | None = None
        self._shown = False
        self._said_s = 0.0

    def show(self, status: str) -> None:
        """Show a status: what the hosts are doing."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if not isinstance(reporter, pytest.TerminalReporter) or not status:
            return
        now_s = time.monotonic()
        self._began_s = self._began_s or now_s
        waited_s = now_s - self._began_s
        line = f"  {waited_s:.0f} s  {status}"
        if reporter.isatty:
            if not self._shown:
                reporter.ensure_newline()
            reporter.rewrite(line[: shutil.get_terminal_size().columns - 1], erase=True)
            self._shown = True
        elif waited_s - self._said_s >= QUIET_S:
            reporter.ensure_newline()
            reporter.write_line(line)
            self._said_s = waited_s

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            if isinstance(reporter, pytest.TerminalReporter):
                reporter.rewrite("", erase=True)
                reporter.currentfspath = None
        self._began_s, self._shown, self._said_s = None, False, 0.0


def error(config: pytest.Config, problem: ManualBuildError) -> None:
    """Show an error that came after the session."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(reporter, pytest.TerminalReporter):
        reporter.ensure_newline()
        reporter.write_line(f"ERROR: {problem}", red=True)
    else:
        sys.stderr.write(f"ERROR: {problem}\n")


def kept(reporter: pytest.TerminalReporter, hosts: Sequence[Kept]) -> None:
    """Show the hosts that stayed, each with what gives a shell on it."""
    for one in sorted(hosts, key=lambda one: one.at):
        packages = (
            ", ".join(part.package for part in one.sections if part.failed) or "nothing failed"
        )
        reporter.write_line(f"kept: manualbuild hosts shell {one.host.name}  ({packages})")


def summary(reporter: pytest.TerminalReporter, evidence: Evidence, folder: Path) -> None:
    """Show the grid, where the report is, and what it is not enough for."""
    from pytest_manualbuild.reports import terminal  # noqa: PLC0415 # rich is slow to load

    reporter.section("manualbuild")
    width = shutil.get_terminal_size().columns
    for line in terminal.text(evidence, width=width, color=reporter.hasmarkup).splitlines():
        reporter.write_line(line)
    for host in evidence.hosts:
        for warning in host.warnings:
            reporter.write_line(f"warning: {host.name}: {warning}", yellow=True)
    for one in deviations.found(evidence.plan, evidence.results):
        reporter.write_line(
            f"not as in conda-build ({one.kind}): {one.package} on {one.host}: {one.sentence}",
            yellow=True,
        )
    reporter.write_line(f"report: {folder}")
    for reason in evidence.narrowed:
        reporter.write_line(f"not sufficient for upload: {reason}", yellow=True)
    required = [host for host in evidence.plan.matrix.hosts if host.decides]
    if not required:
        reporter.write_line(
            f"not sufficient for upload: the matrix {evidence.plan.matrix.name!r} requires no host;"
            " the gate wants one that does (--matrix).",
            yellow=True,
        )
    else:
        reporter.write_line(f"next: manualbuild verify {folder}")
