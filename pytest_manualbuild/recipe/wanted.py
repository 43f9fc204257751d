"""Which renders of a recipe are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The platform, and where the values of the variants come from."""

    subdir: str
    """Of the machine that builds; never ``noarch``."""
    variant: Mapping[str, str] | None = None
    """The values that a build used (``info/hash_input.json``); None: those of the files below."""
    config: str = ""
    """The text of the file of all values of a build (``info/recipe/conda_build_config.yaml``),
    which takes the place of the recipe's own."""
    configs: tuple[Path, ...] = ()
    """Variant files that come after the recipe's own."""
    exclusive: Path | None = None
    """A variant file in place of the recipe's own."""
