"""How the tests of each language are run: one file per language, one line in the table.

A language turns its part of a test section into a piece of bash script. The
piece says with ``mark`` when a check begins and ends (see ``marks``), so that
each check gets its own result although several share one process.
"""

from __future__ import annotations

from pytest_manualbuild.languages import lua, perl, python, r, ruby, shell
from pytest_manualbuild.languages.base import Piece, Site, TestLanguage

# In the order in which conda-build runs them (create_test.py): py, pl, lua, r, then the shell;
# a section of rattler-build has one language.
LANGUAGES: tuple[TestLanguage, ...] = (
    python,
    perl.LANGUAGE,
    lua.LANGUAGE,
    r.LANGUAGE,
    ruby.LANGUAGE,
    shell,
)

__all__ = ["LANGUAGES", "Piece", "Site", "TestLanguage"]
