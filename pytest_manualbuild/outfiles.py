"""Whether a file that somebody asked for may be written where he said: nothing of his gets lost."""

from __future__ import annotations

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
    return ""
