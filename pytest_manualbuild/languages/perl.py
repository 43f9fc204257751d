"""Runs ``run_test.pl``, then every import, with the environment's own Perl.

An import is checked as conda-build checks it (create_test.py): ``use`` it, and
compare its version, where it has one, with the package's, both without the
zeros at their ends. A line with more than a module's name has no such check,
and one of a ``recipe.yaml`` has none either.
"""

from __future__ import annotations

from pytest_manualbuild.languages.base import REACHED, ProcessEach
from pytest_manualbuild.model import Check, CheckKind

_VERSION = r"""
if (defined NAME->VERSION) {
    my ($expected, $given) = ($ENV{PKG_VERSION}, NAME->VERSION);
    s/0+$// for $expected, $given;
    die("expected version $expected, found $given\n") unless $expected eq $given;
}
"""


def _load(check: Check) -> str:
    plain = " " in check.text or check.kind is CheckKind.USE
    return f"use {check.text};" + ("" if plain else _VERSION.replace("NAME", check.text))


LANGUAGE = ProcessEach(
    NAME="perl",
    PACKAGE="perl",
    program="bin/perl",
    windows=r"Library\bin\perl.exe",
    load=_load,
    reached=f'open(my $reached, ">", $ENV{{{REACHED}}});',
)
