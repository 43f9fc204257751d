"""Runs a script in Ruby, then every ``require``, with the environment's own Ruby.

conda-build knows no Ruby; rattler-build does (``recipe.yaml``).
"""

from __future__ import annotations

from pytest_manualbuild.languages.base import REACHED, ProcessEach
from pytest_manualbuild.model import Check


def _load(check: Check) -> str:
    quoted = check.text.replace("\\", "\\\\").replace("'", "\\'")
    return f"require '{quoted}'"


LANGUAGE = ProcessEach(
    NAME="ruby",
    PACKAGE="ruby",
    program="bin/ruby",
    windows=r"Library\bin\ruby.exe",
    load=_load,
    reached=f"File.write(ENV['{REACHED}'], '')",
)
