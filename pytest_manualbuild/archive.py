"""Reads the ``info/`` members of a package file without extracting anything.

Both formats, with limits on sizes, so that a hostile file costs neither
minutes nor memory. Judging the rest of an archive is not done here.
"""

from __future__ import annotations

import bz2
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pytest_manualbuild.errors import ArtifactError

EXTENSIONS = (".conda", ".tar.bz2")
MOST_MEMBER = 8 * 1024 * 1024
MOST_INFO = 64 * 1024 * 1024
MOST_MEMBERS = 20_000
MOST_UNPACKED = 512 * 1024 * 1024
"""How much of a ``.tar.bz2`` is unpacked in the search for its ``info/``."""


def info_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files below ``info/``, as they stand in the archive.

    Raises ArtifactError for what is not a package, is cut off, or is unsafe.
    """
    try:
        with path.open("rb") as file:
            if path.name.endswith(".conda"):
                yield from _conda(path, file)
            else:
                yield from _contents(path, _tar(_Bz2(path, file)), stop_after_info=True)
    except ArtifactError:
        raise
    except OSError as error:
        if error.errno is None:
            raise _broken(path, error) from error
        raise ArtifactError(
            f"{path}: cannot be read: {error.strerror}.", remedy="Check --artifacts."
        ) from error
    except Exception as error:  # the libraries' errors share no base
        raise _broken(path, error) from error


def _broken(path: Path, error: BaseException) -> ArtifactError:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return ArtifactError(
        f"{path}: cut off, or not a conda package ({reason}).",
        remedy="Build or fetch it again.",
    )


def _conda(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    from conda_package_streaming import package_streaming  # noqa: PLC0415 # 30 ms

    try:
        members = package_streaming.stream_conda_component(path.name, file, "info")
        yield from _contents(path, members, stop_after_info=False)
    except LookupError as error:
        raise ArtifactError(
            f"{path}: it has no info part of its own name.",
            remedy="Give the file the name that it was built with.",
        ) from error


class _Bz2(io.RawIOBase):
    """A .bz2 as a stream that is unpacked in small steps: tarfile's own would unpack a bomb."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._decompressor = bz2.BZ2Decompressor()
        self._total = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer; 0 at the end."""
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data or self._file.read(64 * 1024)
                if not rest:
                    return 0
                self._decompressor = bz2.BZ2Decompressor()
            else:
                rest = self._file.read(64 * 1024) if self._decompressor.needs_input else b""
                if not rest and self._decompressor.needs_input:
                    raise EOFError("the end of the file is missing")
            data = self._decompressor.decompress(rest, max_length=len(buffer))
            if data:
                self._total += len(data)
                if self._total > MOST_UNPACKED:
                    raise ArtifactError(
                        f"{self._path}: no complete info/ in its first {MOST_UNPACKED >> 20} MiB.",
                        remedy="Build it with conda-build, which puts info/ first.",
                    )
                buffer[: len(data)] = data
                return len(data)


def _tar(stream: io.RawIOBase) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            yield archive, member


def _contents(
    path: Path,
    members: Iterable[tuple[tarfile.TarFile, tarfile.TarInfo]],
    *,
    stop_after_info: bool,
) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    total = 0
    for number, (archive, member) in enumerate(members):
        name = member.name.removeprefix("./")
        if not name.startswith("info/"):
            if stop_after_info and "info/index.json" in seen:
                return  # conda-build writes info/ first
            continue
        if not member.isfile():
            continue
        _refuse(path, name, member, seen)
        seen.add(name)
        total += member.size
        if total > MOST_INFO or number > MOST_MEMBERS:
            raise ArtifactError(f"{path}: its info/ is too large.", remedy="Build it again.")
        content = archive.extractfile(member)
        yield name, content.read() if content is not None else b""


def _refuse(path: Path, name: str, member: tarfile.TarInfo, seen: set[str]) -> None:
    parts = PurePosixPath(name).parts
    if ".." in parts or "\\" in name or "\0" in name or name in seen or member.size > MOST_MEMBER:
        reason = "twice in it" if name in seen else "not a safe or sensible member"
        raise ArtifactError(f"{path}: {name!r} is {reason}.", remedy="Build it again.")
