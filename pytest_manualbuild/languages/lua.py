"""Runs ``run_test.lua``, then every import, with the environment's own Lua."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_manualbuild.languages.base import Numbered, Piece, Site, one_process_each

NAME = "lua"
PACKAGE = "lua"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.lua`` and the imports."""
    return one_process_each(
        checks,
        scripts,
        site,
        script=lambda path: f'"$PREFIX/bin/lua" {path}',
        load=lambda name: f'"$PREFIX/bin/lua" -e {shlex.quote(f"require [==[{name}]==]")}',
    )
