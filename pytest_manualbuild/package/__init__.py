"""Reads a package file: its hash, its index, and the recipe and tests that it carries."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_manualbuild import strictjson, untrusted
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.model import SUBDIRS, Artifact
from pytest_manualbuild.package import archive

PACKAGE_SUBDIRS = ("noarch", *SUBDIRS)
_INDEX = "info/index.json"
_MOST_NUMBER = 1 << 63  # what solvers keep build numbers and times in
_VARIANT = "info/hash_input.json"
_PATHS = "info/paths.json"
TESTS = "info/tests/tests.yaml"
_hashed: dict[Path, tuple[tuple[int, ...], str]] = {}
"""What files had which sha256 when this process read them, and their stamps then."""


def find(recipe_folder: Path, artifacts: Path | None) -> list[Path]:
    """Return the package files, sorted, of a folder such as ``build_artifacts/``.

    Only ``SUBDIR/*.conda`` and ``*.tar.bz2`` of subdirs that conda knows are taken, so that
    ``pkg_cache/`` and ``broken/`` never are. Without ``artifacts``, ``build_artifacts/`` and
    ``build_artefacts/`` are looked for beside the recipe and in the current folder.
    Raises ArtifactError naming where was looked.
    """
    places = [artifacts] if artifacts is not None else _beside(recipe_folder)
    for place in places:
        if found := inside(place):
            return found
    if artifacts is not None and not artifacts.is_dir() and artifacts.exists():
        raise ArtifactError(
            f"--artifacts {artifacts}: it is no folder.",
            remedy="Give the folder of the packages; each lies in the folder of its subdir there.",
        )
    looked = ", ".join(str(place) for place in places)
    raise ArtifactError(
        f"There is no package to test: looked for SUBDIR/*.conda and SUBDIR/*.tar.bz2 in {looked}.",
        remedy="Build the recipe first, or give the folder of its packages with --artifacts.",
    )


def are_beside(recipe_folder: Path) -> bool:
    """Whether packages lie where they are looked for without being told."""
    return any(inside(place) for place in _beside(recipe_folder))


def _beside(recipe_folder: Path) -> list[Path]:
    parents = dict.fromkeys([recipe_folder.parent, recipe_folder, Path.cwd()])
    names = ("build_artifacts", "build_artefacts")
    return [parent / name for parent in parents for name in names]


def inside(place: Path) -> list[Path]:
    """Return the package files, sorted, of the subdirs of a folder; or of a subdir itself."""
    return sorted(
        path.absolute()
        for subdir in PACKAGE_SUBDIRS
        for folder in ([place / subdir] if place.name != subdir else [place])
        # Not `glob`, which passes over a folder that may not be read.
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.endswith(archive.EXTENSIONS)
    )


def read(path: Path) -> Artifact:
    """Hash a package file and read its index; ArtifactError if the two disagree."""
    path = path.absolute()
    if path.is_symlink():
        raise ArtifactError(f"{path}: it is a link.", remedy="Put the package itself there.")
    sha256, size = _hash(path)
    if not size:
        raise ArtifactError(f"{path}: it is empty.", remedy="Build or fetch it again.")
    index: dict[str, Any] | None = None
    variant: dict[str, Any] = {}
    for name, content in archive.info_members(path):
        if name == _INDEX:
            index = _object(path, name, content)
        elif name == _VARIANT:
            variant = _object(path, name, content)
    if index is None:
        raise ArtifactError(f"{path}: it has no {_INDEX}.", remedy="Is it a conda package?")
    artifact = _artifact(path, index, variant, sha256, size)
    extension = ".conda" if path.name.endswith(".conda") else ".tar.bz2"
    if path.name != artifact.dist + extension:
        raise ArtifactError(
            f"{path}: its index names the package {artifact.dist}{extension}.",
            remedy="Give the file the name that it was built with.",
        )
    inside = index.get("subdir")
    if path.parent.name in PACKAGE_SUBDIRS and inside != path.parent.name:
        raise ArtifactError(
            f"{path}: its index says that its subdir is {inside!r}.",
            remedy="Put it into the folder of its subdir.",
        )
    return artifact


def sha256_of(path: Path) -> str:
    """Return a package file's sha256; ArtifactError if it cannot be read.

    What this process has read already, and nobody touched since, is not read once more.
    """
    try:
        with untrusted.opened(path, sys.maxsize) as file:
            stamp = untrusted.stamp(os.fstat(file.fileno()))
    except OSError as error:
        raise _unreadable(path, error) from error
    known = _hashed.get(path)
    return known[1] if known and known[0] == stamp else _hash(path)[0]


def _hash(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    try:
        # A pipe or device would keep whoever opens it waiting for ever.
        with untrusted.opened(path, sys.maxsize) as file:
            stamp = untrusted.stamp(os.fstat(file.fileno()))
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
            if untrusted.stamp(os.fstat(file.fileno())) == stamp:
                _hashed[path] = stamp, digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest(), size


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: cannot be read: {error.strerror}.", remedy="Check --artifacts.")


def _object(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        value = strictjson.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: {name} is not JSON, or has a key twice.", remedy="Build it again."
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: {name} is not an object.", remedy="Build it again.")
    return value


def _artifact(
    path: Path, index: Mapping[str, Any], variant: Mapping[str, Any], sha256: str, size: int
) -> Artifact:
    def get(key: str, kind: type, default: object = None) -> Any:  # noqa: ANN401 # checked here
        value = index.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ArtifactError(
                f"{path}: {_INDEX}: {key} is {value!r}.", remedy="Build the package again."
            )
        return value

    depends = get("depends", list, [])
    constrains = get("constrains", list, [])
    if not all(isinstance(spec, str) for spec in (*depends, *constrains)):
        raise ArtifactError(f"{path}: {_INDEX}: depends must be texts.", remedy="Build it again.")
    number, made = get("build_number", int, 0), get("timestamp", int, 0)
    if not (0 <= number < _MOST_NUMBER and 0 <= made < _MOST_NUMBER):
        raise ArtifactError(
            f"{path}: {_INDEX}: build_number {number} or timestamp {made} is out of range.",
            remedy="Build the package again.",
        )
    noarch = index.get("noarch")
    subdir = get("subdir", str)
    if subdir not in PACKAGE_SUBDIRS:
        raise ArtifactError(
            f"{path}: {_INDEX}: subdir {subdir!r} is not known.",
            remedy=f"Known: {', '.join(PACKAGE_SUBDIRS)}.",
        )
    return Artifact(
        path=str(path),
        subdir=subdir,
        filename=path.name,
        sha256=sha256,
        size=size,
        name=get("name", str),
        version=get("version", str),
        build=get("build", str),
        build_number=number,
        noarch=str(noarch) if noarch else None,
        depends=tuple(depends),
        constrains=tuple(constrains),
        variant={str(key): str(value) for key, value in sorted(variant.items())},
    )


def paths(path: Path) -> dict[str, str]:
    """Return the sha256 of each of a package's files, as ``info/paths.json`` lists them.

    Raises ArtifactError when there is no such list.
    """
    for name, content in archive.info_members(path):
        if name == _PATHS:
            return {one["_path"]: str(one.get("sha256", "")) for one in entries(path, content)}
    raise ArtifactError(f"{path}: it has no {_PATHS}.", remedy="Build it again.")


def entries(path: Path, content: bytes) -> list[dict[str, Any]]:
    """Return the entries of a package's ``info/paths.json``; ArtifactError if it is broken."""
    try:
        found = strictjson.loads(content)["paths"]
        if all(isinstance(entry["_path"], str) for entry in found):
            return list(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ArtifactError(f"{path}: {_PATHS} is not valid.", remedy="Build it again.")


def member(path: Path, name: str) -> bytes | None:
    """Return a file of a package's ``info/``, or None if it has none of that name."""
    return next((content for found, content in archive.info_members(path) if found == name), None)
