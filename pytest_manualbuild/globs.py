"""Globs as rattler-build reads them (the Rust library ``globset``), turned into regexes.

``*`` and ``?`` match slashes, ``**`` stands for whole folders, ``[!a-z]`` and ``{a,b}`` choose.
A glob is a stranger's text: its choices are written out first, so that between its stars only
pieces of a fixed length are left, and a regex that never goes back over a star can find them.
"""

from __future__ import annotations

import re
from functools import lru_cache

MOST_LENGTH = 4096
MOST_CHOICES = 256
_STAR = ""
_Tokens = tuple[str, ...]
"""Regexes for one character each, and the empty one for a star."""


class BadGlob(ValueError):
    """A glob that cannot be read."""


def matches(glob: str, path: str) -> bool:
    """Say whether a path relative to the package, with ``/``, matches the glob."""
    return any(one.fullmatch(path) for one in regexes(glob))


def selects(glob: str, path: str) -> bool:
    """Say whether a glob for files to copy takes a path: a folder's name takes all below it."""
    plain = glob.removeprefix("./")
    if plain in ("", "."):
        return True
    if plain.endswith("/"):
        return matches(f"{plain}**", path)
    return matches(plain, path) or matches(f"{plain}/**", path)


@lru_cache(maxsize=4096)
def regexes(glob: str) -> tuple[re.Pattern[str], ...]:
    """Return the regexes of which one matches a whole path as the glob does; BadGlob for others."""
    if len(glob) > MOST_LENGTH:
        raise BadGlob(f"more than {MOST_LENGTH} characters")
    choices, _ = _choices(glob, 0, inside=False)
    try:
        return tuple(re.compile(_regex(tokens), re.DOTALL) for tokens in dict.fromkeys(choices))
    except re.error as error:
        raise BadGlob(f"something wrong in it: {error}") from error


def _regex(tokens: _Tokens) -> str:
    pieces = [""]
    for token in tokens:
        if token == _STAR:
            pieces.append("")
        else:
            pieces[-1] += token
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    # The first place where a piece fits is as good as any, so it is kept: (?>...).
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}"


def _choices(glob: str, at: int, *, inside: bool) -> tuple[list[_Tokens], int]:
    """Return the ways to read a glob from there on, up to the end of the braces it is in."""
    done: list[_Tokens] = []
    current: list[_Tokens] = [()]
    while at < len(glob) and not (inside and glob[at] == "}"):
        if inside and glob[at] == ",":
            done, current, at = done + current, [()], at + 1
            continue
        found, at = _next(glob, at)
        current = [one + other for one in current for other in found]
        if len(current) + len(done) > MOST_CHOICES:
            raise BadGlob(f"more than {MOST_CHOICES} choices")
    return done + current, at


def _next(glob: str, at: int) -> tuple[list[_Tokens], int]:
    """Return the ways to read the next sign of a glob, and where it goes on."""
    if folders := _folders(glob, at):
        return folders
    char = glob[at]
    if char == "{":
        found, at = _choices(glob, at + 1, inside=True)
        if at == len(glob):
            raise BadGlob("a { without its }")
        return found, at + 1
    if char == "}":
        raise BadGlob("a } without its {")
    if char == "[":
        piece, at = _class(glob, at + 1)
        return [(piece,)], at
    if char == "\\":
        at += 1
        if at == len(glob):
            raise BadGlob("a backslash at its end")
        return [(re.escape(glob[at]),)], at + 1
    simple = {"*": _STAR, "?": "."}
    return [(simple.get(char, re.escape(char)),)], at + 1


def _folders(glob: str, at: int) -> tuple[list[_Tokens], int] | None:
    """Return how to read a ``**`` that stands for whole folders, and where the glob goes on."""
    if at == 0 and glob.startswith("**/"):
        return [(), (_STAR, "/")], 3
    if glob.startswith("/**/", at):
        return [("/",), ("/", _STAR, "/")], at + 4
    if glob.startswith("/**", at) and at + 3 == len(glob):
        return [("/", _STAR)], at + 3
    return None


def _class(glob: str, at: int) -> tuple[str, int]:
    end = glob.find("]", at + 2 if glob[at : at + 1] in ("!", "^") else at + 1)
    if end < 0:
        raise BadGlob("a [ without its ]")
    inside = glob[at:end]
    negated = inside[:1] in ("!", "^")
    inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
    return f"[{'^' if negated else ''}{inside}]", end + 1
