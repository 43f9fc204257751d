"""Runs ``run_test.r``, then every import, with the environment's own R."""

from __future__ import annotations

from pytest_manualbuild.languages.base import REACHED, ProcessEach
from pytest_manualbuild.model import Check


def _load(check: Check) -> str:
    return f"library({check.text})"


LANGUAGE = ProcessEach(
    NAME="r",
    PACKAGE="r-base",
    program="bin/Rscript",
    windows=r"Scripts\Rscript.exe",
    load=_load,
    reached=f'invisible(file.create(Sys.getenv("{REACHED}")))',
)
