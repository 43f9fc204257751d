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
"""The most that the report holds of one stream of one check."""
LOG_BYTES = 32 * 1024 * 1024
"""The most that the log of one check holds."""
_SECTION_REPORT = 1024 * 1024
_SECTION_LOGS = 256 * 1024 * 1024
_LEAST = 512


class Budget:
    """What the checks of one test section may still put into the report and the logs, in bytes.

    Half of the report's share is kept for checks that fail: those are read.
    """

    def __init__(self) -> None:
        self._report = _SECTION_REPORT
        self.logs = _SECTION_LOGS

    def excerpt(self, *, passed: bool) -> int:
        """Return how much of a stream the report may hold now; never nothing."""
        left = self._report - (_SECTION_REPORT // 2 if passed else 0)
        return max(_LEAST, min(REPORT_BYTES, left))

    def spent(self, size: int) -> None:
        """Note that this much went into the report."""
        self._report -= size


class Excerpt:
    """Head and tail of a stream, at most ``REPORT_BYTES`` together."""

    def __init__(self) -> None:
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        self._size += len(data)
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
            self._tail_size -= len(self._tail.popleft())

    def text(self, most: int = REPORT_BYTES) -> str:
        r"""Return it as text of about that size; bytes that are not UTF-8 show as ``\xNN``."""
        kept = self._head + b"".join(self._tail)
        whole = kept.decode(errors="backslashreplace")
        if len(kept) == self._size and len(whole) <= most:
            return whole
        half = most // 2
        head = self._head[:half].decode(errors="backslashreplace")[:half]
        tail = kept[-half:].decode(errors="backslashreplace")[-half:]
        return f"{head}\n[... shortened: it wrote {self._size} bytes in all ...]\n{tail}"


class Capture:
    """Both streams of one check, and its log file (made when the first byte comes)."""

    def __init__(self, log: Path, budget: Budget) -> None:
        self._streams = {"stdout": Excerpt(), "stderr": Excerpt()}
        self._log = log
        self._budget = budget
        self._wrote = False
        self._file: BinaryIO | None = None
        self._room = min(LOG_BYTES, budget.logs)

    def excerpts(self, *, passed: bool) -> tuple[str, str]:
        """Return what the report shows of stdout and of stderr."""
        texts = []
        for stream in self._streams.values():
            texts.append(stream.text(self._budget.excerpt(passed=passed)))
            self._budget.spent(len(texts[-1]))
        return texts[0], texts[1]

    def name(self, folder: Path) -> str | None:
        """Return the path of the log relative to a folder; None if there is no log."""
        return str(self._log.relative_to(folder)) if self._wrote else None

    def add(self, stream: str, data: bytes) -> None:
        """Take bytes of ``stdout`` or ``stderr``; EnvironmentBroken if the log is not writable."""
        self._streams[stream].add(data)
        with self._writing():
            if self._file is None and not self._wrote and self._room:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._log.open("wb")
                self._wrote = True
            if self._file is not None:
                taken = data[: self._room]
                self._file.write(taken)
                self._room -= len(taken)
                self._budget.logs -= len(taken)
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
                    f"{self._log}: the log cannot be written: {error.strerror}.",
                    remedy="Free some space, or choose another folder with --evidence.",
                ) from error
