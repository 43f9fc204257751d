"""Selectors of ``meta.yaml``: ``# [linux and not win]`` at the end of a line.

conda-build evaluates them with Python (metadata.py, ``select_lines``); here an
allow-list of syntax does, so that a recipe can compute but not act.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from pytest_manualbuild.recipe.problems import Unresolved

# conda-build's own expression: the `#` is optional, and only the last brackets of a line count.
_SELECTOR = re.compile(r"(.+?)\s*(#.*)?\[([^\[\]]+)\](?(2)[^\(\)]*)$")
# conda's KNOWN_SUBDIRS, without noarch.
_SUBDIRS = (
    *("emscripten-wasm32", "wasi-wasm32", "freebsd-64", "zos-z"),
    *("linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64"),
    *("linux-ppc64le", "linux-riscv64", "linux-s390x"),
    *("osx-64", "osx-arm64", "win-32", "win-64", "win-arm64"),
)
_TESTS = re.compile(r"[\s-]*(imports|commands|requires|files|source_files|downstreams):")
_NAMES = re.compile(r"\s*[\w.-]+(\s*,\s*[\w.-]+)+\s*,?\s*")
_LONG = 2_000
"""Characters of a selector; real ones have a hundred."""
Names = Mapping[str, object]


def names(subdir: str, variant: Mapping[str, object], build_subdir: str) -> dict[str, object]:
    """Return the names that a selector may use for a subdir (or ``noarch``) and variant.

    The platform's names come first and variant keys cannot override them, as in
    conda-build (metadata.py, ``get_selectors``). The caller's environment is not in it.
    """
    known: dict[str, object] = {
        "linux32": subdir == "linux-32",
        "linux64": subdir == "linux-64",
        "arm": subdir.startswith("linux-arm"),
        "unix": subdir.startswith(("linux-", "osx-", "emscripten-")),
        "win32": subdir == "win-32",
        "win64": subdir == "win-64",
        "environ": {},
        "os": _OS,
        "nomkl": False,
        "debug": False,
        "build_platform": build_subdir,
    }
    for one in {*_SUBDIRS, subdir} - {"noarch"}:
        system, _, arch = one.partition("-")
        known[system] = subdir.startswith(f"{system}-")
        known[{"32": "x86", "64": "x86_64"}.get(arch, arch)] = subdir.endswith(f"-{arch}")
    known["x86"] = subdir.endswith(("-32", "-64"))
    known |= _languages(variant)
    for key, value in variant.items():
        if key not in known:
            known[key] = _typed(value)
    return known


def _languages(variant: Mapping[str, object]) -> dict[str, object]:
    major, minor, *_ = (*_first(variant, "python", "3.11").split(" ")[0].split("."), "", "")
    digits = major + minor
    numpy = "".join(_first(variant, "numpy", "1.23").split(".")[:2])
    lua = _first(variant, "lua", "5")
    py = int(digits) if digits.isdecimal() else 0
    return {
        "py": py,
        "py3k": major == "3",
        "py2k": major == "2",
        **{f"py{number}": py == number for number in (26, 27, 33, 34, 35, 36)},
        "np": int(numpy) if numpy.isdecimal() else 0,
        "pl": _first(variant, "perl", "5.26.2"),
        "lua": lua,
        "luajit": lua[:1] == "2",
    }


def _first(variant: Mapping[str, object], key: str, default: str) -> str:
    value = variant.get(key) or default
    return str(value[0] if isinstance(value, list) else value)


def _typed(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value) if len(value) < _LONG else value
    except ValueError:
        return value


@lru_cache(maxsize=64)
def _split(text: str) -> tuple[tuple[str | None, str], ...]:
    """Split each line into its selector and the rest."""
    lines: list[tuple[str | None, str]] = []
    for full in text.splitlines():
        line = full.rstrip()
        if line.lstrip().startswith("#"):
            lines.append((None, ""))
            continue
        # A line may be quoted as a whole, to please YAML.
        quote = line[-1] if line.endswith(("'", '"')) else ""
        found = _SELECTOR.match(line) if "[" in line and "]" in line else None
        if found is None:
            lines.append((None, line))
        else:
            lines.append((found.group(3), (found.group(1) + quote).rstrip()))
    return tuple(lines)


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """The lines that the selectors left."""

    text: str
    numbers: tuple[int, ...]
    """For each of its lines, which one of the original it was, from 1."""


def select(text: str, known: Names, file: str) -> Selected:
    """Return the lines that the selectors leave.

    Raises Unresolved, naming file, line and selector, for one that cannot be evaluated.
    """
    if (whole := _without_selectors(text)) is not None:
        return whole
    kept, numbers = [], []
    decided: dict[str, bool] = {}
    for number, (selector, line) in enumerate(_split(text), 1):
        if selector is not None:
            if _is_list(selector, line):
                raise Unresolved(
                    f"{file}:{number}: [{selector[:80]}] at the end of a line is read as a"
                    " selector, and the list is lost.",
                    remedy="Write one list item a line.",
                )
            if selector not in decided:
                decided[selector] = evaluate(selector, known, f"{file}:{number}", line)
            if not decided[selector]:
                continue
        kept.append(line)
        numbers.append(number)
    return Selected(text="\n".join(kept) + "\n", numbers=tuple(numbers))


@lru_cache(maxsize=256)
def _without_selectors(text: str) -> Selected | None:
    """Return all lines of a text that has no selector; None for any other."""
    lines = _split(text)
    if any(selector is not None for selector, _ in lines):
        return None
    kept = "\n".join(line for _, line in lines) + "\n"
    return Selected(text=kept, numbers=tuple(range(1, len(lines) + 1)))


def _is_list(selector: str, line: str) -> bool:
    """Whether brackets after a key of a test section hold several names: never a condition.

    conda-build takes ``imports: [a, b]`` for a condition that holds, and tests nothing.
    """
    return _TESTS.fullmatch(line) is not None and _NAMES.fullmatch(selector) is not None


def evaluate(expression: str, known: Names, where: str, line: str = "#") -> bool:
    """Return what a selector says. Names that are not known are false. Raises Unresolved."""
    text = expression
    try:
        while len(text) <= _LONG:
            try:
                return bool(_value(ast.parse(text.strip(), mode="eval").body, known))
            except NameError as missing:
                # As conda-build does: replaced in the text, wherever the name occurs in it.
                text = text.replace(missing.name or " ", "False")
        raise ValueError("it is too long")
    except _BAD as error:
        hint = "Correct it."
        if "#" not in line:
            hint = (
                "A list in brackets at the end of a line is read as a selector:"
                " write one list item a line."
            )
        raise Unresolved(
            f"{where}: [{expression[:80]}] is not a selector that can be evaluated"
            f" ({str(error)[:80]}).",
            remedy=hint,
        ) from error


_BAD = (
    *(SyntaxError, ValueError, TypeError, LookupError, RecursionError, MemoryError),
    *(AttributeError, ArithmeticError),
)
_COMPARE: dict[type, Callable[[object, object], object]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,  # type: ignore[operator] # a TypeError is a bad selector
    ast.LtE: lambda a, b: a <= b,  # type: ignore[operator]
    ast.Gt: lambda a, b: a > b,  # type: ignore[operator]
    ast.GtE: lambda a, b: a >= b,  # type: ignore[operator]
    ast.In: lambda a, b: a in b,  # type: ignore[operator]
    ast.NotIn: lambda a, b: a not in b,  # type: ignore[operator]
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}
_OS = object()
"""Stands for the module: only ``os.environ`` and ``os.getenv`` of an empty environment."""
_METHODS = ("startswith", "endswith", "lower", "upper", "strip", "split", "get", "replace")
_CALLS: dict[str, Callable[..., object]] = {"int": int, "str": str, "bool": bool, "len": len}


def _value(node: ast.expr, known: Names) -> object:  # noqa: C901, PLR0911, PLR0912 # a case a form
    match node:
        case ast.Constant(value=value) if isinstance(value, (str, int, float, bool, type(None))):
            return value
        case ast.Name(id=name):
            if name not in known:
                raise NameError(name, name=name)
            return known[name]
        case ast.BoolOp(op=operator, values=values):
            last: object = None
            for one in values:
                last = _value(one, known)
                if bool(last) is isinstance(operator, ast.Or):
                    break
            return last
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, known)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, known))
        case ast.Compare(left=left, ops=operators, comparators=others):
            return _compared(left, operators, others, known)
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, known) else other, known)
        case ast.BinOp(left=left, op=operator, right=right):
            return _computed(operator, _value(left, known), _value(right, known))
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_value(item, known) for item in items]
        case ast.Subscript(value=of, slice=ast.Constant(value=key)):
            return _value(of, known)[key]  # type: ignore[index] # a TypeError is a bad selector
        case ast.Attribute(value=ast.Name(id="os"), attr="environ") if known.get("os") is _OS:
            return {}
        case ast.Call(func=function, args=given, keywords=[]):
            return _called(function, [_value(item, known) for item in given], known)
        case _:
            raise ValueError(f"{type(node).__name__} is not allowed here")


def _compared(
    left: ast.expr, operators: list[ast.cmpop], others: list[ast.expr], known: Names
) -> bool:
    before = _value(left, known)
    for operator, other in zip(operators, others, strict=True):
        after = _value(other, known)
        if not _COMPARE[type(operator)](before, after):
            return False
        before = after
    return True


def _number(value: object) -> int | float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _computed(operator: ast.operator, left: object, right: object) -> object:
    match operator, left, right:
        case ast.Add(), str(), str():
            return left + right
        case ast.Add(), _, _:
            return _number(left) + _number(right)
        case ast.Sub(), _, _:
            return _number(left) - _number(right)
        case ast.Div(), _, _:
            return _number(left) / _number(right)
        case ast.Mod(), _, _:
            return _number(left) % _number(right)
        case _:
            raise ValueError(f"{type(operator).__name__} is not allowed here")


def _called(function: ast.expr, given: list[object], known: Names) -> object:
    match function:
        case ast.Attribute(value=ast.Name(id="os"), attr="getenv") if known.get("os") is _OS:
            return given[1] if len(given) > 1 else None
        case ast.Attribute(value=of, attr=method) if method in _METHODS:
            owner = _value(of, known)
            if not isinstance(owner, (str, dict)):
                raise TypeError(f"{type(owner).__name__} has no {method}()")
            return getattr(owner, method)(*given)
        case ast.Name(id=name) if name in _CALLS:
            return _CALLS[name](*given)
        case _:
            raise ValueError("such a call is not allowed here")
