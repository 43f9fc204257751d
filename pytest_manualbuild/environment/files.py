"""The files behind an environment: private copies, and whether bytes are what was said of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pytest_manualbuild.errors import ChannelError, EnvironmentBroken
from pytest_manualbuild.hosts.runs import locked
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.package import archive, entries


def copy_in(cache: Path, artifact: Artifact) -> Path:
    """Return where the cache keeps its copy of a package file, in a channel of its own."""
    return cache / "artifacts" / artifact.sha256 / artifact.subdir / artifact.filename


def private_channel(
    cache: Path, artifact: Artifact
) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Copy the artifact into a channel of its own; return its URL, index and paths.

    Raises EnvironmentBroken if the file no longer has the planned bytes.
    """
    target = copy_in(cache, artifact)
    folder = target.parents[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    # Whoever replaced it once more would have others take it for changed.
    with locked(folder.with_suffix(".lock")):
        if not target.is_file() or sha256_of(target) != artifact.sha256:
            with replacing(target) as copy:
                shutil.copyfile(artifact.path, copy)
                if sha256_of(copy) != artifact.sha256:
                    raise EnvironmentBroken(
                        f"{artifact.path}: it changed since the run was planned.",
                        remedy="Leave the packages alone during a run, and run again.",
                    )
    index: dict[str, Any] = {}
    paths: list[dict[str, Any]] = []
    for name, content in archive.info_members(target):
        if name == "info/index.json":
            index = json.loads(content)
        elif name == "info/paths.json":
            paths = entries(target, content)
    _describe(folder, [(artifact, index)])
    return folder.as_uri(), index, paths


def common_channel(cache: Path, packages: Sequence[tuple[Artifact, dict[str, Any]]]) -> str:
    """Make a channel of packages, with their indexes, that are in the cache; return its URL."""
    names = sorted(f"{one.sha256} {one.subdir}/{one.filename}" for one, _ in packages)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    folder = cache / "together" / digest[:32]
    for artifact, _ in packages:
        place = folder / artifact.subdir / artifact.filename
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as link:
            link.symlink_to(copy_in(cache, artifact))
    _describe(folder, packages)
    return folder.as_uri()


def _describe(folder: Path, packages: Sequence[tuple[Artifact, dict[str, Any]]]) -> None:
    """Write what a channel holds."""
    for subdir in {"noarch", *(artifact.subdir for artifact, _ in packages)}:
        described: dict[str, Any] = {
            "info": {"subdir": subdir},
            "packages": {},
            "packages.conda": {},
        }
        for artifact, index in packages:
            if artifact.subdir == subdir:
                section = "packages.conda" if artifact.filename.endswith(".conda") else "packages"
                record = {**index, "sha256": artifact.sha256, "size": artifact.size}
                described[section][artifact.filename] = record
        place = folder / subdir / "repodata.json"
        place.parent.mkdir(exist_ok=True)
        with replacing(place) as file:
            file.write_text(json.dumps(described))


def check_files(packages: list[dict[str, Any]], artifact: Artifact | None) -> None:
    """Compare the bytes of local packages with what their channel says of them."""
    name = artifact.name if artifact is not None else None
    ours = [one for one in packages if one["name"] == name]
    if artifact is not None and [one["sha256"] for one in ours] != [artifact.sha256]:
        raise EnvironmentBroken(
            f"The solver took other bytes for {artifact.dist}.", remedy="Please report it."
        )
    for one in packages:
        if one["url"].startswith("file://") and one["name"] != name:
            path = Path(unquote(urlsplit(one["url"]).path))
            if one["sha256"] and sha256_of(path) != one["sha256"]:
                raise ChannelError(
                    f"{path}: its bytes are not those that the channel's repodata names.",
                    remedy="Index the channel again, or fetch the package again.",
                )


def first_difference(prefix: Path, paths: list[dict[str, Any]]) -> str:
    """Return the first file of the artifact that is not in the prefix with its bytes."""
    for entry in paths:
        if entry.get("prefix_placeholder") or entry.get("path_type") != "hardlink":
            continue
        name = entry["_path"]
        if name.startswith(("site-packages/", "python-scripts/")):
            continue  # noarch: python decides where it goes
        try:
            if sha256_of(prefix / name) != entry.get("sha256"):
                return str(name)
        except OSError:
            return str(name)
    return ""


def own_files(prefix: Path) -> None:
    """Give the prefix its own files: through links, tests would write into the package cache."""
    for path in prefix.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            copy = path.with_name(f"{path.name}.own")
            shutil.copy2(path, copy)
            copy.replace(path)


def state(path: Path) -> int:
    """Return what changes when anything at or below a path is written, moved or replaced.

    It reads no bytes. A change of a file's inode shows in a time that nobody sets by hand. Within
    this process only; 0 where nothing is.
    """
    seen = []
    try:
        seen.append(("", _inode(path.lstat())))
        folders = [os.fspath(path)] if path.is_dir() else []
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    seen.append((entry.path, _inode(entry.stat(follow_symlinks=False))))
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    except FileNotFoundError:
        return 0
    return hash(frozenset(seen)) or 1


def _inode(said: os.stat_result) -> tuple[int, ...]:
    return (said.st_ino, said.st_mode, said.st_size, said.st_mtime_ns, said.st_ctime_ns)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as hex; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside the target that takes its place when all went well."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield fresh
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
