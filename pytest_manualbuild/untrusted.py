"""Reads what lies in a folder that a stranger may have made.

No link is followed, no pipe or device is waited for, and nothing is read without an end:
``logs/a.txt`` as a link to ``/proc/kmsg`` would keep whoever judges it waiting for ever.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20
_DEEPEST = 100


@contextmanager
def opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most that many bytes; OSError for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a link", str(path)) from error
    except ValueError as error:  # a name that no system can have
        raise OSError(errno.EINVAL, str(error), repr(path)) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, "it is too large", str(path))
        yield file


def read(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file of at most that many; OSError for anything else."""
    with opened(path, most) as file:
        return file.read(most)


def sha256(path: Path, most: int) -> str:
    """Return the hash of a regular file of at most that many bytes; OSError for anything else."""
    digest = hashlib.sha256()
    with opened(path, most) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is written, moved or replaced.

    A change of its inode shows in a time that nobody sets by hand.
    """
    return (
        status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    """Return what lies below a folder and is none itself, sorted: files, and links to anything.

    A folder that is a link, or none at all, is returned itself; OSError if one cannot be read, or
    lies too deep for those who walk by calling themselves.
    """
    found: list[Path] = []
    left = [(folder, 0)] if os.path.lexists(folder) else []
    while left:
        path, depth = left.pop()
        if path.is_symlink() or not path.is_dir():
            found.append(path)
        elif depth > _DEEPEST:
            raise OSError(
                errno.ELOOP, f"its folders are nested deeper than {_DEEPEST}", str(folder)
            )
        else:
            left += ((inside, depth + 1) for inside in path.iterdir())
    return sorted(found)
