"""What a ``meta.yaml`` may call in jinja: conda-build's functions, as far as they matter to tests.

None of them reads a file, the caller's environment, the clock or the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jinja2 import Environment, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pytest_manualbuild.errors import RecipeError

_PREFIXES = ("PREFIX", "SRC_DIR", "RECIPE_DIR", "BUILD_PREFIX")


def environment() -> Environment:
    """Return the sandbox in which recipes are rendered."""
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        autoescape=False,  # YAML
    )


def context(subdir: str, variant: Mapping[str, str], file: str) -> dict[str, object]:
    """Return the fixed context of a recipe: nothing of the caller is in it."""

    def refused(name: str) -> Callable[..., str]:
        def call(*_: object, **__: object) -> str:
            raise RecipeError(
                f"{file}: {name}() would run or read what is not in the recipe.",
                remedy="Write the value into the recipe, for example with {% set version = ... %}.",
            )

        return call

    def compiler(language: str = "c", *_: object) -> str:
        return f"{language}_compiler_{subdir}"

    def pinned(name: str = "", *_: object, exact: bool = False, **__: object) -> str:
        del exact
        return str(name)

    values: dict[str, object] = {
        **{key: value for key, value in variant.items() if key.isidentifier()},
        # At the time of the build these are the builder's folders; only the variables last.
        **{name: f"${name}" for name in _PREFIXES},
        "PYTHON": "$PREFIX/bin/python",
        "environ": {},
        "compiler": compiler,
        "stdlib": lambda language="c", *_: f"{language}_stdlib_{subdir}",
        "cdt": lambda name="", *_: f"{name}-cos7-x86_64",
        "pin_subpackage": pinned,
        "pin_compatible": pinned,
        "build_platform": subdir,
        "target_platform": variant.get("target_platform", subdir),
        "SHLIB_EXT": {"osx": ".dylib", "win": ".dll"}.get(subdir.partition("-")[0], ".so"),
        "PY_VER": variant.get("python", "3.11"),
    }
    for name in (
        "load_setup_py_data",
        "load_setuptools",
        "load_npm",
        "load_file_regex",
        "load_file_data",
        "load_str_data",
        "installed",
        "resolved_packages",
    ):
        values[name] = refused(name)
    return values
