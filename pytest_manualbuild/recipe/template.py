"""Renders jinja in a sandbox: a recipe may compute, and reach nothing but its own folder.

Recipes build lists with ``append``, so the sandbox lets them change values; all of these are made
anew for each rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

from jinja2 import BaseLoader, Environment, StrictUndefined, Template, TemplateError, Undefined
from jinja2 import TemplateNotFound as NotFound
from jinja2.sandbox import SandboxedEnvironment

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document, selectors
from pytest_manualbuild.recipe.folder import inside
from pytest_manualbuild.recipe.problems import Unresolved, at
from pytest_manualbuild.recipe.selectors import Names, Selected

MOST_RENDERED = 4 * 1024 * 1024


class Lenient(Undefined):
    """An unknown name in an early pass: whatever is done with it gives nothing.

    As conda-build's ``UndefinedNeverFail`` (jinja_context.py).
    """

    def _same(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 # whatever operator it stands for
        return Lenient(self._undefined_hint, self._undefined_obj, self._undefined_name)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _same
    __mod__ = __rmod__ = __pow__ = __rpow__ = __pos__ = __neg__ = _same
    __call__ = __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = _same

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # as in jinja
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def __str__(self) -> str:
        return ""

    __repr__ = __str__

    def __int__(self) -> int:  # type: ignore[override] # its parent always raises
        return 0

    def __float__(self) -> float:  # type: ignore[override]
        return 0.0


class _Folder(BaseLoader):
    """Other templates of the recipe's folder, after their selectors."""

    def __init__(self, folder: Path, known: Names) -> None:
        self._folder, self._known = folder, known

    def get_source(self, _: Environment, template: str) -> tuple[str, str | None, None]:
        path = inside(self._folder, template)
        if path is None or not path.is_file():
            raise NotFound(template)
        text = selectors.select(document.read(path), self._known, str(path)).text
        return text, None, None


@lru_cache(maxsize=64)
def _compiled(text: str) -> CodeType:
    return SandboxedEnvironment(autoescape=False).compile(text)  # YAML


def render(
    selected: Selected,
    names: Mapping[str, object],
    *,
    file: str,
    folder: Path,
    known: Names,
    strict: bool,
) -> str:
    """Render what selectors left of a template.

    ``names`` is all that it can use. With ``strict`` an unknown name is an error.
    Raises Unresolved for jinja's own errors and RecipeError for any other, with the line.
    """
    environment = SandboxedEnvironment(
        undefined=StrictUndefined if strict else Lenient,
        autoescape=False,  # YAML
        loader=_Folder(folder, known),
        cache_size=0,
    )
    environment.globals.update(names)
    try:
        template = Template.from_code(
            environment, _compiled(selected.text), environment.make_globals(None)
        )
        pieces, size = [], 0
        for piece in template.generate():
            # An empty piece counts as well: a loop that says nothing goes on as long.
            size += 1 + len(piece)
            if size > MOST_RENDERED:
                raise RecipeError(
                    f"{file}: it renders to more than {MOST_RENDERED >> 20} MiB.",
                    remedy="Look for a loop in it.",
                )
            pieces.append(piece)
        return "".join(pieces)
    except RecipeError:
        raise
    except TemplateError as error:
        _refuse(Unresolved, error, selected, file)
    except Exception as error:  # noqa: BLE001 # a template can raise whatever Python can
        _refuse(RecipeError, error, selected, file)


def _refuse(
    kind: Callable[..., RecipeError], error: Exception, selected: Selected, file: str
) -> NoReturn:
    line = getattr(error, "lineno", None) or _line(error)
    text = ""
    if line and line <= len(selected.numbers):
        text = selected.text.splitlines()[line - 1].strip()[:60]
        line = selected.numbers[line - 1]
    said = _said(error)
    where = f" in {text!r}" if text else ""
    raise kind(
        f"{at(file, line)}: jinja: {said}{where}.",
        remedy="Correct it, or give the value with {% set %}.",
    ) from error


def _said(error: Exception) -> str:
    """Return in words what went wrong, without the names that things have in Python."""
    if isinstance(error, NotFound):
        return f"there is no file {error.name!r} in the recipe"
    if isinstance(error, MemoryError):
        return "it makes a value that is too large"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    said = str(error).splitlines()[0].rstrip(".")[:200] if str(error) else type(error).__name__
    return said.replace("functions.<locals>.<lambda>()", "the function")


def _line(error: BaseException) -> int | None:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
