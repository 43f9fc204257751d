"""The files of a recipe folder: their digest, and those that tests need."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild import untrusted
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import TestFile
from pytest_manualbuild.recipe.idle import idle_file

MOST_FILES = 5_000
MOST_BYTES = 64 * 1024 * 1024
_NOT_OURS = (".git", "__pycache__", ".DS_Store")


def files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a recipe folder, sorted; refuse links that lead out of it."""
    root = folder.resolve()
    count = size = 0
    try:
        found = untrusted.files(root)
    except OSError as error:
        raise RecipeError(
            f"{root}: cannot be read: {error.strerror}.",
            remedy="Give the folder of the recipe alone.",
        ) from error
    for path in found:
        parts = path.relative_to(root).parts
        if any(part in _NOT_OURS for part in parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink() and not _leads_into(path, root):
            raise RecipeError(
                f"{path}: this link leads out of the recipe.", remedy="Put the file itself there."
            )
        if path.is_symlink() and path.is_dir():
            # No hash of a file would tell where it leads.
            raise RecipeError(
                f"{path}: this is a link to a folder.", remedy="Put the folder itself there."
            )
        if not path.is_file():
            continue
        if "\\" in path.name:
            raise RecipeError(
                f"{path}: a file name with a backslash means other folders on Windows.",
                remedy="Rename it.",
            )
        if not _is_utf8(path.name):
            raise RecipeError(
                f"{root}: the file name {os.fsencode(path.name)!r} is not UTF-8.",
                remedy="Rename it.",
            )
        count, size = count + 1, size + path.stat().st_size
        if count > MOST_FILES or size > MOST_BYTES:
            raise RecipeError(
                f"{root}: more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB.",
                remedy="Give the folder of the recipe alone.",
            )
        yield path


def _leads_into(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # round in circles
        return False


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def folder_sha256(folder: Path) -> str:
    """Return the sha256 over the sorted paths and hashes of the folder's files."""
    root = folder.resolve()
    digest = hashlib.sha256()
    for path in files(root):
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def test_file(folder: Path, path: Path) -> TestFile:
    """Describe one file of the recipe; RecipeError when it cannot be read."""
    return _described(folder, path)[0]


def script_file(folder: Path, path: Path) -> TestFile:
    """Describe a script that the tests run; RecipeError when it cannot be read."""
    described, data = _described(folder, path)
    return replace(described, idle=idle_file(path.suffix, data))


def _described(folder: Path, path: Path) -> tuple[TestFile, bytes]:
    root = folder.resolve()
    try:
        resolved = path.resolve()
        if not resolved.is_relative_to(root):
            raise RecipeError(
                f"{path}: it lies outside the recipe.", remedy="Put the file into the recipe."
            )
        data = untrusted.read(resolved, MOST_BYTES)  # a pipe would keep us waiting
    except (OSError, ValueError, RuntimeError) as error:  # also NUL, and a link round in circles
        why = error.strerror if isinstance(error, OSError) else "it leads nowhere"
        raise RecipeError(
            f"{path}: cannot be read: {why}.", remedy="Put the file into the recipe."
        ) from error
    described = TestFile(
        path=path.relative_to(folder).as_posix(),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
    return described, data


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of a file of the recipe; None when it would lie outside of its folder."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) and path != root else None
