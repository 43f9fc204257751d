"""Opens a package file, ``.conda`` or ``.tar.bz2``, as streams of tar bytes with limits.

Nothing is extracted, everything is unpacked in small steps, and what comes out
is counted: a bomb costs neither memory nor minutes. What stands in the tar
streams is not looked at here (see ``archive``).
"""

from __future__ import annotations

import bz2
import json
import struct
import sys
import time
import zipfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO, BinaryIO

import msgspec

from pytest_manualbuild.errors import ArtifactError, UnsafeArchive

STEP = 1 << 20
MOST_READ = 1 << 16
"""Bytes that ``tarfile`` may ask for at once: a header, or the long names before one."""
_SMALL = 1 << 16
_LONGEST = 1024  # characters of a path that macOS can open
_DEEPEST = 100
_MOST_METADATA = 1 << 16
_MOST_DIRECTORY = 1 << 16
_WINDOW_LOG = 27  # 128 MiB, what `zstd --ultra -22` writes; larger ones cost the reader memory
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_ENDS = 56 + 20
_ZIP_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_AGAIN = "Build it again, and do not unpack this file."


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one package may cost to look at."""

    unpacked: int = 64 << 30
    """Bytes."""
    ratio: int = 200
    """Unpacked to packed, where more than ``ratio_from`` bytes come out."""
    ratio_from: int = 256 << 20
    members: int = 500_000
    names: int = 128 << 20
    """Characters of all names and links."""
    time_s: float = 900


class Budget:
    """What is left of the limits; UnsafeArchive when they are used up."""

    def __init__(self, path: Path, packed: int, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self._unpacked = 0
        self._members = 0
        self._names = 0
        self._by_ratio = max(limits.ratio_from, packed * limits.ratio)
        self._end = time.monotonic() + limits.time_s

    def spend(self, unpacked: int) -> None:
        """Count bytes that came out."""
        self._unpacked += unpacked
        if self._unpacked > self.limits.unpacked:
            self._stop("size", f"more than {self.limits.unpacked >> 20} MiB come out of it")
        if self._unpacked > self._by_ratio:
            self._stop("ratio", f"more than {self._by_ratio >> 20} MiB come out of it: a bomb")
        if time.monotonic() > self._end:
            self._stop("time", f"looking at it takes more than {self.limits.time_s:.0f} s")

    def member(self, name: str, link: str) -> None:
        """Count one member, and what its name and link cost to keep and to compare."""
        self._members += 1
        self._names += len(name) + len(link)
        for path in (name, link):
            if len(path) > _LONGEST or path.count("/") > _DEEPEST:
                self._stop("long", f"{path[:60]!r}… has too many characters or folders")
        if self._names > self.limits.names:
            self._stop("members", f"its names have more than {self.limits.names >> 20} MiB")
        if self._members > self.limits.members:
            self._stop("members", f"it has more than {self.limits.members} members")

    def _stop(self, code: str, problem: str) -> None:
        raise UnsafeArchive(f"{self.path}: {problem}.", remedy=_AGAIN, code=f"archive-{code}")


class Stream:
    """Unpacked bytes, forward only: as much of a file as ``tarfile`` needs.

    It refuses to go back and to give large pieces, so that a header with a lie in it
    makes ``tarfile`` stop, where it would loop for ever or fill the memory.
    """

    def __init__(self, steps: Iterator[bytes]) -> None:
        self._steps = steps
        self._step = memoryview(b"")
        self._position = 0
        self.last = b""
        """What the last ``read`` gave."""

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, position: int) -> None:
        """Go forward; ValueError for going back."""
        if position < self._position:
            raise ValueError("a header points backwards")
        for _ in self.take(position - self._position):
            pass

    def read(self, size: int) -> bytes:
        """Return that many bytes, fewer only at the end; ValueError for very many."""
        if not 0 <= size <= MOST_READ:
            raise ValueError("a header is too large")
        self.last = b"".join(self.take(size))
        return self.last

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next ``size`` bytes in pieces, fewer only at the end."""
        while size > 0:
            if not self._step:
                self._step = memoryview(next(self._steps, b""))
                if not self._step:
                    return
            piece, self._step = self._step[:size], self._step[size:]
            self._position += len(piece)
            size -= len(piece)
            yield piece

    def rest(self) -> Iterator[memoryview]:
        """Yield everything up to the end."""
        return self.take(sys.maxsize)


def parts(
    path: Path, file: BinaryIO, budget: Budget, *, strict: bool = True
) -> Generator[tuple[str, Stream]]:
    """Yield (``info`` or ``pkg``, stream) of a ``.conda``, (``""``, stream) of a ``.tar.bz2``.

    Each stream must be read to its end before the next is asked for; close what this returns.
    Not ``strict``, bytes of a zip that no reader sees are let pass, for a look at a file that
    somebody changed.
    Raises UnsafeArchive for what hides data or is a bomb, and ArtifactError or an error of the
    libraries for what is broken.
    """
    if not path.name.endswith(".conda"):
        with closing(_ahead(_unbz2(path, file, budget), path.stat().st_size)) as steps:
            yield "", Stream(steps)
        return
    stem = path.name.removesuffix(".conda")
    if strict:
        _check_end(path, file)
    with zipfile.ZipFile(file) as container:
        _check_members(path, container, stem)
        if strict:
            _check_layout(path, file, container)
        _check_metadata(container)
        for part in ("info", "pkg"):
            member = container.getinfo(f"{part}-{stem}.tar.zst")
            with (
                container.open(member) as packed,
                closing(_ahead(_unzstd(path, packed, budget), member.file_size)) as steps,
            ):
                yield part, Stream(steps)


def _ahead(steps: Iterator[bytes], packed: int) -> Generator[bytes]:
    """Unpack the next step while this one is looked at: the libraries need no interpreter.

    Where little is ``packed``, in bytes, a thread would take longer than it saves. To be closed,
    not left to the garbage collector: it may come while the very thread that would be waited for
    holds a lock of ``threading``'s, and wait for ever.
    """
    if packed < _SMALL:
        yield from steps
        return
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, steps, b"")
        while step := following.result():
            following = thread.submit(next, steps, b"")
            yield step


def _unzstd(path: Path, packed: IO[bytes], budget: Budget) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 # 10 ms
    else:
        from backports import zstd  # noqa: PLC0415 # 10 ms

    options = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
    decompressor = zstd.ZstdDecompressor(options=options)
    while not decompressor.eof:
        more = packed.read(STEP) if decompressor.needs_input else b""
        if not more and decompressor.needs_input:
            raise EOFError("the end of the file is missing")
        if step := decompressor.decompress(more, max_length=STEP):
            budget.spend(len(step))
            yield step
    if decompressor.unused_data or packed.read(1):
        raise _hidden(path, "behind the end of its compressed data")


def _unbz2(path: Path, file: IO[bytes], budget: Budget) -> Iterator[bytes]:
    decompressor = bz2.BZ2Decompressor()
    while True:
        if decompressor.eof:
            # Parallel compressors write one stream after the other.
            more = decompressor.unused_data or file.read(STEP)
            if not more:
                return
            if not more.startswith(b"BZh"[: len(more)]):
                raise _hidden(path, "behind the end of its compressed data")
            decompressor = bz2.BZ2Decompressor()
        else:
            more = file.read(STEP) if decompressor.needs_input else b""
            if not more and decompressor.needs_input:
                raise EOFError("the end of the file is missing")
        if step := decompressor.decompress(more, max_length=STEP):
            budget.spend(len(step))
            yield step


def _check_end(path: Path, file: BinaryIO) -> None:
    """Refuse a zip with a comment or data behind its end, or with an endless directory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _ZIP_END.size))
    end = file.read()
    if len(end) < _ZIP_END.size or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        if zipfile.is_zipfile(file):
            raise _hidden(path, "behind the end of the zip")
        raise zipfile.BadZipFile("no zip that is whole")
    if _ZIP_END.unpack(end)[5] > _MOST_DIRECTORY:
        raise UnsafeArchive(
            f"{path}: the directory of the zip is too large.", remedy=_AGAIN, code="archive-members"
        )


def _check_members(path: Path, container: zipfile.ZipFile, stem: str) -> None:
    wanted = {"metadata.json", f"info-{stem}.tar.zst", f"pkg-{stem}.tar.zst"}
    members = container.infolist()
    names = [member.filename for member in members]
    if wanted - set(names) and {"metadata.json"} <= set(names):
        raise ArtifactError(
            f"{path}: it has no info and pkg part of its own name.",
            remedy="Give the file the name that it was built with.",
        )
    if not wanted <= set(names):
        raise zipfile.BadZipFile("parts are missing")
    for name in names:
        if name not in wanted or names.count(name) > 1:
            raise UnsafeArchive(
                f"{path}: the zip has a member {name!r} too many.",
                remedy=_AGAIN,
                code="archive-container",
                member=name,
            )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise UnsafeArchive(
                f"{path}: {member.filename} is compressed or encrypted by the zip.",
                remedy=_AGAIN,
                code="archive-container",
                member=member.filename,
            )


def _check_layout(path: Path, file: BinaryIO, container: zipfile.ZipFile) -> None:
    """Refuse bytes that no member owns, and members that share bytes or have two names."""
    position = 0
    for member in sorted(container.infolist(), key=lambda member: member.header_offset):
        file.seek(member.header_offset)
        fields = _ZIP_LOCAL.unpack(file.read(_ZIP_LOCAL.size))
        name_size, extra_size = fields[-2:]
        if member.header_offset != position or file.read(name_size) != member.filename.encode():
            raise _hidden(path, f"before {member.filename}")
        position += _ZIP_LOCAL.size + name_size + extra_size + member.compress_size
        if member.flag_bits & _DESCRIPTOR:
            file.seek(position)
            signed = file.read(4) == b"PK\7\x08"
            long = member.compress_size > zipfile.ZIP64_LIMIT
            position += 12 + 4 * signed + 8 * long
    size = file.seek(0, 2)
    directory = size - _ZIP_END.size - position
    file.seek(-_ZIP_END.size, 2)
    stated = _ZIP_END.unpack(file.read())[5]
    if container.start_dir != position or directory not in (stated, stated + _ZIP64_ENDS):
        raise _hidden(path, "around the directory of the zip")


def _check_metadata(container: zipfile.ZipFile) -> None:
    with container.open("metadata.json") as file:
        metadata = json.loads(file.read(_MOST_METADATA))
    if not isinstance(metadata, dict) or metadata.get("conda_pkg_format_version") != 2:  # noqa: PLR2004 # the only one there is
        raise zipfile.BadZipFile("metadata.json names another format")


def _hidden(path: Path, where: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"{path}: there is data {where}, which no reader sees.",
        remedy=_AGAIN,
        code="archive-hidden-data",
    )
