"""Runs ``run_test.lua``, then every import, with the environment's own Lua."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_manualbuild.languages.base import Numbered, Parses, Piece, one_process_each

NAME = "lua"
PACKAGE = "lua"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], parses: Parses) -> Piece:
    """Return the script for ``run_test.lua`` and the imports (``parses`` is for shells)."""
    del parses
    return one_process_each(
        checks,
        scripts,
        script=lambda path: f'"$PREFIX/bin/lua" {path}',
        load=lambda name: f'"$PREFIX/bin/lua" -e {shlex.quote(f"require [==[{name}]==]")}',
    )
