"""Sends an environment to another machine as one compressed archive, while it is packed."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pytest_manualbuild.patience import patient

LAST = ".manualbuild-delivered"
"""The folder that is the last member of an archive: where it is, all of it arrived."""
DELIVER_S = 3600.0
"""Time limit of one delivery."""
_CHUNK = 1 << 20
_MOST_SAID = 2000


def send(
    call: Sequence[str], environment: Mapping[str, str], folder: Path, *, zstd: bool
) -> tuple[int, str]:
    """Pack a folder into the standard input of a call; return its exit status and its words."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            call,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=dict(environment),
            start_new_session=True,
        )
        limit = threading.Timer(patient(DELIVER_S), process.kill)
        limit.start()
        try:
            # When the call is gone, its status says why; and half an archive lacks its last member.
            with contextlib.suppress(OSError), process:
                pack(folder, process.stdin or said, zstd=zstd)
        finally:
            status = process.wait()
            limit.cancel()
        said.seek(0)
        return status, said.read(_MOST_SAID).decode(errors="backslashreplace").strip()


def pack(folder: Path, sink: IO[bytes], *, zstd: bool) -> None:
    """Write a folder as one compressed tar, with ``LAST`` as its last member, and close it."""

    def ours(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with (
        sink,
        _compressed(sink, zstd=zstd) as packed,
        tarfile.open(
            fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK
        ) as archive,
    ):
        archive.add(folder, ".", filter=ours)
        last = tarfile.TarInfo(LAST)
        last.type, last.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(last)


def _compressed(sink: IO[bytes], *, zstd: bool) -> Any:  # noqa: ANN401 # two libraries' files
    # The fastest levels: a line that is slower than these is slow for any level.
    if not zstd:
        return gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1)
    if sys.version_info >= (3, 14):
        from compression import zstd as library  # noqa: PLC0415 # 10 ms
    else:
        from backports import zstd as library  # noqa: PLC0415 # 10 ms
    return library.ZstdFile(sink, "w", level=1)
