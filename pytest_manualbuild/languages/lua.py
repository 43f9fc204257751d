"""Runs ``run_test.lua``, then every import, with the environment's own Lua."""

from __future__ import annotations

from pytest_manualbuild.languages.base import REACHED, ProcessEach
from pytest_manualbuild.model import Check


def _load(check: Check) -> str:
    return f"require [==[{check.text}]==]"


LANGUAGE = ProcessEach(
    NAME="lua",
    PACKAGE="lua",
    program="bin/lua",
    windows=r"Library\bin\lua.exe",
    load=_load,
    comment="--",
    reached=f'io.open(os.getenv("{REACHED}"), "w"):close()',
)
