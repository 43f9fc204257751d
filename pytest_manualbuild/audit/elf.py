"""Programs and libraries of Linux: what they need, and what must not be in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild.audit.binary import (
    Binary,
    Need,
    Package,
    declared,
    finding,
    name_of,
    rpath_problem,
    undeclared,
    unresolved,
    version,
)
from pytest_manualbuild.records import Finding, Severity

GLIBC_FLOOR = "2.17"
"""What conda channels take for granted on Linux (CentOS 7)."""
_SYSTEM = re.compile(
    r"(ld-linux.*|ld64|lib(BrokenLocale|anl|c|c_malloc_debug|dl|m|mvec|nsl|nss_.*|pthread"
    r"|resolv|rt|thread_db|util))\.so\.\d+"
)
"""Libraries of glibc, and so of every host that has it (``libcrypt`` left it)."""
_LOADER = re.compile(r"/lib(64|32)?/ld(-linux.*|64)\.so\.\d|/lib/ld-linux.*\.so\.\d")
_VERSION = re.compile(r"(GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)*)")
_SPECIAL = {"GLIBC_ABI_DT_RELR": "2.36", "GLIBC_ABI_GNU2_TLS": "2.42"}
"""Names that a newer loader insists on, and the glibc which first had them."""
_LIBSTDCXX = ("libstdcxx", "libstdcxx-ng")
# The GCC that first had each version of its C++ library, by the manual of libstdc++.
_GCC = {
    "GLIBCXX": {
        "3.4.21": "5.1", "3.4.22": "6.1", "3.4.23": "7.1", "3.4.24": "7.2", "3.4.25": "8.1",
        "3.4.26": "9.1", "3.4.27": "9.2", "3.4.28": "9.3", "3.4.29": "11.1", "3.4.30": "12.1",
        "3.4.31": "13.1", "3.4.32": "13.2", "3.4.33": "14.1", "3.4.34": "15.1",
    },
    "CXXABI": {
        "1.3.9": "5.1", "1.3.10": "6.1", "1.3.11": "7.1", "1.3.12": "9.1", "1.3.13": "11.1",
        "1.3.14": "13.1", "1.3.15": "14.1",
    },
}  # fmt: skip


def read(path: Path, file: str) -> Binary | None:
    """Read one file; None for what never runs, such as an object file."""
    import lief  # noqa: PLC0415 # half a second, and only in the child process

    config = lief.ELF.ParserConfig()
    config.parse_relocations = config.parse_symtab_symbols = False
    config.parse_notes = config.parse_overlay = False
    parsed = lief.ELF.parse(str(path), config)
    if parsed is None:
        return Binary(file=file, format="elf", problem="its headers make no sense")
    kinds = lief.ELF.Header.FILE_TYPE
    if parsed.header.file_type not in (kinds.DYN, kinds.EXEC):
        return None
    tags = lief.ELF.DynamicEntry.TAG
    paths: list[str] = []
    for tag in (tags.RPATH, tags.RUNPATH):
        entry = parsed.get(tag)
        if isinstance(entry, lief.ELF.DynamicEntryRpath | lief.ELF.DynamicEntryRunPath):
            paths += entry.paths
    return Binary(
        file=file,
        format="elf",
        archs=(name_of(parsed.header.machine_type).lower().replace("aarch64", "arm64"),),
        libraries=tuple(str(library) for library in parsed.libraries),
        rpaths=tuple(paths),
        interpreter=str(parsed.interpreter) if parsed.has_interpreter else "",
        needs=_needs(parsed),
        marks=tuple(_marks(parsed)),
    )


def _needs(parsed) -> tuple[Need, ...]:  # type: ignore[no-untyped-def] # noqa: ANN001 # lief is only in the child
    """Return the greatest version of each library, and one symbol that needs it."""
    versions: dict[str, str] = {}
    names: dict[str, str] = {}
    for required in parsed.symbols_version_requirement:
        for wanted in required.get_auxiliary_symbols():
            name = str(wanted.name)
            what, number = _split(name)
            if what and version(number) > version(versions.get(what, "0")):
                versions[what], names[what] = number, name
    symbols: dict[str, str] = {}
    for symbol in parsed.dynamic_symbols:
        asked = symbol.symbol_version
        if asked is not None and asked.has_auxiliary_version and not symbol.value:
            symbols.setdefault(str(asked.symbol_version_auxiliary.name), str(symbol.name))
    return tuple(
        Need(what=what, version=number, symbol=symbols.get(names[what], names[what]))
        for what, number in sorted(versions.items())
    )


def _split(name: str) -> tuple[str, str]:
    if name in _SPECIAL:
        return "glibc", _SPECIAL[name]
    if name == "GLIBC_PRIVATE":
        return "glibc-private", "1"
    found = _VERSION.fullmatch(name)
    if found is None:
        return "", ""
    return found[1].replace("GLIBC", "glibc") if found[1] == "GLIBC" else found[1], found[2]


def _marks(parsed) -> Iterator[str]:  # type: ignore[no-untyped-def] # noqa: ANN001 # as above
    import lief  # noqa: PLC0415 # loaded already

    tags = lief.ELF.DynamicEntry.TAG
    flags = parsed.get(tags.FLAGS)
    if parsed.has(tags.TEXTREL) or (
        isinstance(flags, lief.ELF.DynamicEntryFlags)
        and flags.has(lief.ELF.DynamicEntryFlags.FLAG.TEXTREL)
    ):
        yield "textrel"
    stacks = [s for s in parsed.segments if s.type == lief.ELF.Segment.TYPE.GNU_STACK]
    # Without that header the kernel makes the stack executable.
    if not stacks or any(s.has(lief.ELF.Segment.FLAGS.X) for s in stacks):
        yield "execstack"


def judge(binary: Binary, package: Package) -> Iterator[Finding]:
    """Yield what is wrong with a Linux binary in that package."""
    yield from undeclared(binary, package, "glibc", "__glibc", GLIBC_FLOOR)
    yield from _symbols(binary, package)
    yield from _loading(binary, package)
    if "textrel" in binary.marks:
        yield finding(
            "elf-textrel",
            binary,
            "Its code is written to when it is loaded (text relocations); some hosts refuse.",
            "Compile all of it with -fPIC.",
            Severity.WARNING,
        )
    if "execstack" in binary.marks:
        yield finding(
            "elf-execstack",
            binary,
            "It asks for an executable stack; newer hosts refuse to load it.",
            "Link it with -Wl,-z,noexecstack.",
            Severity.WARNING,
        )


def _symbols(binary: Binary, package: Package) -> Iterator[Finding]:
    for need in binary.needs:
        if need.what == "glibc-private":
            yield finding(
                "elf-private",
                binary,
                f"It uses {need.symbol}, a private symbol of the glibc it was built with.",
                "Build it without that symbol: any other glibc may refuse it.",
            )
    if not any(name.startswith("libstdc++.so") for name in package.names):
        wanted = [_libstdcxx(binary, package, n) for n in binary.needs if n.what in _GCC]
        yield from [told for told in wanted if told is not None][:1]


def _loading(binary: Binary, package: Package) -> Iterator[Finding]:
    if binary.interpreter and not _LOADER.fullmatch(binary.interpreter):
        yield finding(
            "elf-interpreter",
            binary,
            f"It is started by {binary.interpreter}, which is not the loader of glibc.",
            "Link it for glibc, with the compilers of the channel.",
        )
    for library in binary.libraries:
        if not _SYSTEM.fullmatch(library):
            yield from unresolved(binary, package, library)
    for entry in (entry for path in binary.rpaths for entry in path.split(":")):
        if problem := rpath_problem(binary, entry, ("$ORIGIN", "${ORIGIN}")):
            yield finding(
                "elf-rpath",
                binary,
                f"It looks for libraries in {entry!r}, which {problem}.",
                "Set it relative to $ORIGIN (patchelf --set-rpath).",
            )


def _libstdcxx(binary: Binary, package: Package, need: Need) -> Finding | None:
    if not package.depends_on(*_LIBSTDCXX):
        return finding(
            "elf-libstdcxx",
            binary,
            f"It needs {need.what}_{need.version} (for {need.symbol}), and no dependency on"
            " libstdcxx says so: the host's C++ library would have to do.",
            "Add libstdcxx to the run requirements (the compilers of conda-forge do).",
            Severity.WARNING,
        )
    gcc = _GCC[need.what].get(need.version, "")
    said = declared(package.depends, *_LIBSTDCXX)
    if not gcc or not said or version(gcc)[0] <= version(said)[0]:
        return None
    return finding(
        "elf-libstdcxx",
        binary,
        f"It needs {need.what}_{need.version} (for {need.symbol}), which came with GCC {gcc},"
        f" and the package is content with libstdcxx {said}.",
        f"Demand libstdcxx >={gcc.partition('.')[0]}.",
    )
