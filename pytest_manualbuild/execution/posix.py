"""Writes the script of a test section in bash."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_manualbuild.execution import activation, aftermath
from pytest_manualbuild.execution.asked import SHORT_S, Asked, Written
from pytest_manualbuild.execution.marks import Said
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.languages import LANGUAGES, Site
from pytest_manualbuild.patience import patient

look = aftermath.after

# A test may say so with a file of this name (conda-build, build.py).
_END = """\
cd {work}
if [ -e TEST_FAILED ]; then mark {failed}; fi
mark {complete}
exit 0
"""
# A command before may have set extglob, without which bash cannot read the patterns that need it.
_PARSES = """\
_mb_text={text}
if [ -z "$(printf %s "$_mb_text" | bash -n 2>&1 || echo no)" ]; then echo yes
elif [ -z "$(printf %s "$_mb_text" | bash -O extglob -n 2>&1 || echo no)" ]; then echo yes
else echo no; fi
"""


def work(folder: str) -> str:
    """Return the folder of the tests below one of ours."""
    return f"{folder}/work"


def script(asked: Asked, connection: Connection) -> Written:
    """Return the script of a section, and the files that go into its folder of tests."""

    def parses(texts: Sequence[str]) -> list[bool]:
        # bash only warns of a here-document without its end, so words on stderr count too.
        script = "".join(_PARSES.format(text=shlex.quote(text)) for text in texts)
        said = connection.run(script, timeout_s=patient(SHORT_S)).stdout.split()
        return [
            word == b"yes" and not text.endswith("\\")
            for word, text in zip(said, texts, strict=True)
        ]

    (section,) = asked.planned.sections
    base = asked.environment.prefix if section.schema else work(asked.folder)
    text = "".join(f"chmod +x {shlex.quote(f'{base}/{one}')}\n" for one in sorted(asked.programs))
    active = activation.script(
        asked.planned, asked.environment, asked.build, asked.folder, asked.marks
    )
    site = Site(parses=parses, marks=asked.marks, exports=active.exports)
    text += active.script
    files = dict(asked.files)
    for language in LANGUAGES:
        if numbered := asked.checks(language):
            piece = language.piece(numbered, dict(asked.files), site)
            text += piece.script
            files.update(piece.files)
    text += _END.format(
        work=shlex.quote(work(asked.folder)),
        failed=asked.marks.new(Said.TEST_FAILED),
        complete=asked.marks.new(Said.COMPLETE),
    )
    return Written(script=text, files=files, plain=active.exports is not None)
