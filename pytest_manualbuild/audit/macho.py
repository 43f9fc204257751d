"""Programs and libraries of macOS: the least system they run on, and where they look."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild.audit.binary import (
    Binary,
    Need,
    Package,
    finding,
    name_of,
    rpath_problem,
    undeclared,
    unresolved,
    version,
)
from pytest_manualbuild.records import Finding

MACOS_FLOOR = {"osx-64": "10.9", "osx-arm64": "11.0"}
"""What conda channels take for granted."""
_ARCHS = {"I386": "x86", "X86": "x86", "X86_64": "x86_64", "ARM64": "arm64"}
_ORIGINS = ("@loader_path", "@executable_path")
_SYSTEM = ("/usr/lib/", "/System/Library/")


def read(path: Path, file: str) -> Binary | None:
    """Read one file, with all of its slices; None for what never runs, such as an object file."""
    import lief  # noqa: PLC0415 # half a second, and only in the child process

    config = lief.MachO.ParserConfig()
    config.parse_dyld_exports = config.parse_dyld_bindings = config.parse_dyld_rebases = False
    fat = lief.MachO.parse(str(path), config)
    if fat is None or fat.size == 0:
        return Binary(file=file, format="macho", problem="its headers make no sense")
    kinds = lief.MachO.Header.FILE_TYPE
    slices = [part for part in fat if part.header.file_type not in (kinds.OBJECT, kinds.DSYM)]
    if not slices:
        return None
    least = ""
    archs: list[str] = []
    marks: set[str] = set()
    libraries: dict[str, None] = {}
    rpaths: dict[str, None] = {}
    for part in slices:
        archs.append(_ARCHS.get(name_of(part.header.cpu_type), name_of(part.header.cpu_type)))
        numbers: list[int] = []
        if part.has_build_version and part.build_version is not None:
            numbers = list(part.build_version.minos)
        elif part.has_version_min and part.version_min is not None:
            numbers = list(part.version_min.version)
        said = ".".join(map(str, numbers)).removesuffix(".0")
        # A fat file runs on whatever its oldest slice runs on.
        if said and (not least or version(said) < version(least)):
            least = said
        if archs[-1] == "arm64" and not part.has_code_signature:
            marks.add("unsigned")
        libraries |= dict.fromkeys(
            str(library.name)
            for library in part.libraries
            if library.command != lief.MachO.LoadCommand.TYPE.ID_DYLIB  # its own name
        )
        rpaths |= dict.fromkeys(str(rpath.path) for rpath in part.rpaths)
    return Binary(
        file=file,
        format="macho",
        archs=tuple(archs),
        libraries=tuple(libraries),
        rpaths=tuple(rpaths),
        needs=(Need(what="macos", version=least),) if least else (),
        marks=tuple(sorted(marks)),
    )


def judge(binary: Binary, package: Package) -> Iterator[Finding]:
    """Yield what is wrong with a macOS binary in that package."""
    floor = MACOS_FLOOR.get(package.subdir, "11.0")
    yield from undeclared(binary, package, "macos", "__osx", floor)
    for library in binary.libraries:
        yield from _library(binary, package, library)
    for path in binary.rpaths:
        if problem := rpath_problem(binary, path, _ORIGINS):
            yield finding(
                "macho-rpath",
                binary,
                f"It looks for libraries in {path!r}, which {problem}.",
                "Set it relative to @loader_path (install_name_tool -rpath).",
            )
    if "unsigned" in binary.marks:
        yield finding(
            "macho-unsigned",
            binary,
            "It is not signed, and Apple silicon runs only what is.",
            "Sign it after the last change: codesign --force --sign -.",
        )


def _library(binary: Binary, package: Package, library: str) -> Iterator[Finding]:
    base = posixpath.basename(library)
    if library.startswith(_SYSTEM):
        return
    if library.startswith("@") or "_placehold" in library:
        yield from unresolved(binary, package, base)
    else:
        yield finding(
            "macho-library",
            binary,
            f"It loads {library!r}, which is there on the machine that built it.",
            "Refer to it by @rpath (install_name_tool -change).",
        )
