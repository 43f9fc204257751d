"""Looks in a file's bytes for paths of the build machine, and for secrets.

A package has gigabytes, and a regular expression with many alternatives reads
a few megabytes a second: plain texts are searched first, and each expression
looks only at the places where its text is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

import msgspec

from pytest_manualbuild.records import Finding, Severity

_OVERLAP = 4096
"""Bytes of a piece that are looked at again with the next one."""
_BEFORE = 256
_AFTER = 2048
_MOST_HITS = 1000  # of one text in one piece; a file full of them says no more

# Accounts of build services, and names that stand for anybody.
_NOBODY = frozenset(
    b"appveyor bar builder buildbot circleci conda containeradministrator default foo linuxbrew"
    b" me name nobody public runner runneradmin shared travis user username users vagrant vsts"
    b" xxx you your-name yourname".split()
)
_BUILD_FOLDER = re.compile(rb"conda-bld|build_artifacts|feedstock_root|recipe_root|rattler-build_")
# What people read or compile: paths in it are examples more often than leaks.
_PROSE = frozenset(
    ".c .cc .cpp .cu .cxx .f .f90 .go .h .hh .hpp .htm .html .ipynb .java .js .md .ps1 .py"  # noqa: SIM905 # readable
    " .pyi .pyx .rb .rs .rst .tex .ts .txt".split()
)
_PLACEHOLDER = b"hold_placehold_"


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    plain: bytes | re.Pattern[bytes]
    """An expression starts with a fixed text, without which its search would be slow."""
    exact: tuple[tuple[str, re.Pattern[bytes]], ...]
    """Codes, and what must be at such a place for them."""


_HOME = re.compile(
    rb"(?<![A-Za-z0-9_.}])(?:/home/|/Users/|[A-Za-z]:(?:\\\\?|/)Users(?:\\\\?|/))"
    rb"([A-Za-z0-9_][A-Za-z0-9_.-]{0,31})(?:\\\\?|/)[^\x00-\x20\"'<>|;]{1,200}"
)
_ROOT = re.compile(rb"(?<![A-Za-z0-9_.}])/root/[^\x00-\x20\"'<>|;]{2,200}")
_BUILD = re.compile(
    rb"[A-Za-z]?:?[/\\][^\x00-\x20\"'<>|;]{0,200}conda-bld[/\\][^\x00-\x20\"'<>|;]{1,200}"
)
_KEY = re.compile(  # every repetition has a bound: hostile text must not make it slow
    rb"-----BEGIN (?:[A-Z]{1,12} )?PRIVATE KEY(?: BLOCK)?-----(?:\\n|\s){1,8}"
    rb"(?:[A-Za-z-]{1,40}: [^\n]{0,200}\n){0,8}\s{0,4}[A-Za-z0-9+/=]{40}"
)
_TOKEN = "secret-token"  # noqa: S105 # the name of a rule
_RULES = (
    _Rule(
        plain=re.compile(rb"/(?:home|Users|root|t)/"),
        exact=(
            ("leak-home", _HOME),
            ("leak-build-path", _ROOT),
            # A channel with the token that opens it.
            (_TOKEN, re.compile(rb"/t/[a-z]{2}-[0-9a-f]{8}-[0-9a-f-]{20,}")),
        ),
    ),
    _Rule(plain=re.compile(rb":\\\\?Users\\"), exact=(("leak-home", _HOME),)),
    _Rule(plain=b"conda-bld", exact=(("leak-build-path", _BUILD),)),
    _Rule(plain=b"PRIVATE KEY", exact=(("secret-key", _KEY),)),
    _Rule(plain=b"pypi-AgE", exact=((_TOKEN, re.compile(rb"pypi-AgE[A-Za-z0-9_-]{50,}")),)),
    _Rule(  # one search for both, since each costs half a second a gigabyte
        plain=re.compile(rb"g(?:h[pousr]_|ithub_pat_)"),
        exact=(
            (_TOKEN, re.compile(rb"(?<![A-Za-z0-9_])gh[pousr]_[A-Za-z0-9]{36,251}(?!\w)")),
            (_TOKEN, re.compile(rb"(?<![A-Za-z0-9_])github_pat_[A-Za-z0-9_]{60,251}")),
        ),
    ),
    _Rule(
        plain=re.compile(rb"AKIA"),
        exact=(
            (
                _TOKEN,
                re.compile(
                    rb"(?<![A-Za-z0-9+/])AKIA(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}(?![A-Za-z0-9+/])"
                ),
            ),
        ),
    ),
)


class Leaks(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one file."""

    findings: tuple[Finding, ...] = ()
    placeholder: bool = False
    """The prefix that conda replaces is in it."""


def search(name: str, content: Iterator[memoryview]) -> Leaks:
    """Look through the content of one member."""
    found: dict[str, Finding] = {}
    placeholder = False
    binary = False
    before = b""
    for number, piece in enumerate(content):
        text = before + piece if before else bytes(piece)
        binary = binary or (number == 0 and b"\0" in text[:8192])
        placeholder = placeholder or _PLACEHOLDER in text
        for code, hit in _hits(text):
            finding = _finding(name, code, hit, binary=binary)
            if finding is not None and _heavier(finding, found.get(finding.code)):
                found[finding.code] = finding
        before = text[-_OVERLAP:]
    return Leaks(findings=tuple(found.values()), placeholder=placeholder)


def _hits(text: bytes) -> Iterator[tuple[str, re.Match[bytes]]]:
    for rule in _RULES:
        for place in islice(_places(rule.plain, text), _MOST_HITS):
            start, end = max(0, place - _BEFORE), place + _AFTER
            for code, exact in rule.exact:
                for hit in exact.finditer(text, start, end):
                    if hit.start() <= place < hit.end():
                        yield code, hit


def _places(plain: bytes | re.Pattern[bytes], text: bytes) -> Iterator[int]:
    if isinstance(plain, re.Pattern):
        yield from (hit.start() for hit in plain.finditer(text))
        return
    place = text.find(plain)
    while place >= 0:
        yield place
        place = text.find(plain, place + 1)


def _heavier(new: Finding, old: Finding | None) -> bool:
    return old is None or (new.severity is Severity.ERROR and old.severity is not Severity.ERROR)


def _finding(name: str, code: str, hit: re.Match[bytes], *, binary: bool) -> Finding | None:
    shown = hit[0][:120].decode("ascii", "backslashreplace")
    path = PurePosixPath(name)
    if code.startswith("secret-"):
        # Keys of a package's own test suite are no secret, and yet somebody should look.
        tests = {"test", "tests", "testing"} & {part.lower() for part in path.parts[:-1]}
        what = "a private key" if code == "secret-key" else f"a token ({shown[:8]}…)"
        return Finding(
            code=code,
            severity=Severity.WARNING if tests and code == "secret-key" else Severity.ERROR,
            file=name,
            message=f"It holds {what}.",
            remedy="Revoke it, take it out, and build again.",
        )
    if b"_placehold" in hit[0]:
        return None  # conda replaces it on installing
    if code == "leak-home":
        nobody = hit[1].lower() in _NOBODY
        if nobody and not _BUILD_FOLDER.search(hit[0]):
            return None
        example = not binary and (path.suffix.lower() in _PROSE or name.startswith("info/"))
        severity = Severity.WARNING if nobody or example else Severity.ERROR
        code = "leak-build-path" if nobody else "leak-home"
    else:
        severity = Severity.WARNING
    return Finding(
        code=code,
        severity=severity,
        file=name,
        message=f"It names a path of the machine that built it: {shown}",
        remedy="Build in a neutral folder, or map the path away (-ffile-prefix-map, sed).",
    )
