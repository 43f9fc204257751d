"""Renders ``meta.yaml`` (v0) as conda-build does: the packages it describes, and their tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_manualbuild.model import Output
from pytest_manualbuild.recipe.folder import folder_sha256
from pytest_manualbuild.recipe.needs import needs
from pytest_manualbuild.recipe.renderer import renderer
from pytest_manualbuild.recipe.sections import section


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A rendered recipe."""

    folder: Path
    """The folder that holds its file."""
    sha256: str
    outputs: tuple[Output, ...]


def load(
    folder: Path,
    *,
    subdir: str,
    variant: Mapping[str, str] | None = None,
    config: str = "",
    configs: Sequence[Path] = (),
    exclusive: Path | None = None,
) -> Recipe:
    """Render the ``meta.yaml`` of a folder.

    ``variant`` has the values that the build used (``info/hash_input.json``) and ``config`` the
    text of the file of all its values (``info/recipe/conda_build_config.yaml``), which
    take the place of the recipe's own. ``configs`` are variant files that come after the recipe's
    own; ``exclusive`` is one that takes its place. Raises RecipeError, naming file and line.
    """
    subdir = "linux-64" if subdir == "noarch" else subdir
    packages = renderer.render(
        folder,
        subdir=subdir,
        configs=[str(path.resolve()) for path in configs],
        exclusive=str(exclusive.resolve()) if exclusive else None,
        variant=dict(variant) if variant else None,
        config=config,
    )
    return Recipe(
        folder=folder,
        sha256=folder_sha256(folder),
        outputs=tuple(_output(folder, described, subdir) for described in packages),
    )


def _output(folder: Path, described: Mapping[str, Any], subdir: str) -> Output:
    noarch = described["noarch"]
    return Output(
        name=described["name"],
        version=described["version"],
        build_number=described["build_number"],
        noarch=str(noarch) if noarch else None,
        skip=described["skip"],
        sections=(section(folder, described, subdir),),
        variant={key: str(value) for key, value in described["variant"].items()},
        needs=needs(described["extra"], folder / "meta.yaml"),
        run=tuple(str(item) for item in described["run"]),
        test={**described["test"], "script": described["test_script"]},
        unknown=tuple(described["unknown"]),
    )
