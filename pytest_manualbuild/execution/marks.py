"""The words with which a section's script says how far it came.

Each word is drawn anew and counts once: what a test finds out about those that
were said tells it nothing about those that were not. What has not been said
yet lies in the memory of a shell only.
"""

from __future__ import annotations

import re
import secrets
from enum import StrEnum

import msgspec
from msgspec.structs import replace

_STATUS = re.compile(r"-?[0-9]{1,10}")  # on Windows, a program that crashes returns less than 0


class Said(StrEnum):
    """What a mark can say."""

    LINKING = "linking"  # a post-link script begins
    ACTIVATED = "activated"
    BEGUN = "begun"  # checks began
    BEGUN_OPEN = "begun-open"  # a check began whose statement has no end
    ENDED = "ended"  # checks ended, with an exit status
    WENT_ON = "went-on"  # the shell went on after these checks, although they may return a status
    RETURNED = "returned"  # what began gave this status to its shell, which judges it
    SHELL_ENDED = "shell-ended"  # the one shell of the commands, with its exit status
    TEST_FAILED = "test-failed"
    COMPLETE = "complete"  # the script came to its end


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A mark that came."""

    said: Said
    numbers: tuple[int, ...] = ()
    """Of the checks that it is about: their positions in the plan."""
    begun: tuple[int, ...] = ()
    """Of checks that began right after these."""
    name: str = ""
    """Of the package that it is about."""
    status: int = 0
    died: bool = False
    """The process ended although it should have gone on."""


class Marks:
    """Draws the words of one script, and knows their meaning when they come back."""

    def __init__(self) -> None:
        self._meaning: dict[str, Heard] = {}

    def new(self, said: Said, *numbers: int, name: str = "", begun: tuple[int, ...] = ()) -> str:
        """Return a new word; a script says it as ``mark "WORD [STATUS [died]]"``."""
        word = secrets.token_hex(8)
        self._meaning[word] = Heard(said=said, numbers=numbers, name=name, begun=begun)
        return word

    def heard(self, text: str) -> Heard | None:
        """Return what a mark means; None for one that was said before, or never drawn."""
        word, *rest = text.split()[:3] or [""]
        meaning = self._meaning.pop(word, None)
        if meaning is None:
            return None
        # Whoever should say a status and says none, or no number, did not end well.
        status = int(rest[0]) if rest and _STATUS.fullmatch(rest[0]) else 1
        return replace(meaning, status=status, died=rest[1:] == ["died"])
