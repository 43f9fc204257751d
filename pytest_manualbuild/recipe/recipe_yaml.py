"""Renders ``recipe.yaml`` (v1) with py-rattler-build, in a child process, to our own model.

What the tests of each kind become is written down in ``docs/recipe-yaml.md``. A kind that this
version does not know is an error, never left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pytest_manualbuild import globs
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Output
from pytest_manualbuild.recipe import document, rattler_tests
from pytest_manualbuild.recipe.needs import needs
from pytest_manualbuild.recipe.wanted import Wanted

VARIANT_FILES = ("conda_build_config.yaml", "variants.yaml")
"""Taken where they lie beside a recipe; of both, the later one wins, as in rattler-build."""
MOST_S = 10.0
_CHILD = Path(__file__).with_name("_rattler_build.py")
# Of what the library's error says, as Rust shows it to developers.
_MESSAGES = [re.compile(key + r': "((?:[^"\\]|\\.)*)"') for key in ("message", "reason", "field")]
_LINE = re.compile(r"line: (\d+)|YAML: (\d+):\d+")


def outputs(path: Path, wanted: Wanted) -> tuple[Output, ...]:
    """Render a ``recipe.yaml`` for a package's variant, or for all in the files beside it.

    Raises RecipeError, naming file and line where the library knows it.
    """
    beside = [file for name in VARIANT_FILES if (file := path.parent / name).is_file()]
    files = [*([wanted.exclusive] if wanted.exclusive else beside), *wanted.configs]
    for file in files:
        if not file.is_file():
            raise RecipeError(f"{file}: there is no such variant file.", remedy="Correct its path.")
    text = document.read(path)
    given = wanted.variant
    values = None if given is None else {key: _value(text) for key, text in given.items()}
    if values is not None:
        values.pop("target_platform", None)  # it follows from the subdir, or is noarch
    asked = {"path": str(path), "subdir": wanted.subdir, "variant": values}
    described = _ask(path, {**asked, "files": [str(file.resolve()) for file in files]})
    _refuse_several_kinds(text, path)
    siblings = {
        one["recipe"]["package"]["name"]: (
            str(one["recipe"]["package"]["version"]),
            str(one["recipe"]["build"].get("string") or ""),
        )
        for one in described
    }
    try:
        return tuple(_output(one, path, siblings) for one in described)
    except globs.BadGlob as error:
        raise RecipeError(f"{path}: a glob has {error}.", remedy="Correct it.") from error


def _refuse_several_kinds(text: str, path: Path) -> None:
    """Refuse a test that is of two kinds: py-rattler-build drops one without a word."""
    try:
        tree = yaml.compose(text, Loader=document.DATA)
    except yaml.YAMLError:
        return  # another reader's opinion: py-rattler-build has read it
    top = dict(_mappings(tree))
    for one in (top, *(dict(_mappings(out)) for out in _items(top.get("outputs")))):
        for test in _items(one.get("tests")):
            kinds = [key for key, _ in _mappings(test) if key in rattler_tests.KINDS]
            if len(kinds) > 1:
                raise RecipeError(
                    f"{path}:{test.start_mark.line + 1}: one test has {' and '.join(kinds)}, and"
                    " rattler-build runs only one of them.",
                    remedy="Make a test of each, with a '-' of its own.",
                )


def _mappings(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def _items(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield the items of a list, those of either branch of a condition as well."""
    if node is None:
        return
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        keys = dict(_mappings(item))
        if "if" in keys:
            yield from (one for branch in ("then", "else") for one in _items(keys.get(branch)))
        else:
            yield item


def _value(text: str) -> str | bool:
    """Return a value of the variant as rattler-build had it: only truth is no text there."""
    return {"True": True, "False": False}.get(text, text)


def _ask(path: Path, request: Mapping[str, object]) -> list[dict[str, Any]]:
    try:
        done = subprocess.run(
            # -I: neither the current folder nor the caller's variables have a say in it
            [sys.executable, "-I", "-X", "utf8", str(_CHILD)],
            input=json.dumps(request).encode(),
            capture_output=True,
            env={},
            cwd="/",
            timeout=MOST_S,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise RecipeError(
            f"{path}: it is not rendered within {MOST_S:g} s.", remedy="Look for a loop in it."
        ) from error
    except ValueError as error:
        raise RecipeError(
            f"{path}: rendering it needs too much memory, or crashes py-rattler-build.",
            remedy="Look for what grows in it.",
        ) from error
    if "error" in answer:
        problem = answer["error"]
        message = next(filter(None, (one.search(problem) for one in _MESSAGES)), None)
        text = message[1].replace('\\"', '"') if message else problem
        line = _LINE.search(problem)
        where = f"{path}:{line[1] or line[2]}" if line else str(path)
        remedy = "Correct it."
        if re.match("expected .* but got", text):
            remedy = (
                "py-rattler-build names no line: look for a list, a mapping or a text where another"
                " of them belongs."
            )
        raise RecipeError(f"{where}: {' '.join(text.split())[:500]}.", remedy=remedy)
    return list(answer["outputs"])


def _output(
    given: Mapping[str, Any], path: Path, siblings: Mapping[str, tuple[str, str]]
) -> Output:
    described = given["recipe"]
    package, build = described["package"], described["build"]
    noarch = build.get("noarch")
    name = str(package["name"])
    tests = described.get("tests") or []
    sections = rattler_tests.sections(
        tests,
        given["scripts"],
        rattler_tests.Source(package=name, recipe=path, siblings=siblings),
    )
    return Output(
        name=name,
        version=str(package["version"]),
        build_number=int(build.get("number") or 0),
        noarch=str(noarch) if noarch else None,
        skip=bool(given["skip"]),
        sections=sections,
        variant=given["variant"],
        needs=needs(described.get("extra"), path),
        run=tuple(_spec(one) for one in (described.get("requirements") or {}).get("run") or ()),
    )


def _spec(one: object) -> str:
    """Return a run requirement as text; a pin is known by its name until its host is solved."""
    return str(next(iter(one.values()))["name"]) if isinstance(one, dict) else str(one)
