"""What threads of one run share: who comes first, and what was looked at already."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild.environment import files


class Turns:
    """Locks by what they are for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def of(self, key: str) -> Iterator[None]:
        """Wait for one's turn, and have it."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            yield


Look = tuple[float, int]
"""When a file or folder was looked at (``time.monotonic``), and in what state it was then."""


class Looks:
    """Files and folders whose bytes a run knows, as long as nobody touches them."""

    def __init__(self) -> None:
        self._seen: dict[Path, Look] = {}

    def look(self, path: Path) -> Look:
        """Look at a file or folder."""
        return time.monotonic(), files.state(path)

    def know(self, path: Path, look: Look | None = None) -> None:
        """Note that its bytes are known, and were at that look (None: now)."""
        self._seen[path] = look or self.look(path)

    def known(self, path: Path) -> int:
        """Return the state in which its bytes were known; 0: they are not."""
        return self._seen.get(path, (0.0, 0))[1]

    def changed(self, path: Path, asked_s: float) -> bool:
        """Say whether it was touched since its bytes were known.

        Who waited for its turn since ``asked_s`` takes what was seen meanwhile: hosts that begin
        together look once.
        """
        looked_s, known = self._seen.pop(path, (0.0, 0))
        if looked_s < asked_s:
            looked_s, now = self.look(path)
            if not known or now != known:
                return True
        self._seen[path] = looked_s, known
        return False
