"""The seam of this folder: what a test language must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_manualbuild.model import Check

Numbered = tuple[int, Check]
"""A check with its position in the plan."""
Parses = Callable[[Sequence[str]], list[bool]]
"""Says of each text whether the host's own bash takes it for whole statements."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One language's part of the script that runs on the host."""

    script: str
    """Bash; runs in the folder of the tests, with the environment active."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files that it needs, by their path relative to the folder of the tests."""


class TestLanguage(Protocol):
    """A module that runs the checks of one language."""

    @property
    def NAME(self) -> str:  # noqa: N802 # a module's constant
        """The language's name in a check."""
        ...

    def piece(self, checks: Sequence[Numbered], scripts: dict[str, bytes], parses: Parses) -> Piece:
        """Return the script that runs these checks; ``scripts`` has the recipe's ``run_test.*``."""
        ...
