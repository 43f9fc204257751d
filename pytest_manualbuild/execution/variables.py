"""The variables that conda-build documents for the time of the test (environ.py)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pytest_manualbuild import strictjson, untrusted
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.recipe.programs import programs
from pytest_manualbuild.records import LinkedEnvironment

MOST_BYTES = 64 * 1024
MOST_FILES = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPEC = re.compile(r"[^A-Za-z0-9._-]")
_FOLDER = "etc/conda/env_vars.d"
RECIPE_DIR = "RECIPE_DIR"
_UNSET = "***unset***"
"""With this value conda takes a variable away (``CONDA_ENV_VARS_UNSET_VAR``)."""


def recipe_dir(work: str) -> str:
    """Return the folder for the recipe's files; it is beside that of the tests, which they list."""
    return f"{work}-recipe"


def documented(
    artifact: Artifact, environment: LinkedEnvironment, work: str, subdir: str
) -> dict[str, str]:
    """Return the variables of a test by name.

    ``work`` is the folder of the tests, ``subdir`` what the build would have been for: that of
    the host where the package is noarch.
    """
    prefix = environment.prefix
    system, _, arch = subdir.partition("-")
    values = {name: value for name, value in artifact.variant.items() if _NAME.fullmatch(name)}
    values |= {
        "ARCH": arch,
        "CONDA_BUILD": "1",
        "CONDA_BUILD_STATE": "TEST",
        "CONDA_DEFAULT_ENV": prefix,
        "CONDA_PREFIX": prefix,
        "CONDA_SHLVL": "1",
        "PKG_BUILDNUM": str(artifact.build_number),
        "PKG_BUILD_STRING": artifact.build,
        "PKG_NAME": artifact.name,
        "PKG_VERSION": artifact.version,
        "PREFIX": prefix,
        "PYTHONNOUSERSITE": "1",
        RECIPE_DIR: recipe_dir(work),
        "SRC_DIR": work,
        "SUBDIR": subdir,
        "build_platform": subdir,
    }
    if hashed := re.search(r"h[0-9a-f]{7}", artifact.build):
        values["PKG_HASH"] = hashed.group()
    values |= _windows(prefix) if system == "win" else _posix(prefix, system)
    # conda-build looks at what a package is built with, and so has what it then depends on.
    with_languages = {artifact.name, *(_SPEC.split(one)[0] for one in artifact.depends)}
    for name, path in programs(system, with_languages).items():
        values[name] = f"{prefix}{path}"
    for installed in environment.packages:
        if installed.name == "python":
            short = ".".join(installed.version.split(".")[:2])
            library, slash = f"{prefix}/lib/python{short}", "/"
            if system == "win":
                library, slash = f"{prefix}\\Lib", "\\"
            values |= {
                "CONDA_PY": short.replace(".", ""),
                "PY3K": str(int(short.startswith("3."))),
                "PY_VER": short,
                "SP_DIR": f"{library}{slash}site-packages",
                "STDLIB_DIR": library,
            }
    return values


def _windows(prefix: str) -> dict[str, str]:
    return {
        "LIBRARY_BIN": f"{prefix}\\Library\\bin",
        "LIBRARY_INC": f"{prefix}\\Library\\include",
        "LIBRARY_LIB": f"{prefix}\\Library\\lib",
        "LIBRARY_PREFIX": f"{prefix}\\Library",
        "SCRIPTS": f"{prefix}\\Scripts",
        "SHLIB_EXT": ".dll",
    }


def _posix(prefix: str, system: str) -> dict[str, str]:
    values = {
        "CMAKE_GENERATOR": "Unix Makefiles",
        "PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig",
        "SHLIB_EXT": ".dylib" if system == "osx" else ".so",
    }
    return values | ({"LD_RUN_PATH": f"{prefix}/lib"} if system == "linux" else {})


def of_packages(environment: LinkedEnvironment) -> dict[str, str | None]:
    """Return the variables that packages set at activation; None for one that they take away.

    As conda does (``activate.py``): every file of the folder in the order of the names, the later
    ones win. PATH stays what it is. Raises ValueError, with a sentence, for what is no such file.
    """
    root = Path(environment.path)
    folder = root / _FOLDER
    found: dict[str, str | None] = {}
    if not folder.is_dir():
        return found
    if not folder.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{_FOLDER} leads out of the environment.")
    files = sorted(folder.iterdir())
    if len(files) > MOST_FILES:
        raise ValueError(f"{_FOLDER} has more than {MOST_FILES} files.")
    for path in files:
        found |= _of_package(path, root.resolve())
    return {name: value for name, value in found.items() if name.upper() != "PATH"}


def _of_package(path: Path, root: Path) -> dict[str, str | None]:
    where = f"{_FOLDER}/{path.name}"
    # A link is followed as long as it stays in the environment, and does not lead round in circles.
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise ValueError(f"{where} leads out of the environment.")
    try:
        values = strictjson.loads(untrusted.read(real, MOST_BYTES))
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no JSON object.")  # noqa: TRY004 # of a file, not of ours
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{where}: {name!r} is no name for a variable.")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and (not isinstance(value, str) or "\0" in value):
            raise ValueError(f"{where}: the value of {name} is no text.")
    return {name: None if value == _UNSET else str(value) for name, value in values.items()}
