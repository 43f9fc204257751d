"""Reads a recipe: which packages it describes, and what must be tested of each.

A recipe is a stranger's text. Nothing of it is run, imported or evaluated here
but in a sandbox, in a process of its own, and no file outside its folder is read.
"""

from __future__ import annotations

from pytest_manualbuild.recipe.folder import folder_sha256
from pytest_manualbuild.recipe.meta_yaml import Recipe, find, load

__all__ = ["Recipe", "find", "folder_sha256", "load"]
