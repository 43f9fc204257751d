"""Where an environment has the programs of languages, by the variables that name them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

_UNIX = {"PYTHON": "bin/python", "PERL": "bin/perl", "R": "bin/R", "LUA": "bin/lua"}
_WINDOWS = {"PYTHON": "python.exe", "PERL": r"Library\bin\perl.exe", "R": r"Scripts\R.exe"}
_PACKAGES = {
    "PYTHON": {"python"},
    "PERL": {"perl"},
    "LUA": {"lua"},
    "R": {"r-base", "mro-base", "r-impl"},
}


def programs(system: str, packages: AbstractSet[str]) -> dict[str, str]:
    """Return the paths below the prefix, with a slash before them, of those packages' programs."""
    slash, known = ("\\", _WINDOWS) if system == "win" else ("/", _UNIX)
    return {name: slash + path for name, path in known.items() if _PACKAGES[name] & packages}
