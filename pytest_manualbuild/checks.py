"""Lists the checks of test sections: what gets a result, in which order, under which name.

The gate makes the same list again, so the rules for it stand here once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild.model import Check, CheckKind, TestSection
from pytest_manualbuild.recipe.idle import idle

INSTALL = Check(name="install", kind=CheckKind.INSTALL)
INLINE = "_manualbuild_script"
"""The file that a section's own script becomes on the host, in the folder of the tests."""
_NAME_LENGTH = 80
_SHELL = (".sh", ".bat")
_LANGUAGES = {".py": "python", ".pl": "perl", ".lua": "lua", ".r": "r"}
_LANGUAGES |= dict.fromkeys(_SHELL, "shell")
# What rattler-build calls the imports of each language.
_WORDS = {"python": "imports", "perl": "uses", "r": "libraries", "ruby": "requires"}


def checks(sections: Sequence[TestSection]) -> tuple[Check, ...]:
    """Return the checks of test sections in the order in which they run, ``install`` first.

    Each section begins with the check that its environment can be made and activated; that of
    the first one is the package's ``install``. Names stay the same from run to run; a repeated
    one gets `` #2`` and so on.
    """
    found = []
    for number, section in enumerate(sections):
        for check in _of(section):
            plain = not section.label or (check is INSTALL and not number) or section.functions
            name = check.name if plain else f"{section.label}.{check.name}"
            found.append(replace(check, name=name, section=number))
    return tuple(_distinct(found))


def proving(sections: Sequence[TestSection]) -> frozenset[str]:
    """Return the names of the checks of these sections whose passing says something.

    That it can be installed says too little, and what has nothing to run says nothing.
    """
    return frozenset(
        check.name
        for check in checks(sections)
        if check.kind is not CheckKind.INSTALL and _runs(check, sections[check.section])
    )


def of_the_package(sections: Sequence[TestSection]) -> tuple[TestSection, ...]:
    """Return the sections that a package carries as well: all but those of pytest's functions."""
    return tuple(section for section in sections if not section.functions)


def name_asked_for(spec: str) -> str:
    """Return the name of the package that a spec asks for, which may name its channel first."""
    plain = spec.rpartition("::")[2].strip()
    return re.split(r"[^A-Za-z0-9._-]", plain, maxsplit=1)[0].lower()


def _runs(check: Check, section: TestSection) -> bool:
    text = check.text
    if check.kind is CheckKind.SCRIPT:
        file = next((one for one in section.scripts if one.path == check.text), None)
        if file is not None:
            return file.size > 0 and not file.idle
        text = section.script or ""
    elif check.kind is not CheckKind.COMMAND:
        return True
    return not idle(text, check.language)


def _of(section: TestSection) -> Iterable[Check]:
    if section.contents:
        yield from _contents(section)
    elif section.functions:
        for index, name in enumerate(section.functions):
            yield Check(name=name, kind=CheckKind.FUNCTION, text=name, index=index)
    elif section.schema and section.downstreams:
        yield from _downstreams(section)
    else:
        yield INSTALL
        scripts = [_script(script.path) for script in section.scripts]
        yield from (check for check in scripts if not check.text.endswith(_SHELL))
        yield from _imports(section)
        if section.pip_check:
            yield Check(name="pip_check", kind=CheckKind.PIP_CHECK, language="python")
        yield from (check for check in scripts if check.text.endswith(_SHELL))
        yield from _commands(section)
        yield from _downstreams(section)


def _downstreams(section: TestSection) -> Iterable[Check]:
    word = "downstream" if section.schema else "downstreams"
    # One that is named twice has one environment, and one folder, to be tested in.
    for index, spec in enumerate(dict.fromkeys(section.downstreams)):
        name = f"{word}: {_one_line(spec)}"
        yield Check(name=name, kind=CheckKind.DOWNSTREAM, text=spec, index=index)


def _commands(section: TestSection) -> Iterable[Check]:
    if section.script is not None:
        language = section.interpreter or "shell"
        yield Check(name="script", kind=CheckKind.SCRIPT, language=language, text=INLINE)
    word = "script" if section.schema else "commands"
    for index, command in enumerate(section.commands):
        yield Check(
            name=f"{word}[{index}]: {_one_line(command)}",
            kind=CheckKind.COMMAND,
            language="shell",
            text=command,
            index=index,
        )


def _imports(section: TestSection) -> Iterable[Check]:
    for index, item in enumerate(section.imports):
        word = "imports" if item.language == "python" else f"imports[{item.language}]"
        if section.schema:
            word = _WORDS[item.language]
        use = section.schema and item.language == "perl"
        yield Check(
            name=f"{word}: {item.name}",
            kind=CheckKind.USE if use else CheckKind.IMPORT,
            language=item.language,
            text=item.name,
            index=index,
        )


def _contents(section: TestSection) -> Iterable[Check]:
    for index, rule in enumerate(section.contents):
        absent = "" if rule.exists else ".not_exists"
        name = f"package_contents.{rule.kind}{absent}"
        yield Check(
            name=f"{name}: {_one_line(rule.glob)}" if rule.glob else name,
            kind=CheckKind.CONTENTS,
            text=rule.glob,
            index=index,
        )


def _script(path: str) -> Check:
    language = _LANGUAGES.get(Path(path).suffix, "")
    return Check(name=path, kind=CheckKind.SCRIPT, language=language, text=path)


def _one_line(command: str) -> str:
    line = " ".join(command.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "…"


def _distinct(found: Iterable[Check]) -> Iterable[Check]:
    seen: Counter[str] = Counter()
    for check in found:
        seen[check.name] += 1
        if seen[check.name] == 1:
            yield check
        else:
            yield replace(check, name=f"{check.name} #{seen[check.name]}")
