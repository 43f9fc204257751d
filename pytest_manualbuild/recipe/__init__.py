"""Reads a recipe: which packages it describes, and what must be tested of each.

A recipe is a stranger's text. Nothing of it is run, imported or evaluated here
but in a sandbox, in a process of its own, and no file outside its folder is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe.renderer import renderer as child

if TYPE_CHECKING:
    from pytest_manualbuild.model import Output

FILES = ("meta.yaml", "recipe.yaml")
"""In a folder that holds both the first one counts: conda-build takes it, and never looks on."""
RENDERERS = ("own", "conda-build")
"""What renders a ``meta.yaml``. A ``recipe.yaml`` is always rendered by py-rattler-build."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
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
    renderer: str = "own",
) -> Recipe:
    """Render the recipe in a folder (or that recipe file, or of that feedstock).

    ``renderer`` is one of RENDERERS; for the other arguments see ``Wanted``. Raises RecipeError,
    naming file and line.
    """
    # Here, so that `prepare` has the process started before this one imports all that.
    from pytest_manualbuild.model import builder_subdir  # noqa: PLC0415
    from pytest_manualbuild.recipe.folder import folder_sha256  # noqa: PLC0415
    from pytest_manualbuild.recipe.wanted import Wanted  # noqa: PLC0415

    path = file(folder)
    wanted = Wanted(
        subdir=builder_subdir(subdir),
        variant=variant,
        config=config,
        configs=tuple(configs),
        exclusive=exclusive,
    )
    if path.name == FILES[0]:
        from pytest_manualbuild.recipe import meta_yaml  # noqa: PLC0415

        outputs = meta_yaml.outputs(path, wanted, real=renderer == "conda-build")
    else:
        from pytest_manualbuild.recipe import recipe_yaml  # noqa: PLC0415 # YAML is slow to load

        outputs = recipe_yaml.outputs(path, wanted)
    _refuse_nul(path, outputs)
    return Recipe(folder=path.parent, sha256=folder_sha256(path.parent), outputs=outputs)


def _refuse_nul(path: Path, outputs: Sequence[Output]) -> None:
    """Refuse a command that shells read without that character: not what was reviewed would run."""
    for output in outputs:
        for one in output.sections:
            if any("\0" in text for text in (*one.commands, one.script or "")):
                raise RecipeError(
                    f"{path}: {one.label or 'test'} of {output.name!r}: a command holds a NUL"
                    " character, which no shell reads.",
                    remedy="Remove it.",
                )


def file(given: Path) -> Path:
    """Return the recipe file of a folder, of a feedstock, or that is named itself."""
    folder = given.absolute()
    named = folder.name if folder.name in FILES else None
    folder = folder.parent if named else folder
    for place in (folder, folder / "recipe"):
        there = [name for name in FILES if (place / name).is_file()]
        if there and named not in (None, there[0]):
            raise RecipeError(
                f"{place}: it holds {' and '.join(there)}, and conda-build takes {there[0]}.",
                remedy=f"Move {named} to a folder of its own.",
            )
        if there:
            return place.resolve() / there[0]
    if folder.is_dir():
        what = f"holds no {' and no '.join(FILES)}"
    else:
        what = "it is no folder" if folder.exists() else "there is no such folder"
    raise RecipeError(f"{given}: {what}.", remedy="Give the folder of a recipe.")


def prepare() -> None:
    """Start what renders recipes, so that it is ready when it is needed."""
    child.start()
