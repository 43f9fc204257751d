"""From the test section that a recipe gives to what must be run (create_test.py)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Import, TestFile, TestSection
from pytest_manualbuild.recipe import specs
from pytest_manualbuild.recipe.folder import files, script_file, test_file

_SCRIPTS = {"python": ".py", "perl": ".pl", "lua": ".lua", "r": ".r"}
"""Languages and extensions in the order in which conda-build runs them; the shell's is last."""
MOST_STARS = 4


def section(folder: Path, described: Mapping[str, Any], subdir: str) -> TestSection:
    """Return the tests of one package that ``engine.render`` described.

    Raises RecipeError for a script that is missing and for values that are not tests.
    """
    test, file = described["test"], folder / "meta.yaml"
    imports = tuple(_imports(described["name"], test["imports"], file))
    wanted = tuple(_files(folder, _texts(test, "files", file)))
    shell = ".bat" if subdir.startswith("win") and not described["noarch"] else ".sh"
    if described["is_output"]:
        scripts = [*_own_script(folder, described, shell)]
        scripts += [
            script_file(folder, folder / one.path)
            for one in _among_files(wanted, imports, shell, scripts)
        ]
    else:
        paths = [folder / f"run_test{extension}" for extension in (*_SCRIPTS.values(), shell)]
        scripts = [script_file(folder, p) for p in paths if os.path.lexists(p)]
    return TestSection(
        imports=imports,
        commands=tuple(_commands(test, file)),
        scripts=tuple(scripts),
        requires=tuple(sorted(_requires(test, file))),
        files=wanted,
        source_files=tuple(sorted(_texts(test, "source_files", file))),
        downstreams=tuple(sorted(_texts(test, "downstreams", file))),
    )


def _commands(test: Mapping[str, Any], file: Path) -> list[str]:
    for number, item in enumerate(test["commands"]):
        if item is None:  # conda-build cannot write it into run_test.sh, and ends
            raise RecipeError(
                f"{file}: test/commands: item {number} of the list is empty.",
                remedy="Remove it, or write a command.",
            )
    return _texts(test, "commands", file)


def _texts(test: Mapping[str, Any], key: str, file: Path) -> list[str]:
    items = [item for item in test[key] if item is not None]
    if key == "downstreams":
        items = [name for item in items for name in (item if isinstance(item, dict) else [item])]
    if not all(isinstance(item, (str, bool)) for item in items):
        raise RecipeError(f"{file}: test/{key} must be a list of texts.", remedy="Correct it.")
    return [str(item) for item in items]


def _requires(test: Mapping[str, Any], file: Path) -> Iterable[str]:
    """Return the requirements of the tests as conda-build writes them down (``finalize``)."""
    for spec in _texts(test, "requires", file):
        specs.readable(spec, f"{file}: test/requires")
        yield specs.starred(spec)


def _own_script(folder: Path, described: Mapping[str, Any], shell: str) -> Iterable[TestFile]:
    """Return the one script that an output names; it picks up no ``run_test.*`` by itself."""
    name = described["test_script"]
    if name is None:
        return
    extension = PurePosixPath(name).suffix if isinstance(name, str) else ""
    if extension in _SCRIPTS.values() or extension.lower() == shell:
        yield script_file(folder, folder / name)
    elif extension.lower() not in (".sh", ".bat"):
        raise RecipeError(
            f"{folder / 'meta.yaml'}: test/script: {name!r} is in no language that conda-build"
            " runs.",
            remedy=f"Use one of the extensions {', '.join((*_SCRIPTS.values(), '.sh', '.bat'))}.",
        )


def _among_files(
    wanted: Iterable[TestFile], imports: Iterable[Import], shell: str, scripts: Iterable[TestFile]
) -> list[TestFile]:
    """Return the files of an output's test that conda-build runs because of their name.

    In the folder of the test ``run_test.sh`` runs wherever it came from, and imports are
    appended to a ``run_test.py`` that is there.
    """
    languages = {one.language for one in imports}
    given = {PurePosixPath(one.path).suffix for one in scripts}
    endings = [*(end for name, end in _SCRIPTS.items() if name in languages), shell]
    names = {f"run_test{ending}" for ending in endings if ending not in given}
    return [one for one in wanted if one.path in names]


def _imports(name: str, items: Iterable[Any], file: Path) -> Iterable[Import]:
    default = next((lang for lang in ("r", "perl", "lua") if name.startswith(f"{lang}-")), "python")
    found: list[Import] = []
    seen: set[str] = set()
    for item in items:
        if isinstance(item, (str, bool)):
            found.append(Import(language=default, name=str(item)))
        elif isinstance(item, dict) and isinstance(item.get("imports"), list):
            language = str(item.get("lang") or default)
            if language not in _SCRIPTS:
                raise RecipeError(
                    f"{file}: imports: lang: {language!r} is not known.",
                    remedy=f"Known: {', '.join(_SCRIPTS)}.",
                )
            # Of Perl, Lua and R conda-build takes the first such item only.
            if language == "python" or language not in seen:
                found += [Import(language=language, name=str(one)) for one in item["imports"]]
            seen.add(language)
        elif item is not None:
            raise RecipeError(f"{file}: imports: {item!r} is not a module.", remedy="Correct it.")
    if any(not one.name.strip() for one in found):
        raise RecipeError(f"{file}: imports has an empty item.", remedy="Remove it.")
    # conda-build sorts the lists of a recipe that it packs, except commands.
    return sorted(found, key=lambda one: (one.language, one.name))


def _files(folder: Path, globs: Iterable[str]) -> Iterable[TestFile]:
    """Return the files of the recipe that globs find at any depth, folders with all in them."""
    everything = {path.relative_to(folder.resolve()): path for path in files(folder)}
    found: dict[str, TestFile] = {}
    for glob in globs:
        pattern = PurePosixPath(glob)
        parts = pattern.parts
        if not parts or ".." in parts or pattern.is_absolute() or parts.count("**") > MOST_STARS:
            raise RecipeError(
                f"{folder / 'meta.yaml'}: test/files: {glob!r} is not a name in the recipe.",
                remedy="Put the file into the recipe, and give its path from there.",
            )
        matches = {path.relative_to(folder) for path in folder.rglob(glob)}
        for relative, path in everything.items():
            if relative in matches or not matches.isdisjoint(relative.parents):
                described = test_file(folder.resolve(), path)
                found[described.path] = described
    return [found[name] for name in sorted(found)]
