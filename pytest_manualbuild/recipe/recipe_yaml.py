"""Renders ``recipe.yaml`` (v1) with py-rattler-build, in a child process, to our own model.

What the tests of each kind become is written down in ``docs/recipe-yaml.md``. A kind that this
version does not know is an error, never left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
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
    document.read(path)
    given = wanted.variant
    values = None if given is None else {key: _value(text) for key, text in given.items()}
    if values is not None:
        values.pop("target_platform", None)  # it follows from the subdir, or is noarch
    asked = {"path": str(path), "subdir": wanted.subdir, "variant": values}
    described = _ask(path, {**asked, "files": [str(file.resolve()) for file in files]})
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
        message = _MESSAGE.search(problem)
        text = message[1].replace('\\"', '"') if message else problem
        line = _LINE.search(problem)
        where = f"{path}:{line[1] or line[2]}" if line else str(path)
        raise RecipeError(f"{where}: {' '.join(text.split())[:500]}.", remedy="Correct it.")
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
