"""The files behind an environment: channels of packages, and whether bytes are what was said."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pytest_manualbuild import package, untrusted
from pytest_manualbuild.errors import ArtifactError, ChannelError, EnvironmentBroken
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.package import archive

LEAVE_ALONE = "Leave the packages alone during a run, and run again."
"""What to do where a package changed."""
INFO = "info"
"""The ``path_type`` that files of ``info/`` have here: they are unpacked, and linked nowhere."""
_SHARE = 256
"""Files of a package that are worth a thread when they are hashed."""
_CHUNK = 256 * 1024
LARGE = 16 * 1024 * 1024
"""Bytes of packages of which the disk has some work."""


def private_channel(
    cache: Path, artifact: Artifact
) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Make a channel that holds the artifact alone; return its URL, index and paths.

    Among the paths are the files of its ``info/``: what else is linked, and how, stands in them.
    Raises EnvironmentBroken if the file no longer has the planned bytes.
    """
    path = Path(artifact.path)
    try:
        changed = package.sha256_of(path) != artifact.sha256
        why = f"{path}: it changed since the run was planned."
    except ArtifactError as error:
        changed, why = True, error.problem
    if changed:
        raise EnvironmentBroken(why, remedy=LEAVE_ALONE)
    index: dict[str, Any] = {}
    paths: list[dict[str, Any]] = []
    info = []
    for name, content in archive.info_members(path):
        sha256 = hashlib.sha256(content).hexdigest()
        info.append({"_path": name, "path_type": INFO, "sha256": sha256})
        if name == "info/index.json":
            index = json.loads(content)
        elif name == "info/paths.json":
            paths = package.entries(path, content)
    return _channel(cache / "channels", [(artifact, index)]), index, [*info, *paths]


def write_out(folder: Path) -> None:
    """Have the system write out the file system of a folder, while this process goes on.

    An engine that makes a container waits for that (see docs/decisions/0016), and so does the end
    of an overlay; until then the disk has nothing to do.
    """
    words = ["sync", "--file-system", str(folder)]

    def write() -> None:
        with contextlib.suppress(OSError):  # a system without that program writes a little later
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    threading.Thread(target=write, daemon=True, name="manualbuild-sync").start()


def common_channel(cache: Path, packages: Sequence[tuple[Artifact, dict[str, Any]]]) -> str:
    """Make a channel of packages with these indexes; return its URL."""
    return _channel(cache / "together", packages)


def _channel(place: Path, packages: Sequence[tuple[Artifact, dict[str, Any]]]) -> str:
    """Make a channel of links to packages, where the same ones have always the same."""
    names = sorted(
        f"{one.sha256} {one.subdir}/{one.filename} {Path(one.path).absolute()}"
        for one, _ in packages
    )
    folder = place / hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()[:32]
    for artifact, _ in packages:
        link = folder / artifact.subdir / artifact.filename
        link.parent.mkdir(parents=True, exist_ok=True)
        with replacing(link) as fresh:
            fresh.symlink_to(Path(artifact.path).absolute())
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
        repodata = folder / subdir / "repodata.json"
        repodata.parent.mkdir(exist_ok=True)
        with replacing(repodata) as file:
            file.write_text(json.dumps(described))
    return folder.as_uri()


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


def first_difference(
    prefix: Path, paths: list[dict[str, Any]], unpacked: Path | None = None
) -> str:
    """Return the first file of the artifact that is not in the prefix with its bytes.

    What is not linked as it is, is looked at where it was ``unpacked``, if that is given.
    """
    wanted = []
    for entry in paths:
        if entry.get("path_type") not in ("hardlink", INFO):
            continue
        name = entry["_path"]
        # Of noarch packages python decides where these go.
        noarch = name.startswith(("site-packages/", "python-scripts/"))
        elsewhere = noarch or entry.get("prefix_placeholder") or entry["path_type"] == INFO
        folder = unpacked if elsewhere else prefix
        if folder:
            wanted.append((str(name), folder / name, entry.get("sha256")))
    share = max(_SHARE, -(-len(wanted) // (os.cpu_count() or 1)))
    shares = [wanted[begin : begin + share] for begin in range(0, len(wanted), share)]
    if len(shares) < 2:  # noqa: PLR2004 # a thread would take longer
        return _first_wrong(wanted)
    with ThreadPoolExecutor(len(shares)) as pool:
        return next(filter(None, pool.map(_first_wrong, shares)), "")


def _first_wrong(wanted: Sequence[tuple[str, Path, str | None]]) -> str:
    """Return the first name whose file has not the SHA-256 that it should have.

    EnvironmentBroken where its mode forbids to find out: such a package can be installed.
    """
    for name, path, sha256 in wanted:
        try:
            if sha256_of(path) != sha256:
                return name
        except PermissionError as error:
            raise EnvironmentBroken(
                f"{name} of the package may not be read, so that it cannot be compared.",
                remedy="Run as root, or build the package with files that may be read.",
            ) from error
        except OSError:
            return name
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

    It reads no bytes. Within this process only; 0 where nothing is.
    """
    try:
        return hash(frozenset(_stamps(path))) or 1
    except (FileNotFoundError, NotADirectoryError):
        return 0


def lasting_state(path: Path) -> str:
    """Return such a state that holds in other processes and for longer; empty: nothing is there.

    Not the time when an inode changed: what is linked has it in common with other environments.
    """
    try:
        seen = sorted((name, stamp[:-1]) for name, stamp in _stamps(path))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _stamps(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and stamps of a path and of all that is below it."""
    yield "", untrusted.stamp(path.stat())
    folders = [os.fspath(path)] if path.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry.path, untrusted.stamp(entry.stat(follow_symlinks=False))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as hex; OSError if it cannot be read."""
    digest = hashlib.sha256()
    # Not `hashlib.file_digest`: it clears 256 KiB of memory for each of thousands of small files.
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside the target that takes its place when all went well."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield fresh
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
