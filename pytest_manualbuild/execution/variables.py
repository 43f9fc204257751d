"""The variables that conda-build documents for the time of the test (environ.py)."""

from __future__ import annotations

import re

from pytest_manualbuild.model import Artifact
from pytest_manualbuild.records import LinkedEnvironment

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
        "RECIPE_DIR": work,
        "SRC_DIR": work,
        "SUBDIR": subdir,
        "build_platform": subdir,
    }
    if hashed := re.search(r"h[0-9a-f]{7}", artifact.build):
        values["PKG_HASH"] = hashed.group()
    values |= _windows(prefix) if system == "win" else _posix(prefix, system)
    for installed in environment.packages:
        if installed.name == "python":
            short = ".".join(installed.version.split(".")[:2])
            library, slash = f"{prefix}/lib/python{short}", "/"
            if system == "win":
                library, slash = f"{prefix}\\Lib", "\\"
            values |= {
                "CONDA_PY": short.replace(".", ""),
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
