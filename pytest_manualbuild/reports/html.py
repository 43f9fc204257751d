"""The page: the grid and what lies behind it, in one file without a script or a network."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined, Template
from jinja2.bccache import Bucket

from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.model import Check, CheckKey, CheckKind, PlannedPackage
from pytest_manualbuild.records import CheckResult, HostRecord, Outcome
from pytest_manualbuild.reports.terminal import word
from pytest_manualbuild.reports.text import tail, visible

MOST_STORIES = 200
"""How many checks that did not pass are told of; a page of more can no longer be read."""
_HEADLINES = {
    0: (Outcome.PASSED, "✓", "Every check passed on every required host"),
    1: (Outcome.FAILED, "✗", "A package failed"),
    8: (Outcome.SKIPPED, "-", "Nothing was proven"),
    16: (Outcome.ERROR, "!", "A host failed: we could not find out"),
}
_CUT_SHORT = (Outcome.ERROR, "!", "The run did not come to its end")


class _Headline(msgspec.Struct, frozen=True, kw_only=True):
    outcome: Outcome
    mark: str
    text: str


class _Column(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    about: str


class _Cell(msgspec.Struct, frozen=True, kw_only=True):
    style: str
    word: str
    title: str
    anchor: str = ""
    """Of the story that is told below the grids; empty for a check without one."""


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    group: str
    """The heading above this row; empty if it is that of the row before."""
    check: str
    cells: tuple[_Cell, ...]
    passed: int


class _Grid(msgspec.Struct, frozen=True, kw_only=True):
    planned: PlannedPackage
    hosts: tuple[_Column, ...]
    rows: tuple[_Row, ...]


class _Story(msgspec.Struct, frozen=True, kw_only=True):
    anchor: str
    result: CheckResult
    command: str
    output: tuple[tuple[str, list[str]], ...]


def render(evidence: Evidence) -> str:
    """Return the page. Whatever a stranger wrote is shown as text, control characters as well."""
    told = [r for r in evidence.results if r.outcome in (Outcome.FAILED, Outcome.ERROR)]
    stories = {
        result.key: _story(evidence, result, f"story-{number}")
        for number, result in enumerate(told[:MOST_STORIES])
    }
    required = {host.name for host in evidence.plan.matrix.hosts if host.required}
    outcome, mark, text = _HEADLINES.get(evidence.exit_status, _CUT_SHORT)
    return _template().render(
        evidence=evidence,
        headline=_Headline(outcome=outcome, mark=mark, text=text),
        grids=[_grid(evidence, planned, stories) for planned in evidence.plan.packages],
        required=required,
        stories=list(stories.values()),
        unshown=max(0, len(told) - MOST_STORIES),
    )


class _Compiled(FileSystemBytecodeCache):
    """Keeps the template compiled, which takes longer than to fill it in, where Python keeps ours.

    Not in the cache of the user: what is loaded from here is run, and of a cache nothing is.
    """

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            super().load_bytecode(bucket)
        except Exception:  # noqa: BLE001 # whatever is wrong with the file, it is made anew
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        if not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):
                super().dump_bytecode(bucket)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pytest_manualbuild", "reports"),
        bytecode_cache=_Compiled(str(Path(__file__).parent / "__pycache__")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment.get_template("page.html.j2")


def _story(evidence: Evidence, result: CheckResult, anchor: str) -> _Story:
    checks = evidence.plan.package(result.package).checks
    check = next((one for one in checks if one.name == result.check), None)
    return _Story(
        anchor=anchor,
        result=result,
        command=check.text if check is not None and check.kind is CheckKind.COMMAND else "",
        output=tuple(
            (name, tail(text))
            for name, text in (("stdout", result.stdout), ("stderr", result.stderr))
            if text.strip()
        ),
    )


def _grid(evidence: Evidence, planned: PlannedPackage, stories: dict[CheckKey, _Story]) -> _Grid:
    key = planned.artifact.key
    names = [cell.host for cell in evidence.plan.cells if cell.package == key]
    records = {record.name: record for record in evidence.hosts}
    results = {(r.host, r.check): r for r in evidence.results if r.package == key}

    def cells(check: Check) -> Iterator[_Cell]:
        for name in names:
            story = stories.get((name, key, check.name))
            yield _cell(results.get((name, check.name)), story.anchor if story else "")

    rows = []
    for kind, group in groupby(planned.checks, key=lambda check: check.kind):
        for number, check in enumerate(group):
            row = tuple(cells(check))
            rows.append(
                _Row(
                    group="" if number else kind,
                    check=check.name,
                    cells=row,
                    passed=sum(cell.style == Outcome.PASSED for cell in row),
                )
            )
    columns = tuple(_Column(name=name, about=_about(records.get(name))) for name in names)
    return _Grid(planned=planned, hosts=columns, rows=tuple(rows))


def _cell(result: CheckResult | None, anchor: str) -> _Cell:
    if result is None:
        return _Cell(style="none", word="no result", title="")
    title = f"{result.duration_s:.2f} s" if result.outcome is Outcome.PASSED else result.message
    return _Cell(style=result.outcome, word=word(result)[0], title=title, anchor=anchor)


def _about(record: HostRecord | None) -> str:
    facts = record.facts if record is not None else None
    if facts is None:
        return "never reached"
    return f"glibc {facts.glibc}" if facts.glibc else facts.os_name
