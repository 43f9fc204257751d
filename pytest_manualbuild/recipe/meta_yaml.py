"""Renders ``meta.yaml`` (v0) as conda-build does: the packages it describes, and their tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_manualbuild.model import Output
from pytest_manualbuild.recipe import conda_build
from pytest_manualbuild.recipe.needs import needs
from pytest_manualbuild.recipe.renderer import renderer
from pytest_manualbuild.recipe.sections import section
from pytest_manualbuild.recipe.wanted import Wanted

FILE = "meta.yaml"


def outputs(path: Path, wanted: Wanted, *, real: bool = False) -> tuple[Output, ...]:
    """Render a ``meta.yaml``; with ``real`` by conda-build itself.

    Raises RecipeError, naming file and line.
    """
    folder = path.parent
    packages = conda_build.render(folder, wanted) if real else renderer.render(folder, wanted)
    return tuple(output(folder, described, wanted.subdir) for described in packages)


def output(folder: Path, described: Mapping[str, Any], subdir: str) -> Output:
    """Return one package that ``engine.render`` or conda-build described."""
    noarch = described["noarch"]
    return Output(
        name=described["name"],
        version=described["version"],
        build_number=described["build_number"],
        noarch=str(noarch) if noarch else None,
        skip=described["skip"],
        sections=(section(folder, described, subdir),),
        variant={key: str(value) for key, value in described["variant"].items()},
        needs=needs(described["extra"], folder / FILE),
        run=tuple(str(item) for item in described["run"]),
        test={**described["test"], "script": described["test_script"]},
        kind="wheel" if described["type"] == "wheel" else "conda",
        unknown=tuple(described["unknown"]),
    )
