"""Compares ``info/paths.json``, ``info/files`` and ``info/has_prefix`` with what is in the package.

Installers believe these lists: what they leave out is not installed, not verified and not removed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_manualbuild import strictjson
from pytest_manualbuild.model import Finding, Severity
from pytest_manualbuild.package.archive import Scan
from pytest_manualbuild.package.members import Kind, Member

_PATHS = "info/paths.json"
_REBUILD = "Build it again; nothing may change a package after its build."
_TYPES = {
    "hardlink": (Kind.FILE, Kind.HARDLINK),
    "softlink": (Kind.SYMLINK,),
    "directory": (Kind.FOLDER,),
}


def _error(code: str, file: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, file=file, message=message, remedy=_REBUILD)


def judge(scan: Scan, placeholders: set[str]) -> Iterator[Finding]:
    """Yield where the lists and the members differ; ``placeholders`` hold a prefix to replace."""
    members = {m.name: m for m in scan.members if not m.name.startswith("info/")}
    try:
        rows = strictjson.loads(scan.info.get(_PATHS, b"null"))["paths"]
        listed = {row["_path"]: row for row in rows}
        known = all(isinstance(name, str) for name in listed)
    except (ValueError, RecursionError, LookupError, TypeError):
        known, rows, listed = False, [], {}
    if not known:
        what = "is not readable" if _PATHS in scan.info else "is missing"
        yield _error("paths-missing", _PATHS, f"The list of the package's files {what}.")
        return
    if len(rows) != len(listed):
        yield _error("paths-duplicate", _PATHS, "It names a file twice.")
    for name, member in members.items():
        if name not in listed and member.kind is not Kind.FOLDER:
            yield _error(
                "paths-unlisted", name, "It is in the package, and not in info/paths.json."
            )
    for name, row in listed.items():
        if name not in members:
            # A folder may be implied by what lies in it.
            if row.get("path_type") != "directory":
                yield _error(
                    "paths-absent", name, "info/paths.json lists it; the package lacks it."
                )
        else:
            yield from _row(row, _target(members[name], members))
    yield from _files(scan.info, set(listed))
    yield from _prefixes(scan.info, listed, placeholders)


def _target(member: Member, members: Mapping[str, Member]) -> Member:
    """Return what a hard link is another name of, or the member itself."""
    if member.kind is Kind.HARDLINK:
        return members.get(member.link.removeprefix("./"), member)
    return member


def _row(row: Mapping[str, Any], member: Member) -> Iterator[Finding]:
    name, said = str(row["_path"]), row.get("path_type")
    if member.kind not in _TYPES.get(str(said), ()):
        yield _error("paths-type", name, f"It is a {member.kind}; info/paths.json says {said!r}.")
    if member.kind is not Kind.FILE:
        return  # what is said of a link is said of what it leads to, which may lie elsewhere
    if row.get("sha256") != member.sha256:
        yield _error(
            "paths-sha256",
            name,
            f"Its sha256 is {member.sha256[:16]}…; info/paths.json says"
            f" {str(row.get('sha256'))[:16]}…",
        )
    elif row.get("size_in_bytes", member.size) != member.size:
        yield _error(
            "paths-size",
            name,
            f"It has {member.size} bytes; info/paths.json says {row.get('size_in_bytes')}.",
        )


def _files(info: Mapping[str, bytes], listed: set[str]) -> Iterator[Finding]:
    if "info/files" not in info:
        return  # rattler-build writes it, and yet paths.json is what counts
    lines = set(info["info/files"].decode(errors="surrogateescape").splitlines()) - {""}
    for name in sorted(lines ^ listed):
        where = "info/files" if name in lines else "info/paths.json"
        yield _error("paths-files", name, f"Only {where} lists it.")


def _prefixes(
    info: Mapping[str, bytes], listed: Mapping[str, Mapping[str, Any]], placeholders: set[str]
) -> Iterator[Finding]:
    replaced = {name for name, row in listed.items() if row.get("prefix_placeholder")}
    for name in sorted(replaced):
        mode = listed[name].get("file_mode")
        if mode not in ("text", "binary"):
            yield _error(
                "prefix-mode", name, f"info/paths.json says file_mode {mode!r} for its prefix."
            )
    for name in sorted(placeholders - replaced):
        if not name.startswith("info/"):
            yield _error(
                "prefix-kept",
                name,
                "It holds the prefix it was built in, and nothing tells conda to replace it.",
            )
    if "info/has_prefix" in info:
        lines = info["info/has_prefix"].decode(errors="surrogateescape").splitlines()
        for name in sorted({_prefixed(line) for line in lines if line.strip()} ^ replaced):
            where = "info/paths.json" if name in replaced else "info/has_prefix"
            yield _error("prefix-files", name, f"Only {where} says that its prefix is replaced.")


def _prefixed(line: str) -> str:
    """Return the file of a line such as ``/opt/placehold text "bin/a b"``."""
    try:
        # Not as a shell reads it: backslashes are those of Windows.
        words = [word.strip("\"'") for word in shlex.split(line, posix=False)]
    except ValueError:
        words = line.split()
    return words[2] if len(words) > 2 else words[-1]  # noqa: PLR2004 # prefix, mode, file
