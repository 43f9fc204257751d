"""The seam of this folder: what a test language must offer."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Protocol

import msgspec

from pytest_manualbuild.checks import INLINE
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.model import Check, CheckKind
from pytest_manualbuild.shells import SYSTEM_PATH

Numbered = tuple[int, Check]
"""A check with its position in the plan."""
Parses = Callable[[Sequence[str]], list[bool]]
"""Says of each text whether the host's own bash takes it for whole statements."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What a language needs of the section in which its piece runs."""

    parses: Parses
    marks: Marks
    exports: str | None = None
    """Lines that whatever is started must begin with, where the script is ``plain`` (see
    ``hosts.base.Connection.start``); None: it has the environment active."""

    def begin(self, *numbers: int) -> str:
        """Return the line that says that these checks begin."""
        return f"mark {self.marks.new(Said.BEGUN, *numbers)}\n"

    def end(self, *numbers: int, status: str = "$_mb_status") -> str:
        """Return the line that says that these checks ended, with a status in shell syntax."""
        return f'mark "{self.marks.new(Said.ENDED, *numbers)} {status}"\n'

    def measured(self, number: int, command: str, judge: str = "") -> str:
        """Return the lines that run a command as one check; ``judge`` may change its status."""
        run = f"_mb_status=0\n{command} || _mb_status=$?\n{judge}"
        return f"{self.begin(number)}{run}{self.end(number)}"


class BatchSite(msgspec.Struct, frozen=True, kw_only=True):
    """What a language needs of the section in which its batch lines run, on Windows."""

    marks: Marks
    marker: Callable[[str], str]
    """Gives the line that a program writes, on both streams, to put a mark there."""
    work: str
    """The folder of the tests."""
    prefix: str

    def say(self, said: Said, *numbers: int, status: str = "", name: str = "") -> str:
        """Return the lines that say something, whatever is echoed, and change no ERRORLEVEL."""
        line = self.marker(f"{self.marks.new(said, *numbers, name=name)}{status}")
        return f"@echo {line}\n@>&2 echo {line}\n"

    def measured(self, number: int, command: str) -> str:
        """Return the lines that run a command, which is no batch file, as one check."""
        begin = self.say(Said.BEGUN, number)
        return f"{begin}{command}\n{self.say(Said.ENDED, number, status=' %ERRORLEVEL%')}"


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One language's part of the script that runs on the host."""

    script: str
    """Bash or batch; runs with the environment active, and finds its files in the folder of the
    tests: in bash that is ``$_mb_work``."""
    files: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Files that it needs, by their path relative to the folder of the tests."""


class TestLanguage(Protocol):
    """What runs the checks of one language: a module, or a ``ProcessEach``."""

    @property
    def NAME(self) -> str:  # noqa: N802 # a constant
        """The language's name in a check."""
        ...

    @property
    def PACKAGE(self) -> str:  # noqa: N802 # a constant
        """The conda package that its tests need; empty if they need none."""
        ...

    def piece(self, checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
        """Return the script that runs these checks; ``scripts`` has the recipe's ``run_test.*``."""
        ...

    def batch(
        self, checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite
    ) -> Piece:
        """Return the same for Windows, in lines of batch."""
        ...


_AROUND = (
    """\
{comment}  tests for a package (this is a generated file);
print('===== testing package =====');
print('running {name}');
{comment}  --- {name} (begin) ---
""",
    """\
{comment}  --- {name} (end) ---

print('===== OK =====');
""",
)


def written(check: Check, scripts: dict[str, bytes], comment: str = "#") -> bytes:
    """Return a script of the recipe as conda-build writes it (create_test.py).

    What stands before it makes a mistake of ``from __future__``, and what stands after it fails
    where the script closed its output. The script of a ``recipe.yaml`` is run as it is.
    """
    if check.text == INLINE:
        return scripts[check.text]
    name = f"run_test{PurePath(check.text).suffix}"
    before, after = (one.format(comment=comment, name=name).encode() for one in _AROUND)
    return before + scripts[check.text] + after


REACHED = "MANUALBUILD_REACHED"
"""The variable that names the file by which an import says that it came to its end."""
# What is loaded may end the process with 0: what it did not come back from was not loaded.
_LOAD = """\
_mb_reached=${{_mb_work%/*}}/reached
PATH={system} rm -f "$_mb_reached"
"""
_CAME_BACK = """\
if [ "$_mb_status" = 0 ] && [ ! -e "$_mb_reached" ]; then _mb_status="0 died"; fi
"""


class ProcessEach(msgspec.Struct, frozen=True, kw_only=True):
    """A language whose scripts and imports each run in a process of their own."""

    NAME: str
    PACKAGE: str
    program: str
    """What runs them, below the prefix."""
    windows: str
    """The same on Windows."""
    load: Callable[[Check], str]
    """Returns the text of a program that does an import."""
    comment: str = "#"
    """What a comment begins with."""
    reached: str
    """What that program says last, but on Windows: a statement that makes the file ``REACHED``."""

    def piece(self, checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
        """Return the script that runs these checks."""
        text = ""
        files: dict[str, bytes] = {}
        for number, check in checks:
            if check.kind is CheckKind.SCRIPT:
                files[check.text] = written(check, scripts, self.comment)
                words = f'"$_mb_work"/{shlex.quote(check.text)}'
                text += site.measured(number, f'"$PREFIX/{self.program}" {words}')
            else:
                words = f"-e {shlex.quote(f'{self.load(check)}; {self.reached}')}"
                command = f'{REACHED}=$_mb_reached "$PREFIX/{self.program}" {words}'
                text += _LOAD.format(system=SYSTEM_PATH)
                text += site.measured(number, command, _CAME_BACK)
        return Piece(script=text, files=files)

    def batch(
        self, checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite
    ) -> Piece:
        """Return the same for Windows; what is loaded goes into a file.

        cmd has no quotes that hold everything.
        """
        text = ""
        files: dict[str, bytes] = {}
        for number, check in checks:
            if check.kind is CheckKind.SCRIPT:
                name = check.text
                files[name] = written(check, scripts, self.comment)
            else:
                name = f"manualbuild_load_{number}"
                files[name] = f"{self.load(check)}\n".encode()
            command = f'"{site.prefix}\\{self.windows}" "{site.work}\\{name}"'
            text += site.measured(number, command)
        return Piece(script=text, files=files)
