"""Reads TOML files within limits: a device has no end, and some keys take minutes to read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import ManualBuildError

MOST_BYTES = 1 << 20
_MOST_DOTS = 500


def text(path: Path, what: str, kind: type[ManualBuildError]) -> str:
    """Return the text of a file; ``what`` it is stands in the error of that kind."""
    try:
        with path.open("rb") as file:
            return file.read(4 * MOST_BYTES + 1).decode()  # more characters than may be
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise kind(f"{path}:{line}: not UTF-8.", remedy="Save the file as UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise kind(
            f"{path}: the {what} cannot be read: {reason}.", remedy=f"Check --{what}."
        ) from error


def parse(text: str, name: str, kind: type[ManualBuildError]) -> dict[str, Any]:
    """Return the tables of a text; ``name`` stands for it in the error of that kind."""
    if text.startswith("\ufeff"):
        raise kind(
            f"{name}:1: it begins with a byte order mark, which TOML has not.",
            remedy="Save it as UTF-8 without one.",
        )
    lines = (line for line in text.split("\n") if not line.lstrip().startswith("#"))
    # A key of very many parts takes the TOML reader minutes, and the file may be a stranger's.
    if len(text) > MOST_BYTES or any(line.count(".") > _MOST_DOTS for line in lines):
        raise kind(
            f"{name}: it has more than {MOST_BYTES} characters, or {_MOST_DOTS} dots in a line.",
            remedy="Is it the right file?",
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise kind(f"{name}: not valid TOML: {error}.", remedy="Correct that line.") from error
