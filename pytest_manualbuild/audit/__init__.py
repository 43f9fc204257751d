"""Audits a package file: archive, content and binaries, for what its tests cannot show.

Each rule that does not hold is a ``Finding`` with a stable code, described in
``docs/audit.md``. Nothing is extracted, and nothing of the package is run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

import msgspec

from pytest_manualbuild.audit import contents, leaks
from pytest_manualbuild.audit.binaries import Binaries
from pytest_manualbuild.audit.binary import Binary, Package, judge
from pytest_manualbuild.errors import UnsafeArchive
from pytest_manualbuild.package import archive
from pytest_manualbuild.package.containers import Limits
from pytest_manualbuild.package.members import Kind
from pytest_manualbuild.records import Finding, Severity

_ORDER = list(Severity)
_MOST_FINDINGS = 100_000


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found out about one package file."""

    findings: tuple[Finding, ...]
    """Errors first, then by code and file."""
    binaries: tuple[Binary, ...] = ()
    subdir: str = ""
    depends: tuple[str, ...] = ()


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """A finding that a policy accepts, by code and path."""

    code: str
    """Exactly one."""
    path: str
    """The file, or a pattern such as ``lib/python3.11/test/*``."""
    reason: str


def audit(path: Path) -> tuple[Finding, ...]:
    """Return everything that is wrong with a package file, errors first.

    Raises ArtifactError for a file that cannot be read or is no package.
    """
    return examine(path).findings


def examine(
    path: Path, *, provided: Collection[str] | None = None, limits: Limits | None = None
) -> Audit:
    """Audit a package file, and keep what its binaries need, for predictions.

    ``provided`` names the libraries that its dependencies bring, as base names; without it, a
    library that is not in the package may come from any of them.
    Raises ArtifactError for a file that cannot be read or is no package.
    """
    leaked: dict[str, leaks.Leaks] = {}
    with Binaries() as binaries:

        def look(name: str, content: Iterator[memoryview]) -> None:
            leaked[name] = leaks.search(name, binaries.watch(name, content))

        try:
            scan = archive.scan(path, look, limits)
        except UnsafeArchive as unsafe:
            return Audit(findings=(_unsafe(path, unsafe),))
        binaries.finish()
        found = tuple(sorted(binaries.found, key=lambda binary: binary.file))
    index, problems = contents.index(scan.info)
    subdir = str(index.get("subdir", ""))
    depends = tuple(str(spec) for spec in contents.texts(index.get("depends")))
    names = [m.name for m in scan.members if m.kind is not Kind.FOLDER]
    package = Package(
        subdir=subdir,
        depends=depends,
        files=frozenset(names),
        names=frozenset(
            name.rpartition("/")[2].lower()
            if subdir.startswith("win-")
            else name.rpartition("/")[2]
            for name in names
        ),
        provided=frozenset(provided) if provided is not None else None,
    )
    placeholders = {name for name, leak in leaked.items() if leak.placeholder}
    findings = chain(
        scan.findings,
        problems,
        (finding for leak in leaked.values() for finding in leak.findings),
        contents.judge(path, scan, index, placeholders),
        (finding for binary in found for finding in judge(binary, package)),
    )
    ordered = sorted(
        dict.fromkeys(archive.at_most(_MOST_FINDINGS, findings)),
        key=lambda f: (_ORDER.index(f.severity), f.code, f.file, f.message),
    )
    return Audit(findings=tuple(ordered), binaries=found, subdir=subdir, depends=depends)


def waive(
    findings: Iterable[Finding], waivers: Collection[Waiver]
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, Waiver], ...], tuple[Waiver, ...]]:
    """Return the findings that stand, those that are waived, and the waivers that fit none.

    A waiver names one code and one path; the path may be a pattern, and ``*`` fits ``/``, too.
    """
    stand: list[Finding] = []
    waived: list[tuple[Finding, Waiver]] = []
    for finding in findings:
        fitting = [
            waiver
            for waiver in waivers
            if waiver.code == finding.code and fnmatchcase(finding.file, waiver.path)
        ]
        if fitting:
            waived.append((finding, fitting[0]))
        else:
            stand.append(finding)
    used = [waiver for _, waiver in waived]
    return tuple(stand), tuple(waived), tuple(w for w in waivers if w not in used)


def _unsafe(path: Path, unsafe: UnsafeArchive) -> Finding:
    return Finding(
        code=unsafe.code,
        severity=Severity.ERROR,
        file=unsafe.member,
        message=unsafe.problem.removeprefix(f"{path}: "),
        remedy=unsafe.remedy,
    )
