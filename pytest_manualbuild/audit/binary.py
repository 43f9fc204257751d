"""What a program or library asks of its host: the values that ``elf``, ``macho`` and ``pe`` fill.

And the rules that are the same for all three formats.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

import msgspec

from pytest_manualbuild.records import Finding, Severity

MOST_S = 20
"""Seconds to read one file; libraries of a gigabyte take 3."""
ARCHS = {"32": "x86", "64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
"""What is behind the dash of a subdir, where its name for the processor is another."""
FORMATS = {"linux": "elf", "osx": "macho", "win": "pe"}
_MAGICS = {
    b"\x7fELF": "elf",
    b"MZ": "pe",
    b"\xcf\xfa\xed\xfe": "macho",
    b"\xce\xfa\xed\xfe": "macho",
    b"\xfe\xed\xfa\xce": "macho",
    b"\xfe\xed\xfa\xcf": "macho",
    b"\xca\xfe\xba\xbe": "macho",
    b"\xca\xfe\xba\xbf": "macho",
}
_MOST_SLICES = 30
"""Java's class files begin as fat Mach-O files do: there, the number is the version, 45 or more."""
# Libraries that most compiled packages need, and the packages of conda channels that bring them.
_BROUGHT = tuple(
    (re.compile(form), tuple(names.split()))
    for form, names in (
        (r"libgcc_s\.so\.1", "libgcc libgcc-ng"),
        (r"libstdc\+\+\.so\.6", "libstdcxx libstdcxx-ng"),
        (r"libgfortran\.so\.5", "libgfortran5 libgfortran libgfortran-ng"),
        (r"libgfortran\.5\.dylib", "libgfortran5 libgfortran"),
        (r"libgomp\.so\.1", "libgomp _openmp_mutex"),
        (r"lib[io]omp5?\.(so|dylib)", "llvm-openmp"),
        (r"libc\+\+\.1\.dylib", "libcxx"),
        (r"libz\.(so\.1|1\.dylib)|zlib\.dll", "libzlib zlib"),
        (r"lib(blas|cblas|lapack)\.(so\.3|3\.dylib|dll)", "libblas libcblas liblapack"),
        (r"(?:libpython3.*|python3\d*\.dll)", "python"),
        (r"(?:vcruntime|msvcp|concrt|vccorlib)\d+.*\.dll", "vc14_runtime vs2015_runtime vc"),
        (r"vcomp\d+\.dll", "vcomp14 vc14_runtime vs2015_runtime"),
    )
)
_FOR_ALL = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 # looked for, not used
_MOST_DIGITS = 18
_LEAST = 64  # bytes; what is shorter is no binary, whatever its first bytes


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """A version that a binary needs of something on its host."""

    what: str
    """``glibc``, ``libstdc++``, ``macos`` or ``windows``."""
    version: str
    symbol: str = ""
    """The symbol, function or library that needs it."""


class Binary(msgspec.Struct, frozen=True, kw_only=True):
    """What one program or library says of itself."""

    file: str
    format: str
    """``elf``, ``macho`` or ``pe``."""
    archs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    """As it names them."""
    rpaths: tuple[str, ...] = ()
    interpreter: str = ""
    needs: tuple[Need, ...] = ()
    marks: tuple[str, ...] = ()
    """What else is odd: ``textrel``, ``execstack``, ``unsigned``, ``no-aslr``, ``no-nx``."""
    problem: str = ""
    """Why it could not be read; the rest is empty then."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules for binaries must know of the package around them."""

    subdir: str
    depends: tuple[str, ...]
    files: frozenset[str]
    """Every file and link of the package."""
    names: frozenset[str]
    """The same without their folders, in lower case for Windows."""
    provided: frozenset[str] | None = None
    """Libraries that the dependencies bring; None: not known."""

    def depends_on(self, *names: str) -> bool:
        """Say whether one of these packages is a dependency."""
        return any(re.split(r"[\s=<>!~]", spec, maxsplit=1)[0] in names for spec in self.depends)


def looks_like(start: bytes, size: int) -> str:
    """Return the format that a file's first bytes announce; empty for none."""
    for magic, name in _MAGICS.items():
        if start.startswith(magic) and size >= _LEAST:
            fat = magic[:3] == b"\xca\xfe\xba"
            if fat and int.from_bytes(start[4:8], "big") > _MOST_SLICES:
                return ""
            return name
    return ""


def name_of(value: object) -> str:
    """Return the name of a value of a header, or its number where nobody gave it a name."""
    return str(getattr(value, "name", value))


def version(text: str) -> tuple[int, ...]:
    """Return a version for comparing; what is no number counts as 0, a huge one as a large one."""
    parts = text.strip().split(".")
    return tuple(int(part[:_MOST_DIGITS]) if part.isdecimal() else 0 for part in parts)


def declared(depends: tuple[str, ...], *names: str) -> str:
    """Return the least version that is demanded of packages of these names; empty for none."""
    least = ""
    for spec in depends:
        found = re.fullmatch(r"\s*([A-Za-z0-9_.-]+)\s*([<>=!~0-9].*)?", spec)
        if found is None or found[1] not in names:
            continue
        for part in (found[2] or "").split()[:1]:
            for bound in re.finditer(r"(?:^|,)(?:>=|==|=|>|~=)?(\d+(?:\.\d+)*)", part):
                if not least or version(bound[1]) > version(least):
                    least = bound[1]
    return least


def judge(binary: Binary, package: Package) -> Iterator[Finding]:
    """Yield what is wrong with a binary in any format."""
    from pytest_manualbuild.audit import elf, macho, pe  # noqa: PLC0415 # they use this module

    if binary.problem:
        yield finding(
            "binary-unreadable",
            binary,
            f"It begins as {binary.format} files do, and cannot be read: {binary.problem}.",
            "Build it again; if it is test data, waive this for that file.",
        )
        return
    system, _, arch = package.subdir.partition("-")
    if package.subdir == "noarch":
        program = binary.format == "pe" and binary.file.endswith(".exe")
        yield finding(
            "noarch-binary",
            binary,
            f"A noarch package must run everywhere, and this is {binary.format} code.",
            "Build the package for each subdir, or leave the file out.",
            # Installers of Python packages carry launchers for Windows as data.
            Severity.WARNING if program else Severity.ERROR,
        )
        return
    if FORMATS.get(system) != binary.format:
        yield finding(
            "binary-format",
            binary,
            f"It is {binary.format} code, which {package.subdir} does not run.",
            "Leave it out, unless it is data.",
            Severity.WARNING,
        )
        return
    if ARCHS.get(arch, arch) not in binary.archs:
        yield finding(
            "binary-arch",
            binary,
            f"It is for {', '.join(binary.archs)}, and the package for {package.subdir}.",
            "Build it for the processor of the subdir.",
        )
    rules: dict[str, Callable[[Binary, Package], Iterator[Finding]]] = {
        "elf": elf.judge,
        "macho": macho.judge,
        "pe": pe.judge,
    }
    yield from rules[binary.format](binary, package)


def finding(
    code: str,
    binary: Binary,
    message: str,
    remedy: str,
    severity: Severity = Severity.ERROR,
) -> Finding:
    """Make a finding about a binary."""
    return Finding(code=code, severity=severity, file=binary.file, message=message, remedy=remedy)


def undeclared(
    binary: Binary, package: Package, what: str, virtual: str, floor: str
) -> Iterator[Finding]:
    """Yield a finding if a binary needs more of its host than the package tells the solver.

    ``floor`` is what every host has that the package could be installed on without telling.
    """
    said = declared(package.depends, virtual)
    for need in binary.needs:
        if need.what == what and version(need.version) > version(said or floor):
            does = f"demands {virtual} >={said}" if said else f"does not demand {virtual}"
            by = f" (for {need.symbol})" if need.symbol else ""
            yield finding(
                f"{binary.format}-undeclared",
                binary,
                f"It needs {what} {need.version}{by}, and the package {does}: it would be"
                " installed where it cannot run.",
                f"Add `{virtual} >={need.version}` to the run requirements, or build it for an"
                " older system.",
            )


def unresolved(binary: Binary, package: Package, library: str) -> Iterator[Finding]:
    """Yield a finding if a library, not one of the system, is nowhere to be seen."""
    if library in package.names or library in (package.provided or ()):
        return
    brings = next((names for form, names in _BROUGHT if form.fullmatch(library)), ())
    if package.provided is None and package.depends_on(*brings):
        return
    if package.provided is None and package.depends:
        yield finding(
            "library-unresolved",
            binary,
            f"It needs {library}, which is neither in the package nor on every host: one of its"
            " dependencies must bring it.",
            f"See that {brings[0] if brings else 'the package that brings it'} is a dependency.",
            Severity.WARNING,
        )
        return
    yield finding(
        "library-missing",
        binary,
        f"It needs {library}, which is neither in the package, nor in a dependency, nor on"
        " every host.",
        f"Add {brings[0] if brings else 'the package that brings it'} to the run requirements.",
    )


def rpath_problem(binary: Binary, path: str, origins: tuple[str, ...]) -> str:
    """Say what is wrong with one entry of a search path; empty if nothing is."""
    folder = posixpath.dirname(binary.file)
    for origin in origins:
        if path == origin or path.startswith(f"{origin}/"):
            inside = posixpath.join("prefix", folder, "." + path[len(origin) :])
            first = posixpath.normpath(inside).partition("/")[0]
            return "" if first == "prefix" else "leads out of the prefix"
    problems = (
        ("_placehold" in path, ""),  # conda writes the prefix there on installing
        (not path, "is empty, which means the current folder"),
        (path.startswith(_FOR_ALL), "lies where everybody can write"),
        (path.startswith("/"), "is a folder of the machine that built it"),
        (True, "depends on the current folder"),
    )
    return next(problem for holds, problem in problems if holds)
