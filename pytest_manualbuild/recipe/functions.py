"""What a ``meta.yaml`` may call in jinja: conda-build's functions, as far as they matter to tests.

None of them reads a file outside the recipe, the caller's environment or the network.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document
from pytest_manualbuild.recipe.folder import inside
from pytest_manualbuild.recipe.programs import programs
from pytest_manualbuild.recipe.specs import starred

# jinja_context.py and environ.py: languages and the variant keys of their versions.
_LANGUAGES = (("perl", "5.26.2", 2), ("lua", "5", 2), ("r_base", "3.5", 3))
# Stand for variables and backslashes until YAML, for which these mean something, has been read.
BUILDER, BACKSLASH = "\ue000{}\ue001", "\ue002"
_UNSAFE = ("load_setup_py_data", "load_setuptools", "load_npm")


def functions(
    folder: Path, file: str, subdir: str, variant: Mapping[str, Any]
) -> dict[str, object]:
    """Return the functions of jinja for a recipe folder, a subdir and a variant."""

    def refused(name: str) -> Callable[..., object]:
        def call(*_: object, **__: object) -> object:
            raise RecipeError(
                f"{file}: {name}() would run or read what is not in the recipe.",
                remedy="Write the value into the recipe, for example with {% set version = ... %}.",
            )

        return call

    def read(name: str, filename: object, from_recipe_dir: object) -> str:
        path = inside(folder, str(filename)) if from_recipe_dir else None
        if path is None:
            raise RecipeError(
                f"{file}: {name}({filename!r}) reads what is not in the recipe.",
                remedy="Put the file into the recipe and add from_recipe_dir=True.",
            )
        return document.read(path)

    def load_file_regex(
        load_file: str, regex_pattern: str, from_recipe_dir: object = None, **_: object
    ) -> re.Match[str] | None:
        return re.search(regex_pattern, read("load_file_regex", load_file, from_recipe_dir))

    def load_file_data(
        filename: str, fmt: str | None = None, from_recipe_dir: object = None, **_: object
    ) -> object:
        text = read("load_file_data", filename, from_recipe_dir)
        return _data(text, fmt or Path(filename).suffix.lstrip("."), file)

    return {
        "compiler": lambda language, *_, **__: _tool(language, "compiler", subdir, variant),
        "stdlib": lambda language, *_, **__: _tool(language, "stdlib", subdir, variant),
        "cdt": lambda package_name, *_, **__: _cdt(str(package_name), subdir, variant),
        "ccache": lambda *_, **__: "ccache",
        # Before the solver has spoken, conda-build knows no version to pin to.
        "pin_compatible": lambda package_name, *_, **__: f"{package_name} ",
        "pin_subpackage": lambda subpackage_name, *_, **__: subpackage_name,
        "resolved_packages": lambda *_, **__: [],
        "installed": {},
        "load_str_data": lambda string, fmt, *_, **__: _data(str(string), fmt, file),
        "load_file_regex": load_file_regex,
        "load_file_data": load_file_data,
        **{name: refused(name) for name in _UNSAFE},
        # Not the modules: these hold others, with which a recipe could act.
        "time": SimpleNamespace(
            **{name: getattr(time, name) for name in ("time", "gmtime", "localtime", "strftime")}
        ),
        "datetime": SimpleNamespace(
            **{name: getattr(dt, name) for name in ("date", "datetime", "timedelta")},
            timezone=dt.timezone,
        ),
    }


def _data(text: str, form: str, file: str) -> object:
    if form.lower() == "json":
        return json.loads(text)
    if form.lower() in ("yaml", "yml"):
        return document.load(text, file, as_=document.DATA)
    if form.lower() == "toml":
        return tomllib.loads(text)
    raise RecipeError(f"{file}: the form {form!r} is not known.", remedy="Use json, yaml or toml.")


def _tool(language: str, kind: str, subdir: str, variant: Mapping[str, Any]) -> str:
    native = {
        "linux": {"c": "gcc", "cxx": "gxx", "fortran": "gfortran"},
        "osx": {"c": "clang", "cxx": "clangxx", "fortran": "gfortran"},
        "win": {"c": "vs2017", "cxx": "vs2017", "fortran": "gfortran"},
    }.get(subdir.partition("-")[0], {})
    name = native.get(language, language) if kind == "compiler" else language
    name = variant.get(f"{language}_{kind}", name)
    version = variant.get(f"{language}_{kind}_version")
    spec = f"{name}_{variant.get('target_platform', subdir)}"
    return starred(f"{spec} {version}") if version else spec


def _cdt(name: str, subdir: str, variant: Mapping[str, Any]) -> str:
    arch = subdir.partition("-")[2]
    distribution, machine = "cos6", {"64": "x86_64"}.get(arch, "i686")
    if arch in ("ppc64le", "aarch64", "ppc64", "s390x"):
        distribution, machine = "cos7", arch
    distribution = variant.get("cdt_name", distribution)
    machine = variant.get("cdt_arch", machine)
    package, _, rest = name.partition(" ")
    return f"{package}-{distribution}-{machine}" + (f" {rest}" if rest else "")


def build_variables(subdir: str, variant: Mapping[str, Any], languages: set[str]) -> dict[str, str]:
    """Return the variables that conda-build sets while it renders (environ.py, ``get_dict``).

    ``subdir`` may be ``noarch``; ``languages`` are the packages of the build or host section.
    Folders of the builder, which are gone when a test runs, become the test's own variables.
    """
    target = str(variant.get("target_platform", subdir))
    system, _, arch = target.partition("-")
    slash = BACKSLASH if system == "win" else "/"
    prefix = BUILDER.format("PREFIX")
    python = ".".join(_version(variant, "python", "3.11")[:2])
    numpy = _version(variant, "numpy", "1.23")[:2]
    library = f"{prefix}{slash}Lib" if system == "win" else f"{prefix}/lib/python{python}"
    values = {
        **{name: BUILDER.format(name) for name in ("PREFIX", "SRC_DIR", "RECIPE_DIR")},
        **{name: BUILDER.format(name) for name in ("BUILD_PREFIX", "SYS_PREFIX", "SYS_PYTHON")},
        **{name: BUILDER.format(name) for name in ("PATH", "HOME", "CPU_COUNT", "ROOT")},
        **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE", "DIRTY"), ""),
        "CONDA_BUILD": "1",
        "CONDA_BUILD_STATE": "RENDER",
        "CONDA_DEFAULT_ENV": prefix,
        "PYTHONNOUSERSITE": "1",
        "ARCH": arch,
        "SUBDIR": subdir,
        "build_platform": target,
        "SHLIB_EXT": {"osx": ".dylib", "win": ".dll"}.get(subdir.partition("-")[0], ".so"),
        "PY_VER": python,
        "CONDA_PY": python.replace(".", ""),
        "PY3K": str(int(python.startswith("3"))),
        "STDLIB_DIR": library,
        "SP_DIR": f"{library}{slash}site-packages",
        "NPY_VER": ".".join(numpy),
        "CONDA_NPY": "".join(numpy),
        "NPY_DISTUTILS_APPEND_FLAGS": "1",
        "PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig",
        "CMAKE_GENERATOR": "Unix Makefiles",
    }
    for key, default, places in _LANGUAGES:
        name = key.partition("_")[0].upper()
        version = ".".join(_version(variant, key, default)[:places])
        values |= {f"{name}_VER": version, f"CONDA_{name}": version}
    for name, path in programs(system, languages).items():
        values[name] = prefix + path.replace("\\", BACKSLASH)
    if system == "osx":
        machine, least = ("arm64", "11.0") if arch == "arm64" else ("x86_64", "10.9")
        values |= {"OSX_ARCH": machine}
        values["MACOSX_DEPLOYMENT_TARGET"] = str(variant.get("MACOSX_DEPLOYMENT_TARGET", least))
    if system == "linux":
        values["LD_RUN_PATH"] = f"{prefix}/lib"
    return values


def at_test_time(value: Any, system: str) -> Any:  # noqa: ANN401 # any value of YAML
    """Return a value in which the builder's folders are the variables that a test has for them."""
    if isinstance(value, str):
        form = r"%\1%" if system == "win" else r"$\1"
        return re.sub("\ue000(\\w+)\ue001", form, value).replace(BACKSLASH, "\\")
    if isinstance(value, list):
        return [at_test_time(item, system) for item in value]
    if isinstance(value, dict):
        return {key: at_test_time(item, system) for key, item in value.items()}
    return value


def _version(variant: Mapping[str, Any], key: str, default: str) -> list[str]:
    value = variant.get(key) or default
    return str(value[0] if isinstance(value, list) else value).split(" ")[0].split(".")
