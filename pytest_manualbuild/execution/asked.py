"""What the script of one test section is made from, whatever shell it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from pytest_manualbuild.execution.marks import Marks
from pytest_manualbuild.languages import TestLanguage
from pytest_manualbuild.languages.base import Numbered
from pytest_manualbuild.model import PlannedPackage
from pytest_manualbuild.records import LinkedEnvironment

SHORT_S = 60.0
"""Time limit of our own small scripts on a host, in seconds."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One test section, as it is to be run on a host."""

    planned: PlannedPackage
    environment: LinkedEnvironment
    build: LinkedEnvironment | None
    """The environment of ``requirements/build``, whose programs are found first."""
    folder: str
    """On the host; the folder of the tests goes below it."""
    files: Mapping[str, bytes]
    """The recipe's test files by their path."""
    programs: Collection[str]
    """The paths of those that can be run by their name, also of those below the prefix."""
    marks: Marks

    def checks(self, language: TestLanguage) -> list[Numbered]:
        """Return the section's checks in that language, with their positions in the plan."""
        return [
            (number, check)
            for number, check in enumerate(self.planned.checks)
            if check.language == language.NAME
        ]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What is made from it."""

    script: str
    files: Mapping[str, bytes]
    """Those that go into the folder of the tests, by their path there."""
    plain: bool = False
    """Whether a copy of a shell that is there can run it; see ``hosts.base.Connection.start``."""
