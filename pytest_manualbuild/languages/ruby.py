"""Runs a script in Ruby, then every ``require``, with the environment's own Ruby.

conda-build knows no Ruby; rattler-build does (``recipe.yaml``).
"""

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

NAME = "ruby"
PACKAGE = "ruby"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for Ruby's script and requires."""
    return one_process_each(
        checks,
        scripts,
        site,
        program="bin/ruby",
        load=_require,
    )


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows."""
    return one_batch_process_each(
        checks,
        scripts,
        site,
        program=r"Library\bin\ruby.exe",
        load=_require,
    )


def _require(name: str) -> str:
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"require '{quoted}'"
