"""Collects the binaries of a package while it is scanned, and has them read by a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pytest_manualbuild.audit.binary import MOST_S, Binary, looks_like

_READER = "pytest_manualbuild.audit._reader"
_ENVIRON = ("LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH")
_MOST_CRASHES = 3
_HEADER = 64
"""Bytes that tell what a file is."""


@dataclass(kw_only=True)
class Binaries:
    """A folder of binaries on their way to the child process; a context manager."""

    found: list[Binary] = field(default_factory=list)
    """Filled by ``finish``."""
    _waiting: list[dict[str, str]] = field(default_factory=list)
    """What was sent, or is to be sent, in order."""
    _process: subprocess.Popen[bytes] | None = None
    _status: int | None = None
    """Of the last child that ended."""
    _count: int = 0

    def __enter__(self) -> Self:
        """Make the folder."""
        self._folder = tempfile.TemporaryDirectory(prefix="manualbuild-audit-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder, and the child if it still runs."""
        self._stop()
        self._folder.cleanup()

    def watch(self, name: str, content: Iterator[memoryview]) -> Iterator[memoryview]:
        """Hand the content on; if it is that of a binary, have a copy of it read meanwhile."""
        first = next(content, None)
        if first is None:
            return
        # Pieces end anywhere: a first one too short to tell is put before the next.
        while len(first) < _HEADER and (more := next(content, None)) is not None:
            first = memoryview(bytes(first) + bytes(more))
        form = looks_like(bytes(first[:8]), len(first))
        if not form:
            yield first
            yield from content
            return
        # Named by us: what is inside the package must not decide where we write.
        self._count += 1
        path = Path(self._folder.name) / str(self._count)
        with path.open("wb") as copy:
            copy.write(first)
            yield first
            for piece in content:
                copy.write(piece)
                yield piece
        self._waiting.append({"path": str(path), "file": name, "format": form})
        if self._process is None:
            self._start()
        self._send(self._waiting[-1:])

    def finish(self) -> None:
        """Wait for the child to read the rest; start another where it crashes."""
        crashes = 0
        while self._waiting:
            if self._process is None and crashes < _MOST_CRASHES:
                self._start()
                self._send(self._waiting)
            answered = self._answered()
            if answered < len(self._waiting):
                crashes += 1
                asked = self._waiting[answered]
                problem = f"the parser crashed, or took too long (status {self._status})"
                self.found.append(
                    Binary(file=asked["file"], format=asked["format"], problem=problem)
                )
                answered += 1
            del self._waiting[:answered]

    def _start(self) -> None:
        # Answers go to a file: nobody reads them while the package is scanned.
        self._answers = (Path(self._folder.name) / "answers").open("wb+")
        self._process = subprocess.Popen(
            # -P: no module may come from the folder that the user happens to be in.
            [sys.executable, "-P", "-m", _READER],
            stdin=subprocess.PIPE,
            stdout=self._answers,
            stderr=subprocess.DEVNULL,
            # No secret of the user where a hostile file is parsed.
            env={key: value for key, value in os.environ.items() if key in _ENVIRON},
        )

    def _send(self, requests: list[dict[str, str]]) -> None:
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it crashed, which `finish` finds out
                self._process.stdin.write(lines.encode())
                self._process.stdin.flush()

    def _answered(self) -> int:
        """Take the answers of the child, which ends; return how many there are."""
        if self._process is None:
            return 0
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            # The alarm in the child comes first.
            self._process.communicate(timeout=MOST_S * (len(self._waiting) + 2))
        self._answers.seek(0)
        lines = [line for line in self._answers if line.endswith(b"\n")]
        self._stop()
        for number, line in enumerate(lines):
            try:
                binary = msgspec.json.decode(line, type=Binary | None)
            except msgspec.DecodeError:
                return number  # no answer of ours: it was not itself any more
            if binary is not None:
                self.found.append(binary)
        return len(lines)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._status = self._process.returncode
            self._process = None
            self._answers.close()
