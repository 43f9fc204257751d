"""Reads a recipe: which packages it describes, and what must be tested of each.

A recipe is a stranger's text. Nothing of it is run, imported or evaluated here
but in a sandbox, in a process of its own, and no file outside its folder is read.
"""

from __future__ import annotations

from pytest_manualbuild.recipe.folder import folder_sha256
from pytest_manualbuild.recipe.meta_yaml import Recipe, find, load
from pytest_manualbuild.recipe.renderer import renderer

__all__ = ["Recipe", "close", "find", "folder_sha256", "load", "prepare"]


def prepare() -> None:
    """Start what renders recipes, so that it is ready while other things are read."""
    renderer.start()


def close() -> None:
    """End what renders recipes; it also ends with this process."""
    renderer.close()
