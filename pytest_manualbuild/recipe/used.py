"""Which variant keys a recipe uses: found in its text, as conda-build does (variants.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_COMPILER = re.compile(r"(.*?)_(compiler|stdlib)(_version)?$")
_CDT = r"\{\s*cdt\(['\"][^\{]*?\}"
_ALSO = {"cdt_name": ("cdt",), "cdt_arch": ("cdt",)}
_SHELL = re.compile(r"^[^$\n]*\$\{?\s*([^\s|}]+)(?=[\s|}])", re.MULTILINE)


def words(key: str) -> tuple[str, ...]:
    """Return the words one of which stands wherever a key is used."""
    found = _COMPILER.match(key)
    return (key, found.group(1)) if found else (key, *_ALSO.get(key, ()))


@lru_cache(maxsize=256)
def in_text(keys: tuple[str, ...], text: str, *, selectors_only: bool = False) -> frozenset[str]:
    """Return the keys that a recipe's text uses in jinja and as bare requirements.

    With ``selectors_only`` those that it uses in selectors instead.
    """
    lines = text.splitlines()
    folded = [line.replace("-", "_") for line in lines]
    whole = "\n".join(folded)
    used = set()
    for key in keys:
        wanted = [word.replace("-", "_") for word in words(key)]
        if not any(word in whole for word in wanted):
            continue
        pattern = _pattern(key, selectors_only)
        if any(
            pattern.search(line)
            for line, flat in zip(lines, folded, strict=True)
            if any(word in flat for word in wanted)
        ):
            used.add(key)
            if key in ("c_compiler", "cxx_compiler") and "CONDA_BUILD_SYSROOT" in keys:
                used.add("CONDA_BUILD_SYSROOT")
    return frozenset(used)


@lru_cache(maxsize=8192)
def _pattern(key: str, selectors_only: bool) -> re.Pattern[str]:  # noqa: FBT001 # for the cache
    word = re.escape(key)
    if selectors_only:
        selecting = r"^[^#\[]*?\#?\s\[[^\]]*?(?<![_\w\d])" + word + r"[=\s<>!\]]"
        # What needs a distribution's packages is seen before selectors leave it out.
        return re.compile(selecting + ("|" + _CDT if key in _ALSO else ""))
    required = "[-_]".join(map(re.escape, key.split("_")))
    patterns = [
        r"\{\s*(?:pin_[a-z]+\(\s*?['\"])?" + word + r"\b.*?\}\}",
        r"^\s+\-\s+" + required + r"\s*(?:\s[\[#]|$)",
        r"(?:^|[^\{])\{%\s*(?:el)?if\s*.*" + word + r"\s*(?:[^%]*?)?%\}",
    ]
    if key in _ALSO:
        patterns.insert(0, _CDT)
    if found := _COMPILER.match(key):
        language, kind = re.escape(found.group(1)), found.group(2)
        patterns.insert(0, r"\{\s*" + kind + r"\(['\"]" + language + r"[\"'][^\{]*?\}")
    return re.compile("|".join(patterns))


def in_shell(keys: Iterable[str], text: str) -> set[str]:
    """Return the keys that a shell script expands; only the first ``$`` of a line counts."""
    return set(_SHELL.findall(text)) & set(keys)


def in_batch(keys: Iterable[str], text: str) -> set[str]:
    """Return the keys that a batch file expands."""
    return {key for key in keys if f"%{key}%" in text}
