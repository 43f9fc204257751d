"""Runs ``run_test.sh`` and all commands in one bash, as conda-build does.

The text is conda-build's (create_test.py): the recipe's own script, ``set
-ex``, one line per command, ``exit 0``, run by a new bash with errexit, which
has of the activation what was exported and no more. Only the marks are ours.
bash is given a file of that name, since scripts ask whether they were called or
sourced (``[ "${BASH_SOURCE[0]}" = "$0" ]``) and may do nothing otherwise. What
it starts with is no more than how to read the text; the script takes its place
before the first line of the text that is not ours.
They stand between whole statements: where commands make a statement only
together (``if``, ``fi``, a here-document), no mark comes between them, and
they share one result.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from pytest_manualbuild.execution.marks import Said
from pytest_manualbuild.languages.base import BatchSite, Numbered, Parses, Piece, Site
from pytest_manualbuild.languages.run_test_bat import run_test_bat
from pytest_manualbuild.model import CheckKind
from pytest_manualbuild.shells import MARK, READ_SCRIPT, SYSTEM_PATH, as_format, whole

NAME = "shell"
PACKAGE = ""
_FILE = "run_test.sh"
_KEPT = "_manualbuild_run_test.sh"
"""The script, until bash has opened the file that stands where it belongs."""

# Leaves $? and $_ as they were, and no trace; with `&&`, errexit does not heed what $? was.
_MARK = '{{ _mb_mark "{word} $?" "$_" && : "$_"; }} 2>/dev/null\n'
# The name of the mark in there is one that no program has.
# A file that BASH_ENV names would be read before the script, and could read the script then.
_RUN = """\
_mb_env='unset BASH_ENV'
[ -z "${{BASH_ENV+set}}" ] || builtin printf -v _mb_env 'export BASH_ENV=%q' "$BASH_ENV"
builtin printf '%s\n_mb_%s\n%s' "$_mb_env" "${define}" {text} \\
  | BASH_ENV= "$_mb_bash" -e "$_mb_work/{file}"
mark "{ended} ${{PIPESTATUS[1]}}"
"""
_RUN_PLAIN = """\
{{ printf '_mb_%s\n' "${define}"; printf {text}; }} | (
{exports}_mb_apart "$PREFIX/bin:$PATH" "$_mb_bash" -e "$_mb_work/{file}" )
mark "{ended} $?"
"""
_MOST_TRIES = 256
"""So many lines are looked at for the end of a statement; then the rest is one group."""
# Whole pieces: a substitution of plain words, then quoted text. They are taken out before a look.
_SUBSTITUTION = re.compile(r"\$\([\w\s./$=:,+-]*\)")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"$`\\]|\$(?![(\[{]))*\"""")
# Whatever may leave a statement open. Without any of it a line is whole: bash need not be asked.
_OPEN = re.compile(
    r"[\"'`(){}\\]|<<|[|&]\s*(?:$|#)|\[\[|\$\["
    r"|\b(?:if|then|elif|else|fi|for|while|until|do|done|case|esac|select|function)\b"
)


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.sh`` and the commands."""

    def mark(said: Said, *numbers: int, begun: tuple[int, ...] = ()) -> str:
        return _MARK.format(word=site.marks.new(said, *numbers, begun=begun))

    files = {_FILE: f"{READ_SCRIPT}\n".encode()}
    text = ': >"$0" || :\n'
    ended = ""
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            files[_KEPT] = scripts[check.text]
            text = f'PATH={SYSTEM_PATH} mv -f "${{0%/*}}/{_KEPT}" "$0" || :\n'
            text += mark(Said.BEGUN, number) + files[_KEPT].decode(errors="surrogateescape")
            ended = mark(Said.WENT_ON, number)
    text += f"\n\n{ended}set -ex\n\n\n\n"
    commands = [(number, check.text) for number, check in checks if check.kind is CheckKind.COMMAND]
    before: tuple[int, ...] = ()
    for group, is_whole in statements(commands, site.parses):
        numbers = tuple(number for number, _ in group)
        if before and is_whole:
            text += mark(Said.WENT_ON, *before, begun=numbers)
        else:
            text += mark(Said.WENT_ON, *before) if before else ""
            # What is never whole goes on in whatever follows, which must be what conda-build has
            # there, and may be no more than text to it: only its first command surely began.
            text += mark(Said.BEGUN, *numbers) if is_whole else mark(Said.BEGUN_OPEN, numbers[0])
        text += "\n".join(command for _, command in group) + "\n"
        before = numbers if is_whole else ()
    text += mark(Said.WENT_ON, *before) if before else ""
    text = whole(f"{text}exit 0\n")
    ended = site.marks.new(Said.SHELL_ENDED)
    if site.exports is None:
        run = _RUN.format(define=MARK, text=shlex.quote(text), file=_FILE, ended=ended)
    else:
        quoted = as_format(text.encode(errors="surrogateescape"))
        run = _RUN_PLAIN.format(
            define=MARK, text=quoted, exports=site.exports, file=_FILE, ended=ended
        )
    return Piece(script=run, files=files)


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows: ``run_test.bat`` in a cmd of its own."""
    return run_test_bat(checks, scripts, site)


def statements(
    commands: Sequence[tuple[int, str]], parses: Parses
) -> list[tuple[list[tuple[int, str]], bool]]:
    """Group commands into whole statements, each with True; the rest is one group with False."""
    asked = [command for _, command in commands if _may_be_open(command)]
    # Nearly all are whole by themselves, so all are asked about at once.
    whole_alone = dict(zip(asked, parses(asked), strict=True)) if asked else {}
    groups: list[tuple[list[tuple[int, str]], bool]] = []
    position = 0
    while position < len(commands):
        end, is_whole = position, True
        # PIPESTATUS is of the command before, and a mark is one: they stay together.
        while end == position or (
            is_whole and end < len(commands) and "PIPESTATUS" in commands[end][1]
        ):
            size = 1
            if not whole_alone.get(commands[end][1], True):
                is_whole, size = _whole([command for _, command in commands[end:]], parses)
            end += size
        groups.append((list(commands[position:end]), is_whole))
        position = end
    return groups


def _whole(commands: Sequence[str], parses: Parses) -> tuple[bool, int]:
    """Return how many of these commands make whole statements together; all, if they never do."""
    tries = range(2, min(len(commands), _MOST_TRIES) + 1)
    if tries:
        whole = parses(["\n".join(commands[:size]) for size in tries])
        for size, is_whole in zip(tries, whole, strict=True):
            if is_whole:
                return True, size
    return False, len(commands)


def _may_be_open(command: str) -> bool:
    return _OPEN.search(_QUOTED.sub("", _SUBSTITUTION.sub("", command))) is not None
