"""A private place for copies of packages, which may be large."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "manualbuild-copies-"


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Give an empty folder that goes afterwards; those that killed processes left go before.

    OSError if it cannot be made.
    """
    _sweep()
    with contextlib.ExitStack() as opened:
        folder = _made(opened)
        while not folder.is_dir():  # somebody's sweep was quicker than the lock
            folder = _made(opened)
        yield folder


def _made(opened: contextlib.ExitStack) -> Path:
    made = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    folder = Path(opened.enter_context(made))
    with contextlib.suppress(OSError):  # a file system without locks, where nothing is swept either
        fcntl.flock(opened.enter_context(_descriptor(folder)), fcntl.LOCK_EX)
    return folder


def _sweep() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _descriptor(left) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with its process
            if os.fstat(descriptor).st_uid == os.geteuid():
                shutil.rmtree(left)


@contextlib.contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
