"""Whether a file that somebody asked for may be written where he said: nothing of his gets lost."""

from __future__ import annotations

import os
from pathlib import Path

_HEAD = 2000


def refusal(path: Path, mark: str) -> str:
    """Say in words why no file may be written at a path; empty if one may.

    ``mark`` is what files of that sort, and no others, have near their beginning. OSError if it
    cannot be looked at.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return "it is no plain file"
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head and mark.encode() not in head:
            return "there is another file already, which would be lost"
    above = next(one for one in path.absolute().parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return f"nothing can be written in {above}"  # said now, not after hours of tests
    return ""
