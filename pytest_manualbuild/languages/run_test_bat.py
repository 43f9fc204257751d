"""Writes ``run_test.bat`` as conda-build does (create_test.py), with our marks in it.

All commands share one cmd. After each stands conda-build's line, which ends the script where
``%ERRORLEVEL%`` says so; ours ends it too where a variable of that name hides what is true.
A batch file that is run without ``call`` never comes back: what follows is not reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_manualbuild.execution.marks import Said
from pytest_manualbuild.languages.base import BatchSite, Numbered, Piece
from pytest_manualbuild.model import CheckKind

NAME = "run_test.bat"
CMD = r"%SystemRoot%\System32\cmd.exe"
LONGEST_LINE = 8191
"""What cmd takes of a line."""
_AS_CONDA_BUILD = "IF %ERRORLEVEL% NEQ 0 exit /B 1\n"
_AS_IT_IS = "@IF ERRORLEVEL 1 exit /B 1\n@IF NOT ERRORLEVEL 0 exit /B 1\n"
_REMARK = re.compile(r"[\s@]*(?:rem\b|::)", re.IGNORECASE)
_BEFORE_BLOCK = re.compile(r"[\s@]*(?:(?:[)<>]|(?:if|for|else)\b).*)?", re.IGNORECASE)
"""What a command has before a parenthesis that begins a block."""
_TOO_LONG = """\
@>&2 echo This command has {size} characters, and cmd takes no more than {longest}.
@exit /B 1
"""


def run_test_bat(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the lines that run ``run_test.bat`` with the recipe's script and the commands."""
    text = ""
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            script = scripts[check.text].decode(errors="surrogateescape")
            text += f"{site.say(Said.BEGUN, number)}{script}"
    commands = [(number, check.text) for number, check in checks if check.kind is CheckKind.COMMAND]
    if commands and text:
        scripted = [number for number, check in checks if check.kind is CheckKind.SCRIPT]
        text += f"\n{site.say(Said.WENT_ON, *scripted, status=' %ERRORLEVEL%')}"
    if commands:
        # Without commands conda-build adds nothing, and what the script ends with counts.
        text += "\n\n@echo on\n\n"
        for group, is_whole in blocks(commands):
            text += _block(group, site, is_whole=is_whole)
        text += "exit /B 0\n"
    lines = text.replace("\r\n", "\n").replace("\n", "\r\n")
    return Piece(
        script=f'"{CMD}" /d /c "{site.work}\\{NAME}"\n'
        + site.say(Said.SHELL_ENDED, status=" %ERRORLEVEL%"),
        files={NAME: lines.encode(errors="surrogateescape")},
    )


def _block(group: Sequence[tuple[int, str]], site: BatchSite, *, is_whole: bool) -> str:
    # Of a block that never ends only the first command is known to have begun.
    numbers = [number for number, _ in group[: None if is_whole else 1]]
    text = site.say(Said.BEGUN, *numbers)
    for position, (_, command) in enumerate(group):
        size = max(map(len, command.split("\n")))
        if size > LONGEST_LINE:
            return text + _TOO_LONG.format(size=size, longest=LONGEST_LINE)
        text += f"{command}\n"
        if position + 1 < len(group):
            text += _AS_CONDA_BUILD
    text += site.say(Said.RETURNED, *numbers, status=" %ERRORLEVEL%")
    return text + _AS_CONDA_BUILD + _AS_IT_IS + site.say(Said.WENT_ON, *numbers)


def blocks(
    commands: Sequence[tuple[int, str]],
) -> Iterator[tuple[list[tuple[int, str]], bool]]:
    """Yield commands one by one, and those together whose parentheses close in a later one.

    Each with True; with False those whose parentheses never close.
    """
    group: list[tuple[int, str]] = []
    depth = 0
    for command in commands:
        group.append(command)
        depth = max(0, depth + _opened(command[1]))
        if depth == 0 and not command[1].rstrip("\n").endswith("^"):
            yield group, True
            group = []
    if group:
        yield group, False


def _opened(command: str) -> int:
    """Return how many blocks a command leaves open; elsewhere a parenthesis is text."""
    return sum(_opened_in(line) for line in command.split("\n") if not _REMARK.match(line))


def _opened_in(line: str) -> int:
    found, first, quoted, escaped = 0, 0, False, False
    for at, letter in enumerate(line):
        if escaped:
            escaped = False
        elif letter == '"':
            quoted = not quoted
        elif not quoted:
            escaped = letter == "^"
            if letter == "(" and not _BEFORE_BLOCK.fullmatch(line, first, at):
                continue
            found += {"(": 1, ")": -1}.get(letter, 0)
            if letter in "(&|":
                first = at + 1
            elif letter == ")":
                first = at
    return found
