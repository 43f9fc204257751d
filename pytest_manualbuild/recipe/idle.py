"""Which scripts hold nothing that could fail, so that their passing says nothing.

In doubt a script does something: only comments, empty lines, what sets the shell's options, an
``exit 0``, and Python's ``pass`` and docstrings are nothing.
"""

from __future__ import annotations

import re

_LINES = {
    "shell": re.compile(r"#.*|set(?:\s+[-+]?\w+)*|exit\s+0", re.ASCII),
    "batch": re.compile(
        r"::.*|@?rem(?:\s.*)?|@?echo o(?:ff|n)|@?setlocal|@?exit(?:\s+/b)?\s+0", re.IGNORECASE
    ),
    "lua": re.compile(r"#!.*|--(?!\[).*"),
}
_COMMENT = re.compile(r"#.*")
_PIECE = re.compile(
    r"[\s;]+|\\\n|#[^\n]*|pass\b|[rRuU]?(?:"
    r'"""(?:[^"\\]|\\.|"(?!""))*"""'
    r"|'''(?:[^'\\]|\\.|'(?!''))*'''"
    r'|"[^"\\\n]*"|\'[^\'\\\n]*\')',
    re.DOTALL,
)
"""What a Python file may consist of and do nothing."""
_BY_EXTENSION = {
    ".py": "python",
    ".pl": "perl",
    ".lua": "lua",
    ".r": "r",
    ".sh": "shell",
    ".bat": "batch",
}


def idle_file(extension: str, content: bytes) -> bool:
    """Whether a script of that extension does nothing."""
    text = content.decode("utf-8-sig", errors="replace")
    return idle(text, _BY_EXTENSION.get(extension.lower(), ""))


def idle(text: str, language: str) -> bool:
    """Whether a script in that language does nothing; ``language`` is one of ours, or batch."""
    if language == "python":
        return _idle_python(text)
    nothing = _LINES.get(language, _COMMENT)
    lines = (line.strip() for line in text.splitlines())
    return all(nothing.fullmatch(line) for line in lines if line)


def _idle_python(text: str) -> bool:
    place = 0
    while place < len(text):
        found = _PIECE.match(text, place)
        if found is None:
            return False
        place = found.end()
    return True
