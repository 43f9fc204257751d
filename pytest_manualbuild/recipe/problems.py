"""What can be wrong with a recipe, in the two weights that conda-build gives it."""

from __future__ import annotations

from pytest_manualbuild.errors import RecipeError


class Unresolved(RecipeError):
    """A problem that conda-build forgives while it renders, and keeps what an earlier pass gave.

    There it is ``SystemExit`` or ``CondaBuildUserError``.
    """


def at(file: str, line: int | None) -> str:
    """Return ``file:line``, or the file alone."""
    return f"{file}:{line}" if line else file
