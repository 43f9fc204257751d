"""Keeps what a check wrote: head and tail for the report, nearly all of it in a log file.

The sizes bound the controller's memory and disk whatever a test writes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_manualbuild.errors import EnvironmentBroken, during

REPORT_BYTES = 64 * 1024
LOG_BYTES = 32 * 1024 * 1024


class Excerpt:
    """Head and tail of a stream, at most ``REPORT_BYTES`` together."""

    def __init__(self) -> None:
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        half = REPORT_BYTES // 2
        room = half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= half:
            gone = len(self._tail.popleft())
            self._tail_size -= gone
            self._dropped += gone

    def text(self) -> str:
        r"""Return it as text; bytes that are not UTF-8 show as ``\\xNN``."""
        tail = b"".join(self._tail)
        cut = max(0, len(tail) - REPORT_BYTES // 2)
        dropped = self._dropped + cut
        middle = f"\n[... {dropped} bytes left out ...]\n".encode() if dropped else b""
        return (self._head + middle + tail[cut:]).decode(errors="backslashreplace")


class Capture:
    """Both streams of one check, and its log file (made when the first byte comes)."""

    def __init__(self, log: Path) -> None:
        self.stdout = Excerpt()
        self.stderr = Excerpt()
        self.log = log
        self.wrote = False
        self._file: BinaryIO | None = None
        self._room = LOG_BYTES

    def add(self, stream: str, data: bytes) -> None:
        """Take bytes of ``stdout`` or ``stderr``; EnvironmentBroken if the log is not writable."""
        (self.stdout if stream == "stdout" else self.stderr).add(data)
        with self._writing():
            if self._file is None and self._room == LOG_BYTES:
                self.log.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.log.open("wb")
                self.wrote = True
            if self._file is not None:
                self._file.write(data[: self._room])
                self._room -= min(len(data), self._room)
                if not self._room:
                    self._file.write(b"\n[the rest is left out]\n")
                    self.close()

    def close(self) -> None:
        """Close the log file, once; EnvironmentBroken if its end cannot be written."""
        file, self._file = self._file, None
        if file is not None:
            with self._writing():
                file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with during("collecting"):
                raise EnvironmentBroken(
                    f"{self.log}: the log cannot be written: {error.strerror}.",
                    remedy="Free some space, or choose another folder with --evidence.",
                ) from error
