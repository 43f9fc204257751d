"""The record of a run on disk, so that whatever a killed run left can be found and removed.

A run writes down what it is about to make before it makes it, and holds a lock
on its record while it lives. A record whose lock is free belongs to a dead run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild.errors import HostUnavailable

CACHE_VARIABLE = "MANUALBUILD_CACHE"
_RUN_ID = re.compile(r"[0-9a-f]{32}")  # uuid4().hex


def cache_folder() -> Path:
    """Return the user's cache folder for this tool, which may not exist yet.

    ``MANUALBUILD_CACHE`` names another one; else ``XDG_CACHE_HOME`` is respected.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "pytest-manualbuild"


def is_run_id(text: str) -> bool:
    """Say whether a text has the form of the id of a run."""
    return _RUN_ID.fullmatch(text) is not None


class Run:
    """One run of the tool: its id, its folder on this machine, and what it made where.

    Workers of the controller open the same run with ``Run.join``.
    """

    def __init__(
        self, run_id: str, folder: Path, lock: int | None = None, *, keeps: bool = False
    ) -> None:
        self.run_id = run_id
        self.folder = folder
        self.keeps = keeps
        """Whether hosts may stay after it: they must not end with the process that made them."""
        self._lock = lock

    @classmethod
    def begin(cls, *, keeps: bool = False) -> Run:
        """Make the folder of a new run and lock it for the life of this process."""
        run_id = uuid.uuid4().hex
        folder = cache_folder() / "runs" / run_id
        folder.mkdir(parents=True, mode=0o700)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(run_id, folder, descriptor, keeps=keeps)

    @classmethod
    def join(cls, run_id: str, *, keeps: bool = False) -> Run:
        """Open the run of the controller in one of its workers, without its lock."""
        return cls(run_id, cache_folder() / "runs" / run_id, keeps=keeps)

    def expect(self, kind: str, **what: str) -> None:
        """Write down that a thing of this kind of host is about to be made.

        One line of JSON in ``made.jsonl``, on disk when this returns: ``{"kind": ..., **what}``.
        """
        self._write({"kind": kind, **what})

    def gone(self, kind: str, **what: str) -> None:
        """Write down that what was expected with these very words was removed for certain.

        Where that cannot be written, a sweep looks for it once more.
        """
        with contextlib.suppress(HostUnavailable):
            self._write({"gone": "yes", "kind": kind, **what})

    def _write(self, entry: dict[str, str]) -> None:
        line = (json.dumps(entry, sort_keys=True) + "\n").encode()
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        try:
            descriptor = os.open(self.folder / "made.jsonl", flags, 0o600)
            try:
                written = os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def made(self, kind: str) -> list[dict[str, str]]:
        """Return what was expected of this kind of host and is not gone; a torn line is no line."""
        try:
            text = (self.folder / "made.jsonl").read_text()
        except FileNotFoundError:
            return []
        entries: list[dict[str, str]] = []
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            over = entry.pop("gone", None)
            if over and entry in entries:
                entries.remove(entry)
            elif not over and entry.get("kind") == kind:
                entries.append(entry)
        return entries

    def forget(self) -> None:
        """Remove the record, after everything of the run was removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.unlock()

    def unlock(self) -> None:
        """Let go of the record, so that another process may take it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def unwritable(folder: Path, error: OSError) -> HostUnavailable:
    """Return the error for a host that cannot be made, since this machine's disk is not ready."""
    return HostUnavailable(
        f"Nothing can be written in {folder}: {error.strerror or error}.",
        remedy="Free some space there, or name another folder with MANUALBUILD_CACHE.",
    )


def dead_runs() -> Iterator[Run]:
    """Yield the runs whose process is gone, each locked by us while it is in hand."""
    for folder in sorted((cache_folder() / "runs").glob("*")):
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        yield Run(folder.name, folder, descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file, which is made; other threads and processes wait for it.

    Without waiting, say whether it is held: another one may hold it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield held
