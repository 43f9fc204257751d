"""Scans a package file, and reads its ``info/``, without extracting anything.

Every byte is read in small steps and within limits, so that a hostile file costs
neither minutes nor memory. The rules for names, types and links of what lies
inside are in ``members``; what the files hold is judged by ``audit``.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from pytest_manualbuild.errors import ArtifactError, UnsafeArchive
from pytest_manualbuild.package import members
from pytest_manualbuild.package.containers import Budget, Limits, Stream, parts
from pytest_manualbuild.package.members import Kind, Member
from pytest_manualbuild.records import Finding, Severity

EXTENSIONS = (".conda", ".tar.bz2")
MOST_MEMBER = 64 << 20
"""Bytes of one file of ``info/``; a ``paths.json`` of 200,000 files has 60 MiB."""
MOST_INFO = 128 << 20
MOST_FINDINGS = 10_000
"""A package with more of them is no better described by the rest."""
MOST_UNPACKED = 512 << 20
"""How much of a ``.tar.bz2`` is unpacked in the search for its ``info/``."""

Look = Callable[[str, Iterator[memoryview]], None]
"""Gets the name and the content, in pieces, of each regular file; may stop in the midst."""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a package file holds."""

    members: tuple[Member, ...]
    info: dict[str, bytes]
    """The content of the regular files below ``info/``, by name."""
    findings: tuple[Finding, ...]
    """What an unpacked copy of it could do harm with; see ``members``."""


def scan(path: Path, look: Look | None = None, limits: Limits | None = None) -> Scan:
    """Read a whole package once, hash its files, and find what makes it unsafe to extract.

    Raises UnsafeArchive where reading on would cost too much or is pointless, ArtifactError for
    what is cut off, unreadable or no package.
    """
    found: list[Member] = []
    info: dict[str, bytes] = {}
    with _opened(path) as file:
        budget = Budget(path, path.stat().st_size, limits or Limits())
        with closing(parts(path, file, budget)) as streams:
            for part, stream in streams:
                for entry in _entries(path, stream):
                    budget.member(entry.name, entry.linkname)
                    member = _read(path, entry, stream, info, look)
                    _check_part(path, part, member)
                    found.append(member)
    unsafe = members.findings(found, _subdir(info.get("info/index.json")))
    return Scan(
        members=tuple(found),
        info=info,
        findings=tuple(at_most(MOST_FINDINGS, unsafe)),
    )


def at_most(most: int, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield so many findings, and one more, which no policy accepts, in place of the rest.

    Many that weigh little must not hide one that weighs more.
    """
    left = iter(findings)
    yield from islice(left, most)
    if next(left, None) is not None:
        yield Finding(
            code="archive-members",
            severity=Severity.ERROR,
            file="",
            message=f"There is more to find in it than {most} findings; the rest is not told.",
            remedy="Correct the first, and look again.",
        )


def info_members(path: Path) -> list[tuple[str, bytes]]:
    """Return (name, content) of the regular files below ``info/``, as they stand in the archive.

    Raises ArtifactError for what is not a package, is cut off, or is unsafe.
    """
    return [(name, content) for name, content, _ in _info_of(path)]


def info_programs(path: Path) -> frozenset[str]:
    """Return the names of those of them that are marked as programs; raises as the other does."""
    return frozenset(name for name, _, mode in _info_of(path) if mode & 0o100)


def _info_of(path: Path) -> list[tuple[str, bytes, int]]:
    limits = Limits(unpacked=MOST_UNPACKED)
    with _opened(path) as file:
        budget = Budget(path, path.stat().st_size, limits)
        with closing(parts(path, file, budget, strict=False)) as streams:
            part, stream = next(streams)  # info/ is the first part of a .conda
            return list(_info(path, part, stream, budget))


def _info(
    path: Path, part: str, stream: Stream, budget: Budget
) -> Iterator[tuple[str, bytes, int]]:
    seen: set[str] = set()
    left = MOST_INFO
    for entry in _entries(path, stream):
        budget.member(entry.name, entry.linkname)
        name = _name(entry)
        if not name.startswith("info/"):
            if not part and "info/index.json" in seen:
                return  # conda-build writes info/ first
            continue
        if not entry.isfile():
            continue
        if name in seen or ".." in PurePosixPath(name).parts or "\\" in name:
            reason = "twice in it" if name in seen else "not a safe or sensible member"
            raise ArtifactError(f"{path}: {name!r} is {reason}.", remedy="Build it again.")
        seen.add(name)
        left -= entry.size
        if left < 0:
            raise _too_large(path, name)
        content: dict[str, bytes] = {}
        _read(path, entry, stream, content, None)
        yield name, content.get(name, b""), entry.mode


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a package file; put whatever goes wrong with it into one sentence."""
    try:
        if not path.name.endswith(EXTENSIONS):
            raise ArtifactError(
                f"{path}: it is named neither .conda nor .tar.bz2.",
                remedy="Give the file of a conda package.",
            )
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: it is no file.", remedy="Give the file of a package.")
        if path.exists() and not path.stat().st_size:
            # So do files of /proc look, some of which keep their reader waiting for ever.
            raise ArtifactError(f"{path}: it is empty.", remedy="Build or fetch it again.")
        with path.open("rb") as file:
            yield file
    except ArtifactError:
        raise
    except OSError as error:
        if error.errno is None:
            raise _broken(path, error) from error
        raise ArtifactError(
            f"{path}: cannot be read: {error.strerror}.", remedy="Check the path."
        ) from error
    except Exception as error:  # the libraries' errors share no base
        raise _broken(path, error) from error


def _broken(path: Path, error: BaseException) -> ArtifactError:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return ArtifactError(
        f"{path}: cut off, or not a conda package ({reason}).",
        remedy="Build or fetch it again.",
    )


def _entries(path: Path, stream: Stream) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of one tar stream, which must be whole and hide nothing."""
    # Given the stream itself, tarfile leaves it to us to skip and to read what lies between.
    archive = tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8")  # type: ignore[arg-type] # all it calls
    while (entry := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # it would keep them all
        yield entry
    # tarfile takes any header that it cannot read for the end, and looks at nothing behind it.
    if len(stream.last) < tarfile.BLOCKSIZE:
        raise EOFError("the end of the file is missing")
    if archive.pax_headers or any(stream.last) or any(_nonzero(stream)):
        raise UnsafeArchive(
            f"{path}: there is data in or behind the end of its tar, which not all readers see.",
            remedy="Build it again, and do not unpack this file.",
            code="archive-hidden-data",
        )


def _nonzero(stream: Stream) -> Iterator[bool]:
    return (bool(bytes(piece).strip(b"\0")) for piece in stream.rest())


def _name(entry: tarfile.TarInfo) -> str:
    return entry.name.removeprefix("./")


def _read(
    path: Path,
    entry: tarfile.TarInfo,
    stream: Stream,
    info: dict[str, bytes],
    look: Look | None,
) -> Member:
    """Read one member to its end; keep its content in ``info`` if it belongs there."""
    name, kind = _name(entry), members.kind(entry)
    sha256 = ""
    if kind is Kind.FILE:
        digest = hashlib.sha256()
        content = _hashed(stream, entry, digest.update)
        if name.startswith("info/") and name not in info:
            if entry.size > MOST_MEMBER or sum(map(len, info.values())) + entry.size > MOST_INFO:
                raise _too_large(path, name)
            info[name] = b"".join(content)
            content = iter([memoryview(info[name])])
        if look is not None:
            look(name, content)
        for _ in content:
            pass
        sha256 = digest.hexdigest()
    return Member(
        name=name,
        kind=kind,
        size=entry.size,
        mode=entry.mode,
        link=entry.linkname,
        sha256=sha256,
        resized="size" in entry.pax_headers,
    )


def _too_large(path: Path, name: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"{path}: its info/ is too large.",
        remedy="Build it again.",
        code="archive-size",
        member=name,
    )


def _hashed(
    stream: Stream, entry: tarfile.TarInfo, update: Callable[[memoryview], None]
) -> Iterator[memoryview]:
    stream.seek(entry.offset_data)
    for piece in stream.take(entry.size):
        update(piece)
        yield piece
    if stream.tell() < entry.offset_data + entry.size:
        raise EOFError("the end of the file is missing")


def _check_part(path: Path, part: str, member: Member) -> None:
    """Refuse what would write over the other part of a ``.conda``."""
    inside = member.name == "info" or member.name.startswith("info/")
    if part and member.name != "." and inside != (part == "info"):
        raise UnsafeArchive(
            f"{path}: {member.name!r} lies in the {part} part, where it must not be.",
            remedy="Build it again, and do not unpack this file.",
            code="archive-part",
            member=member.name,
        )


def _subdir(index: bytes | None) -> str:
    """Return what the index says; a broken one is somebody else's finding."""
    try:
        return str(json.loads(index or b"{}")["subdir"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
