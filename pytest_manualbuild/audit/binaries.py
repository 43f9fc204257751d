"""Collects the binaries of a package while it is scanned, and has them read by a child process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pytest_manualbuild.audit import _reader
from pytest_manualbuild.audit.binary import Binary, looks_like

_BATCH = 512 << 20
"""Bytes that may lie on the disk before they are read and removed."""
_MOST_CRASHES = 3


@dataclass(kw_only=True)
class Binaries:
    """A folder of binaries on their way to the child process; a context manager."""

    found: list[Binary] = field(default_factory=list)
    _waiting: list[tuple[Path, str, str]] = field(default_factory=list)
    _bytes: int = 0
    _crashes: int = 0

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
        """Remove the folder."""
        self._folder.cleanup()

    def watch(self, name: str, content: Iterator[memoryview]) -> Iterator[memoryview]:
        """Hand the content on, and keep a copy if it is that of a binary."""
        first = next(content, None)
        if first is None:
            return
        # Pieces end anywhere: a first one too short to tell is put before the next.
        while len(first) < 64 and (more := next(content, None)) is not None:  # noqa: PLR2004 # a header
            first = memoryview(bytes(first) + bytes(more))
        form = looks_like(bytes(first[:8]), len(first))
        if not form:
            yield first
            yield from content
            return
        # Named by us: what is inside the package must not decide where we write.
        path = Path(self._folder.name) / str(len(self._waiting))
        with path.open("wb") as copy:
            copy.write(first)
            yield first
            for piece in content:
                copy.write(piece)
                yield piece
            self._bytes += copy.tell()
        self._waiting.append((path, name, form))
        if self._bytes > _BATCH:
            self.read()

    def read(self) -> None:
        """Have whatever waits read, and remove it."""
        while self._waiting:
            answered = self._ask() if self._crashes < _MOST_CRASHES else 0
            if answered < len(self._waiting):
                self._crashes += 1
                path, name, form = self._waiting[answered]
                problem = "the parser crashed, or took too long"
                self.found.append(Binary(file=name, format=form, problem=problem))
                answered += 1
            for path, _, _ in self._waiting[:answered]:
                path.unlink()
            del self._waiting[:answered]
        self._bytes = 0

    def _ask(self) -> int:
        """Start the child with all that waits; return how many it answered."""
        requests = "".join(
            json.dumps({"path": str(path), "file": name, "format": form}) + "\n"
            for path, name, form in self._waiting
        )
        try:
            output = subprocess.run(
                [sys.executable, "-P", "-m", _reader.__name__],
                input=requests.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_reader.MOST_S * (len(self._waiting) + 2),
                check=False,
            ).stdout
        except subprocess.TimeoutExpired as late:  # the alarm in the child comes first
            output = late.stdout or b""
        answered = 0
        for line in output.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            binary = msgspec.json.decode(line, type=Binary | None)
            answered += 1
            if binary is not None:
                self.found.append(binary)
        return answered
