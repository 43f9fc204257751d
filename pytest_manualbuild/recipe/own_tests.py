"""Test functions of pytest in a recipe's folder: found by reading them, never by importing them.

What a function is called is known from the text alone, so that the plan, and the gate after it,
can name each one. A function that only comes up while a file runs has no place in a plan.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Output, TestFile, TestSection

LABEL = "recipe-tests"
PATTERN = "tests/test_*.py"


def added(folder: Path, output: Output) -> Output:
    """Return an output of a recipe with the recipe's own test functions; see ``section``."""
    functions = section(folder, output.sections[0])
    return replace(output, sections=(*output.sections, functions))


def section(folder: Path, first: TestSection) -> TestSection:
    """Return the test section of a recipe's own test functions.

    ``first`` is the recipe's first section, whose rules and requirements hold for it as well.
    RecipeError when there is none, or a file cannot be read as Python.
    """
    files, names = [], []
    for path in sorted(folder.glob(PATTERN)):
        relative = path.relative_to(folder).as_posix()
        data, functions = _read(path)
        files.append(
            TestFile(path=relative, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        )
        names += [f"{relative}::{name}" for name in functions]
    if not names:
        raise RecipeError(
            f"{folder}: there is no test function in {PATTERN}.",
            remedy="Add one (def test_...), or leave out --recipe-tests.",
        )
    return TestSection(
        label=LABEL,
        requires=() if first.schema else first.requires,
        schema=first.schema,
        modules=tuple(files),
        functions=tuple(names),
    )


def _read(path: Path) -> tuple[bytes, list[str]]:
    try:
        data = path.read_bytes()
        return data, list(dict.fromkeys(_functions(ast.parse(data))))
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read: {error.strerror}.", remedy="Correct it."
        ) from error
    except SyntaxError as error:
        raise RecipeError(f"{path}:{error.lineno}: {error.msg}.", remedy="Correct it.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{path}: this is no Python: {error}.", remedy="Correct it.") from error


def _functions(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yield the names that pytest gives to the test functions of a module or a class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                yield node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from (f"{node.name}::{name}" for name in _functions(node))
