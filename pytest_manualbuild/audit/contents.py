"""The rules for what a package says of itself, and for the files that do not belong in one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_manualbuild import strictjson
from pytest_manualbuild.audit import carried, paths
from pytest_manualbuild.audit.binary import declared, version
from pytest_manualbuild.package import PACKAGE_SUBDIRS
from pytest_manualbuild.package.archive import EXTENSIONS, Scan
from pytest_manualbuild.package.members import Kind, Member
from pytest_manualbuild.records import Finding, Severity

_INDEX = "info/index.json"
_SPEC = re.compile(r"(?:[\w./:-]+::)?[A-Za-z0-9_][A-Za-z0-9_.-]*(?:\s*[\[<>=!~0-9*].*)?")
# CEP 26. The name of a file is taken apart at its dashes, so that one in a version moves the name.
_NAMED = {
    "name": re.compile(r"[a-z0-9_][a-z0-9_.-]*"),
    "version": re.compile(r"[A-Za-z0-9_.+!]+"),
    "build": re.compile(r"[A-Za-z0-9_.+]+"),
}
_LONGEST_SPEC = 500
"""Characters; expressions for specs take a time that grows with the square of it."""
_LINK_SCRIPT = re.compile(
    r"(?:bin|Scripts)/\.[^/]+-(?:pre-link|post-link|pre-unlink)\.(?:sh|bat)"
    r"|etc/conda/(?:de)?activate\.d/.+"
)
_EXTENSION_MODULE = re.compile(r".*\.(?:cpython-|cp)(\d)(\d+)t?-.*\.(?:so|pyd)")
_COMPILED = (".so", ".dylib", ".dll", ".pyd", ".a", ".lib", ".o", ".obj")
# What must not be installed, and why; the first that fits is told.
_FORBIDDEN = tuple(
    (re.compile(pattern), severity, why)
    for pattern, severity, why in (
        (r"(conda-meta|pkgs)/.*", Severity.ERROR, "It would write to the records of conda."),
        (r"(.*/)?\.git/.*", Severity.ERROR, "It is part of a git repository, history and all."),
        (r"(.*/)?\.(ssh|aws|gnupg)/.*", Severity.ERROR, "It is a folder of credentials."),
        (r"(.*/)?(\.netrc|_netrc|\.pypirc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519))",
         Severity.ERROR, "It is a file of credentials."),
        (r"\.condarc|condarc", Severity.ERROR, "It would change the settings of every user."),
        (r"(.*/)?(easy-install|setuptools)\.pth", Severity.ERROR,
         "It belongs to every package at once, and each would overwrite it."),
        (r"(.*/)?site-packages/[^/]+\.egg(/.*)?", Severity.ERROR,
         "It is an egg, which hides its files from conda."),
        (r"share/info/dir", Severity.WARNING, "Every package with info pages would overwrite it."),
        (r"(.*/)?(core\.\d+|vgcore\.\d+|.*\.dmp)", Severity.WARNING,
         "It looks like the memory of a crashed program."),
        (r"(.*/)?(\.DS_Store|\._[^/]+|Thumbs\.db|desktop\.ini|[^/]*~|\.[^/]*\.sw[op])",
         Severity.WARNING, "It was left behind by a program."),
        (r".*\.(orig|rej)", Severity.WARNING, "It was left behind by `patch`."),
    )
)  # fmt: skip


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list that are no longer than a spec; nothing for what is no list."""
    rows = value if isinstance(value, list) else []
    return tuple(row for row in rows if isinstance(row, str) and len(row) <= _LONGEST_SPEC)


def index(info: Mapping[str, bytes]) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """Return the package's index, empty if there is none to read, and what is wrong with it."""
    try:
        loaded = strictjson.loads(info[_INDEX])
    except KeyError:
        return {}, (_error("index-missing", _INDEX, "It has no info/index.json."),)
    except (ValueError, RecursionError):
        return {}, (_error("index-invalid", _INDEX, "It is not JSON, or has a key twice."),)
    if not isinstance(loaded, dict):
        return {}, (_error("index-invalid", _INDEX, "It is not an object."),)
    return loaded, tuple(_index(loaded))


def _error(code: str, file: str, message: str, remedy: str = "Build the package again.") -> Finding:
    return Finding(code=code, severity=Severity.ERROR, file=file, message=message, remedy=remedy)


def _index(loaded: Mapping[str, Any]) -> Iterator[Finding]:
    for key, form in _NAMED.items():
        value = loaded.get(key)
        if not isinstance(value, str) or not form.fullmatch(value):
            yield _error("index-invalid", _INDEX, f"Its {key} is {value!r}.")
    number = loaded.get("build_number", 0)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        yield _error("index-invalid", _INDEX, f"Its build_number is {number!r}.")
    if loaded.get("subdir") not in PACKAGE_SUBDIRS:
        yield _error(
            "index-subdir",
            _INDEX,
            f"Its subdir {loaded.get('subdir')!r} is not known.",
            f"Known: {', '.join(PACKAGE_SUBDIRS)}.",
        )
    elif (loaded["subdir"] == "noarch") != bool(loaded.get("noarch")):
        yield _error(
            "index-noarch",
            _INDEX,
            f"Its subdir is {loaded['subdir']}, and its noarch is {loaded.get('noarch')!r}.",
        )
    for key in ("depends", "constrains"):
        specs = loaded.get(key, [])
        if not isinstance(specs, list):
            yield _error("index-depends", _INDEX, f"Its {key} is not a list.")
            continue
        for spec in specs:
            if not texts([spec]) or not _SPEC.fullmatch(spec.strip()):
                shown = repr(spec)[:_LONGEST_SPEC]
                yield _error("index-depends", _INDEX, f"Its {key} has {shown}, no valid spec.")


def judge(
    path: Path, scan: Scan, loaded: Mapping[str, Any], placeholders: set[str]
) -> Iterator[Finding]:
    """Yield what is wrong with the content of a package; ``loaded`` is its index."""
    if loaded:
        yield from _names(path, loaded)
    yield from carried.judge(scan.info, loaded)
    yield from paths.judge(scan, placeholders)
    names = {member.name for member in scan.members}
    for member in scan.members:
        if member.name.startswith("info/") or member.kind is Kind.FOLDER:
            continue
        yield from _file(member)
        yield from _python(member, names, loaded)
    if loaded.get("noarch") == "python" and "info/link.json" not in scan.info:
        yield _error(
            "noarch-link",
            "info/link.json",
            "It is a noarch Python package, and does not say how to link it.",
        )


def _names(path: Path, loaded: Mapping[str, Any]) -> Iterator[Finding]:
    extension = next(e for e in EXTENSIONS if path.name.endswith(e))
    dist = "-".join(str(loaded.get(key)) for key in ("name", "version", "build"))
    if path.name != dist + extension:
        yield _error(
            "index-name",
            _INDEX,
            f"It names the package {dist}{extension}, and the file is {path.name}.",
            "Give the file the name that it was built with.",
        )
    folder = path.absolute().parent.name
    if folder in PACKAGE_SUBDIRS and loaded.get("subdir") != folder:
        yield _error(
            "index-subdir",
            _INDEX,
            f"Its subdir is {loaded.get('subdir')!r}, and it lies in {folder}/.",
            "Put it into the folder of its subdir.",
        )


def _file(member: Member) -> Iterator[Finding]:
    if _LINK_SCRIPT.fullmatch(member.name):
        before = "-pre-link." in member.name
        yield Finding(
            code="link-script",
            severity=Severity.WARNING if before else Severity.NOTE,
            file=member.name,
            message=f"It is run on the user's machine (sha256 {member.sha256 or 'of a link'}).",
            remedy="Conda gave up pre-link scripts: do without."
            if before
            else "Read it before you approve.",
        )
    for pattern, severity, why in _FORBIDDEN:
        if pattern.fullmatch(member.name):
            yield Finding(
                code="forbidden-file",
                severity=severity,
                file=member.name,
                message=why,
                remedy="Remove it in the build script.",
            )
            break


def _python(member: Member, names: set[str], loaded: Mapping[str, Any]) -> Iterator[Finding]:
    path = PurePosixPath(member.name)
    noarch = loaded.get("subdir") == "noarch"
    if noarch and path.suffix.lower() in _COMPILED:
        yield _error(
            "noarch-binary",
            member.name,
            "A noarch package must run everywhere, and this is compiled.",
            "Build the package for each subdir, or leave the file out.",
        )
    if path.suffix == ".pyc":
        folder = path.parent.parent if path.parent.name == "__pycache__" else path.parent
        source = folder / f"{path.name.partition('.')[0]}.py"
        if noarch:
            yield _error(
                "noarch-pyc",
                member.name,
                "It is compiled for one Python; conda compiles noarch packages on installing.",
                "Leave it out.",
            )
        elif str(source) not in names:
            yield Finding(
                code="pyc-alone",
                severity=Severity.WARNING,
                file=member.name,
                message="It is compiled Python code without its source, which nobody can read.",
                remedy="Ship the source as well.",
            )
    found = _EXTENSION_MODULE.fullmatch(member.name)
    wanted = declared(texts(loaded.get("depends")), "python_abi") or declared(
        texts(loaded.get("depends")), "python"
    )
    if found and wanted and version(wanted)[:2] > (int(found[1]), int(found[2])):
        yield _error(
            "python-abi",
            member.name,
            f"It is for Python {found[1]}.{found[2]}, and the package for {wanted}.",
            "Build it with the Python that it is for.",
        )
