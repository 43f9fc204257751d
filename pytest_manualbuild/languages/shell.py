"""Runs ``run_test.sh`` and all commands in one bash, as conda-build does.

The text is conda-build's (create_test.py): the recipe's own script, ``set
-ex``, one line per command, ``exit 0``, read by a bash with errexit. Only the
marks are ours. They stand between whole statements: where commands make a
statement only together (``if``, ``fi``, a here-document), no mark comes
between them, and they share one result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_manualbuild.languages.base import Numbered, Parses, Piece
from pytest_manualbuild.model import CheckKind

NAME = "shell"
PACKAGE = ""

_MARK = "{{ mark '{text}'; }} 2>/dev/null\n"  # the redirection keeps it out of the xtrace
# Whole pieces: a substitution of plain words, then quoted text. They are taken out before a look.
_SUBSTITUTION = re.compile(r"\$\([\w\s./$=:,+-]*\)")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"$`\\]|\$(?![(\[{]))*\"""")
# Whatever may leave a statement open. Without any of it a line is whole: bash need not be asked.
_OPEN = re.compile(
    r"[\"'`(){}\\]|<<|[|&]\s*$"
    r"|\b(?:if|then|elif|else|fi|for|while|until|do|done|case|esac|select|function)\b"
)


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], parses: Parses) -> Piece:
    """Return the script for ``run_test.sh`` and the commands."""
    text = b""
    ended = ""
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            text += _MARK.format(text=f"begin {number}").encode() + scripts[check.text]
            ended = _MARK.format(text=f"end {number} 0")
    text += b"\n\n" + ended.encode() + b"set -ex\n\n\n\n"
    commands = [(number, check.text) for number, check in checks if check.kind is CheckKind.COMMAND]
    for group in statements(commands, parses):
        numbers = [number for number, _ in group]
        lines = "\n".join(command for _, command in group) + "\n"
        begin = "; ".join(f"begin {number}" for number in numbers)
        end = "; ".join(f"end {number} 0" for number in numbers)
        text += (_MARK.format(text=begin) + lines + _MARK.format(text=end)).encode()
    text += b"exit 0\n"
    return Piece(
        # Sourced in a subshell: bash reads it line by line, as it reads a script, and its
        # `exit` ends no more than it would end there. The status needs no mark of its own
        # unless it is bad: then the last check that began is the one that failed.
        script='( set -e; . "$_mb_work/_manualbuild_run_test.sh" )\nmark "shell $?"\n',
        files={"_manualbuild_run_test.sh": text},
    )


def statements(commands: Sequence[tuple[int, str]], parses: Parses) -> list[list[tuple[int, str]]]:
    """Group commands into whole statements; what is never whole is one group to the end."""
    asked = [command for _, command in commands if _may_be_open(command)]
    # Nearly all are whole by themselves, so all are asked about at once.
    whole_alone = dict(zip(asked, parses(asked), strict=True)) if asked else {}
    groups: list[list[tuple[int, str]]] = []
    open_group: list[tuple[int, str]] = []
    for item in commands:
        open_group.append(item)
        if len(open_group) == 1:
            whole = whole_alone.get(item[1], True)
        else:
            whole = parses(["\n".join(command for _, command in open_group)])[0]
        if whole:
            groups.append(open_group)
            open_group = []
    if open_group:
        groups.append(open_group)
    return groups


def _may_be_open(command: str) -> bool:
    return _OPEN.search(_QUOTED.sub("", _SUBSTITUTION.sub("", command))) is not None
