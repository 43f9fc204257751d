"""Selectors of ``meta.yaml``: ``# [linux and not win]`` at the end of a line.

conda-build evaluates them with Python (metadata.py, ``select_lines``); here an
allow-list of syntax does, so that a recipe can compute but not act.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from pytest_manualbuild.errors import RecipeError

# conda-build's own expression: the `#` is optional, and only the last brackets of a line count.
_SELECTOR = re.compile(r"(.+?)\s*(#.*)?\[([^\[\]]+)\](?(2)[^\(\)]*)$")
Names = Mapping[str, object]


def names(subdir: str, variant: Mapping[str, str]) -> dict[str, object]:
    """Return the names that a selector may use for this subdir and variant.

    The keys of the variant come first, as in conda-build, where the platform's
    names override none of them.
    """
    system, _, arch = subdir.partition("-")
    machine = {"64": "x86_64", "32": "x86"}.get(arch, arch)
    known: dict[str, object] = {
        "linux": system == "linux",
        "linux32": subdir == "linux-32",
        "linux64": subdir == "linux-64",
        "osx": system == "osx",
        "win": system == "win",
        "win32": subdir == "win-32",
        "win64": subdir == "win-64",
        "unix": system in ("linux", "osx"),
        "x86": machine in ("x86", "x86_64"),
        "x86_64": machine == "x86_64",
        "arm64": machine in ("arm64", "aarch64") and system in ("osx", "win"),
        "aarch64": machine == "aarch64",
        "ppc64le": machine == "ppc64le",
        "s390x": machine == "s390x",
        "riscv64": machine == "riscv64",
        "nomkl": False,
        "environ": {},
        "build_platform": subdir,
        "target_platform": subdir,
    }
    python = variant.get("python", "3.11").split()[0].replace("*", "").rstrip(".")
    major, _, minor = ".".join(python.split(".")[:2]).partition(".")
    if major.isdigit() and minor.isdigit():
        known |= {"py": int(major + minor), "py3k": major == "3", "py2k": major == "2"}
        known |= {f"py{short}": major + minor == short for short in ("27", "34", "35", "36", "37")}
    numpy = variant.get("numpy", "1.23").split(".")[:2]
    known["np"] = int("".join(numpy)) if all(part.isdigit() for part in numpy) else 0
    known["pl"] = variant.get("perl", "5.26.2")
    known["lua"] = variant.get("lua", "5")
    for key, value in variant.items():
        if key.isidentifier() and key not in known:
            known[key] = _typed(value)
    return known


def _typed(value: str) -> object:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return int(value) if value.lstrip("-").isdigit() else value


def select(text: str, known: Names, file: str) -> str:
    """Return the text with the lines that the selectors leave; others become empty lines.

    Empty lines keep the numbers of lines in later errors true. Raises RecipeError.
    """
    kept = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.rstrip()
        if stripped.lstrip().startswith("#"):
            kept.append("")
            continue
        found = _SELECTOR.match(stripped)
        if found is None:
            kept.append(line)
        elif evaluate(found.group(3), known, f"{file}:{number}", stripped):
            kept.append(found.group(1))
        else:
            kept.append("")
    return "\n".join(kept) + "\n"


def evaluate(expression: str, known: Names, where: str, line: str) -> bool:
    """Return what a selector says. Names that are not known are false. Raises RecipeError."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return bool(_value(tree.body, known))
    except (
        SyntaxError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
        MemoryError,
        AttributeError,
        OverflowError,
    ) as error:
        hint = ""
        if "#" not in line:
            hint = " A list in brackets at the end of a line is read as a selector:"
        raise RecipeError(
            f"{where}: [{expression}] is not a selector that can be evaluated ({error}).{hint}",
            remedy="write one list item a line." if hint else "Correct it.",
        ) from error


_COMPARE = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}
_METHODS = ("startswith", "endswith", "lower", "upper", "strip", "split", "get")


def _value(node: ast.expr, known: Names) -> object:  # noqa: C901, PLR0911 # one case a form
    match node:
        case ast.Constant(value=value) if isinstance(value, (str, int, float, bool, type(None))):
            return value
        case ast.Name(id=name):
            return known.get(name, False)
        case ast.BoolOp(op=operator, values=values):
            results = [_value(value, known) for value in values]
            return all(results) if isinstance(operator, ast.And) else any(results)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, known)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
            return -number
        case ast.Compare(left=left, ops=operators, comparators=others):
            compared = [_value(item, known) for item in (left, *others)]
            return all(
                _COMPARE[type(operator)](a, b)  # type: ignore[no-untyped-call]
                for operator, a, b in zip(operators, compared, compared[1:], strict=False)
            )
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_value(item, known) for item in items]
        case ast.Subscript(value=of, slice=ast.Constant(value=key)):
            return _value(of, known)[key]  # type: ignore[index] # a TypeError is a bad selector
        case ast.Call(func=ast.Attribute(value=of, attr=method), args=given, keywords=[]) if (
            method in _METHODS
        ):
            owner = _value(of, known)
            if not isinstance(owner, (str, dict)):
                raise TypeError(f"{type(owner).__name__} has no {method}()")
            return getattr(owner, method)(*(_value(item, known) for item in given))
        case ast.Call(func=ast.Name(id="int" | "str" | "bool" as name), args=[one], keywords=[]):
            return {"int": int, "str": str, "bool": bool}[name](_value(one, known))
        case _:
            raise ValueError(f"{type(node).__name__} is not allowed here")
