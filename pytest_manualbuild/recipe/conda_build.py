"""Renders ``meta.yaml`` with conda-build itself, where it is installed (``_conda_build``).

conda-build runs what stands in a recipe with the rights of whoever renders it; its process has a
home of its own and nothing of the caller's environment, and no more can be kept from it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import RecipeError, RendererMissing
from pytest_manualbuild.recipe.wanted import Wanted

MOST_S = 900
"""It needs minutes for the biggest recipes."""
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def render(folder: Path, wanted: Wanted) -> list[dict[str, Any]]:
    """Return the packages of a recipe in the form of ``engine.render``.

    Raises RecipeError for one that conda-build refuses, RendererMissing where there is none.
    """
    if importlib.util.find_spec("conda_build") is None:
        raise RendererMissing(
            "conda-build is not installed beside this tool, and it is no package of PyPI.",
            remedy="Make the environment of environment.yml with conda, or leave out --renderer.",
        )
    with tempfile.TemporaryDirectory() as home:
        asked: dict[str, Any] = {
            "folder": str(folder),
            "subdir": wanted.subdir,
            "configs": [os.path.realpath(path) for path in wanted.configs],
            "exclusive": os.path.realpath(wanted.exclusive) if wanted.exclusive else None,
            "variant": dict(wanted.variant) if wanted.variant else None,
        }
        if wanted.config:
            asked["exclusive"] = str(Path(home) / "conda_build_config.yaml")
            Path(asked["exclusive"]).write_text(wanted.config)
        answer = _ask(folder, asked, Path(home))
    if "problem" in answer:
        raise RecipeError(
            f"{folder}: conda-build refuses it ({answer['problem']}).", remedy="Correct it."
        )
    packages: list[dict[str, Any]] = answer["packages"]
    return packages


def _ask(folder: Path, asked: dict[str, Any], home: Path) -> dict[str, Any]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"HOME": str(home), "LANG": "C.UTF-8", "CONDA_OFFLINE": "true"}
    try:
        done = subprocess.run(
            # -P: a file of the current folder must not stand in for a library
            [sys.executable, "-P", "-s", "-m", "pytest_manualbuild.recipe._conda_build"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            env=environment,
            cwd=home,
            timeout=MOST_S,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise RecipeError(
            f"{folder}: conda-build does not render it within {MOST_S} s.",
            remedy="Look for a loop in it.",
        ) from error
    except ValueError as error:
        raise RecipeError(
            f"{folder}: conda-build ended without an answer.",
            remedy="Look at what `conda-render` says of it.",
        ) from error
    return answer
