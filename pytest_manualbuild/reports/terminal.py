"""The grid in the terminal: checks down, hosts across, readable without colours."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.model import Plan, PlannedPackage
from pytest_manualbuild.plan import expected
from pytest_manualbuild.records import Cause, CheckResult, Outcome

MOST_ROWS = 40
"""So many checks are shown, of all packages together; then those that passed are a line for each
package, and of the others no more than that many that did not pass are shown."""
_WORDS = {
    Outcome.PASSED: ("✓ ok", "green"),
    Outcome.FAILED: ("✗ FAILED", "bold red"),
    Outcome.ERROR: ("! ERROR", "bold magenta"),
    Outcome.SKIPPED: ("- skipped", "yellow"),
}


def word(result: CheckResult | None) -> tuple[str, str]:
    """Return what a cell of the grid says, and its style."""
    if result is None:
        return "", ""
    text, style = _WORDS[result.outcome]
    if result.outcome is Outcome.SKIPPED:
        text = f"- {result.cause.replace('-', ' ')}"
    elif result.cause is Cause.TIMEOUT:
        text = "✗ TIMED OUT"
    return text, style


def text(evidence: Evidence, *, width: int, color: bool) -> str:
    """Return the grid of every package as text, followed by each host's trouble."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    packages = evidence.plan.packages
    many = sum(len(planned.checks) for planned in packages) > MOST_ROWS
    short = _passed(evidence) if many and len(packages) > 1 else []
    with console.capture() as capture:
        for planned in packages:
            if planned.artifact.key not in short:
                console.print(_grid(evidence, planned.artifact.key))
        if short:
            console.print(_packages(evidence, short))
        for host in evidence.hosts:
            if host.message:
                said = host.message.removeprefix(f"{host.name}: ")
                console.print(Text(f"{host.name}: {host.state}: {said}"))
    return capture.get()


def _grid(evidence: Evidence, key: str) -> Table:
    """Return the grid of one package: its checks down, hosts across."""
    planned = evidence.plan.package(key)
    names = [cell.host for cell in evidence.plan.cells if cell.package == key]
    results = {(r.host, r.check): r for r in evidence.results if r.package == key}
    table = Table(title=f"{key}  sha256 {_short(planned)}", title_justify="left")
    table.add_column("check", overflow="fold")
    _add_hosts(table, evidence, names)
    rows = [check.name for check in planned.checks]
    if len(rows) > MOST_ROWS:
        bad = [c for c in rows if any(_bad(results.get((name, c))) for name in names)]
        rows = [*bad[:MOST_ROWS]]
        table.caption = f"{len(planned.checks) - len(rows)} more checks are not shown"
    for check in rows:
        cells = [word(results.get((name, check))) for name in names]
        table.add_row(Text(check), *(Text(said, style=style) for said, style in cells))
    return table


def _packages(evidence: Evidence, keys: Sequence[str]) -> Table:
    """Return a grid of packages of which every check passed, hosts across."""
    where = {(cell.host, cell.package) for cell in evidence.plan.cells}
    names = [host.name for host in evidence.plan.matrix.hosts]
    names = [name for name in names if any((name, key) in where for key in keys)]
    table = Table(title="packages of which every check passed", title_justify="left")
    table.add_column("package\nsha256", overflow="fold")
    _add_hosts(table, evidence, names)
    for key in keys:
        planned = evidence.plan.package(key)
        said = f"✓ {len(planned.checks)} ok"
        cells = [Text(said if (name, key) in where else "", style="green") for name in names]
        table.add_row(Text(f"{planned.label}\n{_short(planned)}"), *cells)
    return table


def _add_hosts(table: Table, evidence: Evidence, names: Sequence[str]) -> None:
    """Add a column for each of these hosts."""
    required = {host.name for host in evidence.plan.matrix.hosts if host.required}
    for name in names:
        facts = next((host.facts for host in evidence.hosts if host.name == name), None)
        below = f"\nglibc {facts.glibc}" if facts is not None and facts.glibc else ""
        table.add_column(f"{name}{' *' if name in required else ''}{below}", overflow="fold")
    if required & set(names):
        table.caption = "* required"


def _short(planned: PlannedPackage) -> str:
    return f"{planned.artifact.sha256[:16]}…"


def _passed(evidence: Evidence) -> list[str]:
    """Return the packages of which every check passed wherever they are planned to run."""
    passed = {one.key for one in evidence.results if one.outcome is Outcome.PASSED}
    planned = expected(evidence.plan)
    others = {key[1] for key in planned if key not in passed}
    return [one for one in dict.fromkeys(key[1] for key in planned) if one not in others]


def _bad(result: CheckResult | None) -> bool:
    return result is not None and result.outcome is not Outcome.PASSED


def plan_text(planned: Plan) -> str:
    """Return a plan as a table: what is to be tested where."""
    console = Console(file=io.StringIO(), width=110, no_color=True, highlight=False)
    with console.capture() as capture:
        for package in planned.packages:
            names = [c.host for c in planned.cells if c.package == package.artifact.key]
            table = Table(title=package.artifact.key, title_justify="left")
            table.add_column("check", overflow="fold")
            table.add_column("hosts", overflow="fold")
            for check in package.checks:
                table.add_row(Text(check.name), Text(", ".join(names) or "none"))
            console.print(table)
    return capture.get()
