"""Runs ``run_test.lua``, then every import, with the environment's own Lua."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_manualbuild.languages.base import (
    BatchSite,
    Numbered,
    Piece,
    Site,
    one_batch_process_each,
    one_process_each,
)

NAME = "lua"
PACKAGE = "lua"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.lua`` and the imports."""
    return one_process_each(
        checks,
        scripts,
        site,
        program="bin/lua",
        load=_load,
    )


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows."""
    return one_batch_process_each(
        checks,
        scripts,
        site,
        program=r"Library\bin\lua.exe",
        load=_load,
    )


def _load(name: str) -> str:
    return f"require [==[{name}]==]"
