"""Globs as rattler-build reads them (the Rust library ``globset``), turned into regexes.

``*`` and ``?`` match slashes, ``**`` stands for whole folders, ``[!a-z]`` and ``{a,b}`` choose.
"""

from __future__ import annotations

import re
from functools import lru_cache

MOST_LENGTH = 4096
_SIMPLE = {"*": ".*", "?": "."}


class BadGlob(ValueError):
    """A glob that cannot be read."""


@lru_cache(maxsize=4096)
def regex(glob: str) -> re.Pattern[str]:
    """Return the regex that matches whole paths as the glob does; BadGlob if it is none."""
    if len(glob) > MOST_LENGTH:
        raise BadGlob(f"longer than {MOST_LENGTH} characters")
    try:
        return re.compile(_translate(glob), re.DOTALL)
    except re.error as error:
        raise BadGlob(str(error)) from error


def matches(glob: str, path: str) -> bool:
    """Say whether a path relative to the package, with ``/``, matches the glob."""
    return regex(glob).fullmatch(path) is not None


def selects(glob: str, path: str) -> bool:
    """Say whether a glob for files to copy takes a path: a folder's name takes all below it."""
    plain = glob.removeprefix("./")
    if plain in ("", "."):
        return True
    if plain.endswith("/"):
        return matches(f"{plain}**", path)
    return matches(plain, path) or matches(f"{plain}/**", path)


def _translate(glob: str) -> str:
    text, depth, at = "", 0, 0
    while at < len(glob):
        char = glob[at]
        if star := _folders(glob, at):
            piece, at = star
            text += piece
            continue
        at += 1
        if char in _SIMPLE:
            text += _SIMPLE[char]
        elif char == "[":
            piece, at = _choice(glob, at)
            text += piece
        elif char == "{" or (depth and char in "},"):
            text += {"{": "(?:", "}": ")", ",": "|"}[char]
            depth += {"{": 1, "}": -1, ",": 0}[char]
        elif char == "\\":
            if at == len(glob):
                raise BadGlob("a backslash at its end")
            text, at = text + re.escape(glob[at]), at + 1
        else:
            text += re.escape(char)
    if depth:
        raise BadGlob("a { without its }")
    return text


def _folders(glob: str, at: int) -> tuple[str, int] | None:
    """Return the regex of a ``**`` that stands for whole folders, and where the glob goes on."""
    if at == 0 and glob.startswith("**/"):
        return "(?:.*/)?", 3
    if at == 0 and glob == "**":
        return ".*", 2
    if glob.startswith("/**/", at):
        return "/(?:.*/)?", at + 4
    if glob.startswith("/**", at) and at + 3 == len(glob):
        return "/.*", at + 3
    return None


def _choice(glob: str, at: int) -> tuple[str, int]:
    end = glob.find("]", at + 2 if glob[at : at + 1] in ("!", "^") else at + 1)
    if end < 0:
        raise BadGlob("a [ without its ]")
    inside = glob[at:end]
    negated = inside[:1] in ("!", "^")
    inside = inside[1:] if negated else inside
    inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside)
    return f"[{'^' if negated else ''}{inside}]", end + 1
