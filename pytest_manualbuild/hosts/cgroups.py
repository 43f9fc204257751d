"""Limits of memory and processes by the kernel's control groups, where this user may make one."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from pathlib import Path

from pytest_manualbuild.hosts.base import MEMORY, PIDS

_KERNEL = Path("/sys/fs/cgroup")
_NAMES = re.compile(r"manualbuild-[0-9a-f]{12}-[0-9a-f]{6}")
_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30}
_EMPTY_S = 5.0


class ControlGroup:
    """One group: of both controllers, or (``limits`` is false) of none."""

    def __init__(self, name: str, *, memory: str | None, pids: int | None) -> None:
        """Make it, with limits in the matrix's notation (None: the defaults)."""
        self._name = name
        most = {"memory": str(size(memory or MEMORY)), "pids": str(pids or PIDS)}
        self.limits = False
        """Whether the limits hold."""
        try:
            for folder, file, controller in _places(name):
                folder.mkdir(exist_ok=True)
                (folder / file).write_text(most[controller])
            self.limits = True
        except OSError:
            self.close()

    def enter(self) -> list[str]:
        """Return shell commands that put the shell, and what it starts, into the group."""
        folders = dict.fromkeys(folder for folder, _, _ in _places(self._name))
        return [
            f"echo $$ > {shlex.quote(str(folder / 'cgroup.procs'))}"
            for folder in folders
            if self.limits
        ]

    def close(self) -> None:
        """Remove the group, once its processes are gone; safe to call twice."""
        self.remove(self._name)

    @staticmethod
    def remove(name: str) -> bool:
        """Remove a group of that name, if there is one; say whether there was."""
        folders = {folder for folder, _, _ in _places(name) if folder.is_dir()}
        deadline = time.monotonic() + _EMPTY_S
        left = folders if _NAMES.fullmatch(name) else set()
        while left and time.monotonic() < deadline:
            for folder in tuple(left):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    left.discard(folder)
            if left:
                time.sleep(0.01)
        return bool(folders)


def size(text: str) -> int:
    """Return a size of a matrix file, such as ``512m``, in bytes."""
    shift = _UNITS.get(text[-1].lower())
    return int(text) if shift is None else int(text[:-1]) << shift


def _places(name: str) -> list[tuple[Path, str, str]]:
    """Return (folder, file of the limit, controller) in the kernel's version 2 or 1."""
    if (_KERNEL / "cgroup.controllers").is_file():
        folder = _KERNEL / name
        return [(folder, "memory.max", "memory"), (folder, "pids.max", "pids")]
    return [
        (_KERNEL / "memory" / name, "memory.limit_in_bytes", "memory"),
        (_KERNEL / "pids" / name, "pids.max", "pids"),
    ]
