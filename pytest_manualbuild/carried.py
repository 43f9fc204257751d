"""What a package carries of its recipe and tests, compared with each other.

A builder who strips a test can do so in the recipe inside the package, in ``info/test``, or in
both. The section that is returned is that of the recipe inside, as it was rendered for the build;
``altered`` says where ``info/test`` is something else.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import package, plan, recipe
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.model import Artifact, TestSection
from pytest_manualbuild.package import archive
from pytest_manualbuild.recipe import specs

_META = "meta.yaml"
_TEST, _RECIPE = "info/test/", "info/recipe/"
_REQUIRES = "test_time_dependencies.json"
_PATH = re.compile(r"(?:/[\w.+-]+)+")
# The folders of the builder's machine that conda-build writes into commands, where a path begins:
# tried at each of its folders, a path of 200 kB would take half an hour.
_FOLDERS = (
    (re.compile(r"\A/.+/_h_env[_placehod]*"), "$PREFIX"),
    (re.compile(r"\A/.+/_build_env\b"), "$BUILD_PREFIX"),
    (re.compile(r"\A/.+/[\w.+-]+_\d{13}/work\b"), "$SRC_DIR"),
)
_ERRORLEVEL = re.compile(r"IF %ERRORLEVEL% NEQ 0 exit( /B)? 1", re.IGNORECASE)
# create_test.py: what it writes around scripts, and a line for each import.
_AROUND = re.compile(r"(#|//|--|print\(['\"]|my \$|if \(defined|\tmy|\t\$|\tdie|\tprint|\}|\)$|$)")
_IMPORT = {
    ".py": "import {}",
    ".r": "library({})",
    ".lua": 'require "{}"',
    ".pl": "use {};",
}
_LANGUAGE = {".py": "python", ".r": "r", ".lua": "lua", ".pl": "perl"}


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """The tests inside a package."""

    sections: tuple[TestSection, ...]
    altered: tuple[str, ...] = ()
    """In what ``info/test`` differs from them, in sentences without a subject."""


def read(path: Path, artifact: Artifact) -> Carried | None:
    """Read what a package carries; None when it carries no recipe.

    Raises RecipeError or ArtifactError when that recipe cannot be rendered or is about another
    package.
    """
    members = dict(archive.info_members(path))
    if not any(f"{_RECIPE}{name}" in members for name in recipe.FILES):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in members.items():
            if name.startswith(_RECIPE):
                target = Path(scratch) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        own = Path(scratch) / "info/recipe"
        if recipe.file(own).name != _META:
            # rattler-build keeps the whole recipe in each of its packages.
            others = [name for name in members if name.startswith(_TEST)]
            return Carried(sections=plan.sections_of(own, artifact), altered=_foreign(others))
        whole = own / "parent" if (own / "parent" / _META).is_file() else own
        section = _section(own, whole, artifact)
        scripts = {
            name: (whole / name).read_bytes()
            for name in (*(one.path for one in section.scripts), "run_test.sh", "run_test.bat")
            if (whole / name).is_file() and (whole == own or name not in _SHELLS)
        }
    tests = {
        name.removeprefix(_TEST): content
        for name, content in members.items()
        if name.startswith(_TEST)
    }
    altered = _altered(section, scripts, tests, artifact)
    foreign = _foreign([name for name in members if name == package.TESTS])
    return Carried(sections=(section,), altered=(*altered, *foreign))


def _foreign(names: list[str]) -> tuple[str, ...]:
    """Say that a package carries tests as the other build tool writes them, and runs them."""
    return tuple(f"it carries {name}, which what built it does not write." for name in names[:1])


_SHELLS = ("run_test.sh", "run_test.bat")


def _section(own: Path, whole: Path, artifact: Artifact) -> TestSection:
    """Return the tests of the recipe inside: the rendered text, with the files of the whole."""
    rendered = recipe.load(own, subdir=artifact.subdir, variant=artifact.variant).outputs
    if [(one.name, one.version) for one in rendered] != [(artifact.name, artifact.version)]:
        raise ArtifactError(
            f"{artifact.key}: the recipe inside is about another package.",
            remedy="Build it again with its recipe inside.",
        )
    (final,) = rendered[0].sections
    section = replace(final, commands=tuple(map(_local, final.commands)))
    if whole != own:
        (above,) = plan.sections_of(whole, artifact)
        section = replace(section, scripts=above.scripts, files=above.files)
    return section


def _local(command: str) -> str:
    for pattern, variable in _FOLDERS:
        command = _PATH.sub(partial(_without_folder, pattern, variable), command)
    return command


def _without_folder(pattern: re.Pattern[str], variable: str, path: re.Match[str]) -> str:
    return pattern.sub(variable, path.group())


def _altered(
    section: TestSection,
    scripts: Mapping[str, bytes],
    tests: Mapping[str, bytes],
    artifact: Artifact,
) -> Iterator[str]:
    yield from _shell(section, scripts, tests, artifact)
    for ending, language in _LANGUAGE.items():
        yield from _language(section, scripts, tests, ending, language)
    try:
        wanted = json.loads(tests.get(_REQUIRES, b"[]"))
        agree = specs.agree(section.requires, [str(one) for one in wanted])
    except (ValueError, RecursionError, TypeError):
        agree = False
    if not agree:
        yield f"its info/test/{_REQUIRES} is not the recipe's test/requires."
    for one in section.files:
        content = tests.get(one.path)
        script = PurePosixPath(one.path).stem == "run_test"
        if content is None or (not script and hashlib.sha256(content).hexdigest() != one.sha256):
            yield f"its info/test lacks the recipe's {one.path}, or has another."
    known = {_REQUIRES, *(one.path for one in section.files), *_SHELLS}
    known |= {f"run_test{ending}" for ending in _LANGUAGE}
    if not section.source_files and (more := sorted(tests.keys() - known)):
        yield f"its info/test has {more[0]}, which the recipe does not ask for."


def _shell(
    section: TestSection,
    scripts: Mapping[str, bytes],
    tests: Mapping[str, bytes],
    artifact: Artifact,
) -> Iterator[str]:
    """Compare ``run_test.sh`` or ``.bat``: the recipe's script, then a line a command."""
    builders = ".bat" if artifact.subdir.startswith("win") else ".sh"
    for ending in (".sh", ".bat"):
        name = f"run_test{ending}"
        script = next((text for path, text in scripts.items() if path.endswith(ending)), None)
        wanted = script is not None or bool(section.commands)
        if name not in tests:
            if wanted and ending == builders:
                yield f"its info/test lacks {name}."
            continue
        if not wanted:
            yield f"its info/test has {name}, and the recipe no such test."
            continue
        left = _without(tests[name], script)
        lines = [line.strip() for line in left.splitlines() if line.strip()] if left else []
        lines = [line for line in lines if not _ERRORLEVEL.fullmatch(line)]
        if lines[:1] in (["set -ex"], ["set -e"], ["@echo on"]):
            lines = lines[1:]
        if section.commands and lines[-1:] in (["exit 0"], ["exit /B 0"]):
            lines = lines[:-1]
        commands = "\n".join(section.commands).splitlines()
        if left is None or [_local(line) for line in lines] != [
            c.strip() for c in commands if c.strip()
        ]:
            yield f"its info/test/{name} is not made of the recipe's tests."


def _language(
    section: TestSection,
    scripts: Mapping[str, bytes],
    tests: Mapping[str, bytes],
    ending: str,
    language: str,
) -> Iterator[str]:
    """Compare ``run_test.py`` and the like: the recipe's script, then its imports."""
    name = f"run_test{ending}"
    script = next((text for path, text in scripts.items() if path.endswith(ending)), None)
    imports = [one.name for one in section.imports if one.language == language]
    if script is None and not imports:
        if name in tests and not any(one.path == name for one in section.files):
            yield f"its info/test has {name}, and the recipe no such test."
        return
    if name not in tests:
        yield f"its info/test lacks {name}."
        return
    left = _without(tests[name], script)
    if left is None or not _imports_only(left.splitlines(), imports, ending):
        yield f"its info/test/{name} is not made of the recipe's tests."


def _imports_only(lines: Iterable[str], imports: list[str], ending: str) -> bool:
    rest = [line for line in lines if line.strip() and not _AROUND.match(line)]
    return Counter(rest) == Counter(_IMPORT[ending].format(name) for name in imports)


def _without(content: bytes, script: bytes | None) -> str | None:
    """Return a test's text without the recipe's script in it; None if that is not in it."""
    text = content.decode(errors="replace").replace("\r\n", "\n")
    if script is None:
        return text
    inner = script.decode(errors="replace").replace("\r\n", "\n")
    return text.replace(inner, "\n", 1) if inner in text else None
