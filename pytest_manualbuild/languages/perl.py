"""Runs ``run_test.pl``, then every import, with the environment's own Perl.

An import is checked as conda-build checks it (create_test.py): ``use`` it, and
compare its version, where it has one, with the package's, both without the
zeros at their ends. A line with more than a module's name has no such check,
and one of a ``recipe.yaml`` has none either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_manualbuild.languages.base import (
    BatchSite,
    Numbered,
    Piece,
    Site,
    one_batch_process_each,
    one_process_each,
)
from pytest_manualbuild.model import CheckKind

NAME = "perl"
PACKAGE = "perl"

_VERSION = r"""
if (defined NAME->VERSION) {
    my ($expected, $given) = ($ENV{PKG_VERSION}, NAME->VERSION);
    s/0+$// for $expected, $given;
    die("expected version $expected, found $given\n") unless $expected eq $given;
}
"""


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.pl`` and the imports."""
    return one_process_each(
        checks,
        scripts,
        site,
        program="bin/perl",
        load=_use(checks),
    )


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows."""
    return one_batch_process_each(
        checks,
        scripts,
        site,
        program=r"Library\bin\perl.exe",
        load=_use(checks),
    )


def _use(checks: Sequence[Numbered]) -> Callable[[str], str]:
    used = {check.text for _, check in checks if check.kind is CheckKind.USE}

    def program(name: str) -> str:
        plain = " " in name or name in used
        return f"use {name};" + ("" if plain else _VERSION.replace("NAME", name))

    return program
