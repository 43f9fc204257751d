"""Runs a script in Ruby, then every ``require``, with the environment's own Ruby.

conda-build knows no Ruby; rattler-build does (``recipe.yaml``).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_manualbuild.languages.base import Numbered, Piece, Site, one_process_each

NAME = "ruby"
PACKAGE = "ruby"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for Ruby's script and requires."""

    def load(name: str) -> str:
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        program = f"require '{quoted}'"
        return f'"$PREFIX/bin/ruby" -e {shlex.quote(program)}'

    return one_process_each(
        checks, scripts, site, script=lambda path: f'"$PREFIX/bin/ruby" {path}', load=load
    )
