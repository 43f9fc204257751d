"""What lies in a folder that is a conda channel, and what its index names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pytest_manualbuild import strictjson
from pytest_manualbuild.errors import TargetError
from pytest_manualbuild.package.archive import EXTENSIONS

_INDEX = "repodata.json"
_TAKEN = (*EXTENSIONS, ".whl")
"""How names end that an indexer looks at, or that stop it."""
_SUBDIR = re.compile(r"noarch|[a-z0-9]+-[a-z0-9_]+")
"""Folders that an indexer may take for a subdir: wider than it does, without ``broken``."""


def files(folder: Path) -> list[str]:
    """Return the key of every package that lies there or that an index names.

    Of every folder below: who adds a subdir that we do not know shall be seen. Raises TargetError
    for what is no folder or cannot be read.
    """
    found = set()
    for subdir in _subdirs(folder):
        found |= {name for name in _lying(subdir) if name.endswith(EXTENSIONS)}
        found |= _indexed(subdir)
    return sorted(found)


def unindexed(folder: Path) -> list[str]:
    """Return the keys of what would get public if the folder were indexed now."""
    return sorted(
        name
        for subdir in _subdirs(folder)
        if _SUBDIR.fullmatch(subdir.name)
        for name in _lying(subdir) - _indexed(subdir)
    )


def _subdirs(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError as error:
        raise TargetError(
            f"{folder}: the channel cannot be read: {error.strerror}.", remedy="Check that folder."
        ) from error


def _lying(subdir: Path) -> set[str]:
    return {
        f"{subdir.name}/{path.name}"
        for path in _entries(subdir)
        if path.name.endswith(_TAKEN) and not path.is_dir()
    }


def _indexed(subdir: Path) -> set[str]:
    """Return what the index of a subdir names; nothing if there is none."""
    path = subdir / _INDEX
    if not any(one.name == _INDEX for one in _entries(subdir)):
        return set()
    try:
        index = strictjson.loads(path.read_bytes() if path.is_file() else b"")
        tables = [(index.get(key, {}), "") for key in ("packages", "packages.conda")]
        # In the third form, each sort of archive has a table of names without their end.
        tables += [(table, f".{kind}") for kind, table in index.get("v3", {}).items()]
        names = {
            name if name.endswith(end) else f"{name}{end}"
            for table, end in tables
            for name in {**table}
        }
    except OSError as error:
        raise TargetError(
            f"{path}: cannot be read: {error.strerror}.", remedy="Check that file."
        ) from error
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise TargetError(
            f"{path}: it is no index of a channel.", remedy="Index the channel again."
        ) from error
    return {f"{subdir.name}/{name}" for name in names}
