"""Collects the files that a test section needs on the host: the reviewed ones, byte for byte."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pytest_manualbuild.checks import INLINE
from pytest_manualbuild.errors import EnvironmentBroken
from pytest_manualbuild.execution.variables import RECIPE_DIR, recipe_dir
from pytest_manualbuild.model import CheckKind, Plan, PlannedPackage, TestFile
from pytest_manualbuild.package import archive
from pytest_manualbuild.recipe.folder import files as recipe_files
from pytest_manualbuild.recipe.folder import folder_sha256

_LEAVE_ALONE = "Leave the recipe alone during a run, and run again."
_GENERATED = re.compile(r"info/test/(run_test\.\w+|test_time_dependencies\.json)")


def needed(recipe: Path, planned: PlannedPackage) -> dict[str, bytes]:
    """Return the files that go into the folder of the package's only section, by their path.

    Those of the recipe come from its folder; EnvironmentBroken when one changed since it was
    planned. Those from the sources come from the package, which is all that keeps them.
    """
    (section,) = planned.sections
    files: dict[str, bytes] = {}
    if section.script is not None:
        files[INLINE] = section.script.encode()
    if section.schema:
        return files
    if section.source_files:
        # The sources are not here; conda-build keeps what they gave in the package.
        members = archive.info_members(Path(planned.artifact.path))
        files = {
            name.removeprefix("info/test/"): content
            for name, content in members
            if _is_source(name)
        }
    files |= {file.path: _reviewed(recipe, file) for file in (*section.scripts, *section.files)}
    return files


def in_prefix(recipe: Path, planned: PlannedPackage) -> dict[str, bytes]:
    """Return the files that go over the package's own ones, by their path below the prefix.

    rattler-build installs test files with the package; the reviewed ones are what is run.
    """
    (section,) = planned.sections
    if not section.schema:
        return {}
    return {f"{section.cwd}/{file.path}": _reviewed(recipe, file) for file in section.files}


def of_recipe(recipe: Path, planned: PlannedPackage, plan: Plan) -> dict[str, bytes]:
    """Return all files of the recipe, by their path, where its tests may look into RECIPE_DIR.

    As conda-build has them there, but those that were reviewed. EnvironmentBroken when one
    changed since it was planned.
    """
    if not _wants_recipe(recipe, planned):
        return {}
    if recipe == Path(plan.recipe) and folder_sha256(recipe) != plan.recipe_sha256:
        raise EnvironmentBroken(
            f"{recipe}: it changed while the run was under way.", remedy=_LEAVE_ALONE
        )
    root = recipe.resolve()
    return {one.relative_to(root).as_posix(): one.read_bytes() for one in recipe_files(recipe)}


def _wants_recipe(recipe: Path, planned: PlannedPackage) -> bool:
    (section,) = planned.sections
    if section.schema:
        return False
    commands = (one.text.encode() for one in planned.checks if one.kind is CheckKind.COMMAND)
    read = (_reviewed(recipe, one) for one in (*section.scripts, *section.files))
    return any(RECIPE_DIR.encode() in text for text in (*commands, *read))


def programs(recipe: Path, planned: PlannedPackage) -> frozenset[str]:
    """Return the paths of those of all these files that a test may run by their name.

    As in the package, where conda-build and rattler-build keep what the recipe's files are.
    """
    (section,) = planned.sections
    files = (*section.scripts, *section.files)
    found = {one.path for one in files if os.access(recipe / one.path, os.X_OK)}
    if section.schema:
        return frozenset(f"{section.cwd}/{path}" for path in found)
    if section.source_files:
        packed = archive.info_programs(Path(planned.artifact.path))
        names = {name.removeprefix("info/test/") for name in packed if _is_source(name)}
        found |= names - {one.path for one in files}
    if _wants_recipe(recipe, planned):
        root = recipe.resolve()
        there = [one for one in recipe_files(recipe) if os.access(one, os.X_OK)]
        found |= {f"../{recipe_dir('work')}/{one.relative_to(root).as_posix()}" for one in there}
    return frozenset(found)


def _is_source(name: str) -> bool:
    return name.startswith("info/test/") and not _GENERATED.fullmatch(name)


def _reviewed(folder: Path, file: TestFile) -> bytes:
    try:
        data = (folder / file.path).read_bytes()
    except OSError as error:
        raise EnvironmentBroken(
            f"{folder / file.path}: cannot be read: {error.strerror}.",
            remedy="Bring it back and run again.",
        ) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise EnvironmentBroken(
            f"{folder / file.path}: it changed while the run was under way.", remedy=_LEAVE_ALONE
        )
    return data
