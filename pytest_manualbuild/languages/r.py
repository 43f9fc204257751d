"""Runs ``run_test.r``, then every import, with the environment's own R."""

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

NAME = "r"
PACKAGE = "r-base"


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.r`` and the imports."""
    return one_process_each(
        checks,
        scripts,
        site,
        program="bin/Rscript",
        load=_load,
    )


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows."""
    return one_batch_process_each(
        checks,
        scripts,
        site,
        program=r"Scripts\Rscript.exe",
        load=_load,
    )


def _load(name: str) -> str:
    return f"library({name})"
