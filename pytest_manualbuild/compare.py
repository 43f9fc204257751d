"""Compares two builds of the same recipe, file by file, from what the archives really hold.

Two honest builds differ in what depends on the time and the folder of the build. That much is
known, and taken out before files are compared; whatever else differs is named.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from pytest_manualbuild.package import archive
from pytest_manualbuild.package.members import Member

MOST_CONTENT = 512 << 20
"""How much of one package's differing files is looked into; what is beyond differs."""
_MOST_GZIP = 64 << 20
_BUILDER = ("conda_build_version", "conda_private", "conda_version", "env_vars", "root_pkgs")
"""Keys of ``info/about.json`` that tell of the builder's machine."""
_MOST_NOTES = 64 << 10
_BUILD_ID = re.compile(rb"\x04\0\0\0([\x08\x10\x14\x20])\0\0\0\x03\0\0\0GNU\0")
"""A note of type 3 named GNU, as the linker writes it; the group is the length of the build id."""
_ELF64 = b"\x7fELF\x02\x01"
_MACHO64 = b"\xcf\xfa\xed\xfe"
_PT_NOTE, _LC_UUID = 4, 0x1B


class Likeness(StrEnum):
    """How like each other two builds are."""

    IDENTICAL = "identical"  # the same bytes
    EQUAL = "equal"  # but for what the time and the folder of a build put into files
    DIFFERS = "differs"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One file in which two builds differ."""

    file: str
    how: str
    """In words, such as ``only in the first``."""
    explained: bool = False
    """Whether nothing but known noise differs."""
    in_bytes: bool = False
    """Whether it is in both, and other bytes in each."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What became of two builds side by side."""

    likeness: Likeness
    differences: tuple[Difference, ...]

    def text(self) -> str:
        """Return it in lines for people; what is not explained first."""
        ordered = sorted(self.differences, key=lambda one: (one.explained, one.file))
        lines = [f"  {one.file}: {one.how}" for one in ordered]
        return "\n".join([str(self.likeness), *lines]) + "\n"


class _Build(msgspec.Struct, frozen=True, kw_only=True):
    """One side: what lies in it, and the prefix of its build in each file that has one."""

    path: Path
    members: Mapping[str, Member]
    info: Mapping[str, bytes]
    placeholders: Mapping[str, bytes]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two package files; raises ArtifactError for what cannot be read or is unsafe."""
    one, other = _read(first), _read(second)
    names = sorted(one.members.keys() | other.members.keys())
    changed = [
        name
        for name in names
        if name in one.members
        and name in other.members
        and one.members[name].sha256 != other.members[name].sha256
    ]
    normal = _contents(one, changed), _contents(other, changed)
    differences = [
        difference
        for name in names
        for difference in _differences(name, one, other, normal[0].get(name), normal[1].get(name))
    ]
    if all(difference.explained for difference in differences):
        likeness = Likeness.EQUAL if differences else Likeness.IDENTICAL
    else:
        likeness = Likeness.DIFFERS
    return Comparison(likeness=likeness, differences=tuple(differences))


def _read(path: Path) -> _Build:
    scan = archive.scan(path)
    return _Build(
        path=path,
        members={member.name: member for member in scan.members},
        info=scan.info,
        placeholders=_placeholders(scan.info.get("info/paths.json", b"")),
    )


def _placeholders(paths: bytes) -> dict[str, bytes]:
    try:
        rows = json.loads(paths)["paths"]
        return {
            row["_path"]: row["prefix_placeholder"].encode()
            for row in rows
            if row.get("prefix_placeholder")
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # the audit names a list that cannot be read; nothing is normalised by it


def _differences(
    name: str, one: _Build, other: _Build, first: bytes | None, second: bytes | None
) -> Iterator[Difference]:
    here, there = one.members.get(name), other.members.get(name)
    if here is None or there is None:
        yield Difference(file=name, how=f"only in the {'first' if there is None else 'second'}")
        return
    for what in ("kind", "mode", "link"):
        before, after = getattr(here, what), getattr(there, what)
        if before != after:
            shown = (f"{one:04o}" if what == "mode" else str(one) for one in (before, after))
            yield Difference(file=name, how=f"another {what}: {', '.join(shown)}")
    if here.sha256 == there.sha256:
        return
    if first is not None and first == second:
        yield Difference(file=name, how="equal but for the time or folder of the build",
                         explained=True)  # fmt: skip
    else:
        how = f"other bytes ({here.size} and {there.size})"
        yield Difference(file=name, how=how, in_bytes=True)


def _contents(build: _Build, wanted: list[str]) -> dict[str, bytes]:
    """Return the differing files without what is known to differ between honest builds."""
    found: dict[str, bytes] = {}
    names, left = set(wanted), MOST_CONTENT

    def look(name: str, content: Iterator[memoryview]) -> None:
        nonlocal left
        if name in names and build.members[name].size <= left:
            left -= build.members[name].size
            found[name] = normalise(name, b"".join(content), build.placeholders.get(name, b""))

    if names:
        archive.scan(build.path, look)
    return found


def normalise(name: str, data: bytes, placeholder: bytes = b"") -> bytes:
    """Return the bytes of a file without what the time and the folder of its build put there."""
    if placeholder:
        # As long as before: a text file may say how long it is, and in a binary offsets count.
        data = data.replace(placeholder, b"/" * len(placeholder))
    for fits, change in _NORMALISERS:
        if fits(name, data):
            try:
                return change(data)
            except (ValueError, LookupError, TypeError, AttributeError, OSError, EOFError,
                    RecursionError, zlib.error):  # fmt: skip
                return data  # not what its name or its beginning says: compared as it is
    return data


def _index(data: bytes) -> bytes:
    return _without(data, ("timestamp",))


def _about(data: bytes) -> bytes:
    return _without(data, _BUILDER)


def _without(data: bytes, keys: tuple[str, ...]) -> bytes:
    value = json.loads(data)
    return json.dumps({k: v for k, v in value.items() if k not in keys}, sort_keys=True).encode()


def _paths(data: bytes) -> bytes:
    """Leave out hashes and sizes: the files themselves are compared."""
    value = json.loads(data)
    for row in value["paths"]:
        for key in ("sha256", "sha256_in_prefix", "size_in_bytes", "prefix_placeholder"):
            row.pop(key, None)
    return json.dumps(value, sort_keys=True).encode()


def _has_prefix(data: bytes) -> bytes:
    """Leave out the placeholder in front of each line's mode and file."""
    return b"\n".join(b" ".join(line.split()[-2:]) for line in data.splitlines())


def _pyc(data: bytes) -> bytes:
    """Leave out time and size of the source in the header (PEP 552)."""
    if int.from_bytes(data[4:8], "little"):
        return data  # by hash, and that does not depend on the time
    return data[:8] + bytes(8) + data[16:]


def _gzip(data: bytes) -> bytes:
    """Unpack, and leave out time and name in the header (RFC 1952)."""
    unpacked = zlib.decompressobj(wbits=31)
    content = unpacked.decompress(data, _MOST_GZIP)
    if not unpacked.eof or unpacked.unused_data:
        return data
    return gzip.compress(content, mtime=0)


def _pe(data: bytes) -> bytes:
    """Leave out time stamp and check sum of the headers (PE format, COFF and optional header)."""
    start = int.from_bytes(data[0x3C:0x40], "little")
    if data[start : start + 4] != b"PE\0\0":
        return data
    changed = bytearray(data)
    for place in (start + 8, start + 24 + 64):
        changed[place : place + 4] = bytes(4)
    return bytes(changed)


def _elf(data: bytes) -> bytes:
    """Leave out the build id, which is a hash of everything else; from note segments only."""
    changed = bytearray(data)
    headers, size, count = _int(data, 0x20, 8), _int(data, 0x36, 2), _int(data, 0x38, 2)
    for start in range(headers, headers + size * count, size):
        place, length = _int(data, start + 8, 8), _int(data, start + 32, 8)
        if _int(data, start, 4) == _PT_NOTE and length <= _MOST_NOTES:
            note = _BUILD_ID.search(data, place, place + length)
            if note:
                changed[note.end() : note.end() + note[1][0]] = bytes(note[1][0])
    return bytes(changed)


def _macho(data: bytes) -> bytes:
    """Leave out the UUID, a load command of its own."""
    place = 32
    for _ in range(_int(data, 16, 4)):
        if _int(data, place, 4) == _LC_UUID:
            return data[: place + 8] + bytes(16) + data[place + 24 :]
        place += _int(data, place + 4, 4)
    return data


def _int(data: bytes, place: int, size: int) -> int:
    if place + size > len(data):
        raise ValueError("it is cut off")
    return int.from_bytes(data[place : place + size], "little")


_NORMALISERS: tuple[tuple[Callable[[str, bytes], bool], Callable[[bytes], bytes]], ...] = (
    (lambda name, _: name == "info/index.json", _index),
    (lambda name, _: name == "info/about.json", _about),
    (lambda name, _: name == "info/paths.json", _paths),
    (lambda name, _: name == "info/has_prefix", _has_prefix),
    (lambda name, _: name.endswith(".pyc"), _pyc),
    (lambda _, data: data[:2] == b"\x1f\x8b", _gzip),
    (lambda _, data: data[:6] == _ELF64, _elf),
    (lambda _, data: data[:2] == b"MZ", _pe),
    (lambda _, data: data[:4] == _MACHO64, _macho),
)
