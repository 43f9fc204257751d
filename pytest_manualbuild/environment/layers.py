"""The linked environments of the cache: how one gets there, and whether it is still as it was."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_manualbuild.environment import files
from pytest_manualbuild.hosts.runs import locked


@contextlib.contextmanager
def making(layer: Path) -> Iterator[Path]:
    """Give a folder in which an environment is made before it takes its place.

    What runs left that were killed meanwhile is removed, but for what another one is making now.
    """
    for left in layer.parent.glob("*.making"):
        with locked(left.with_suffix(".lock"), wait=False) as nobody_else:
            if nobody_else or left.stem == layer.name:  # whose lock we hold
                shutil.rmtree(left, ignore_errors=True)
    fresh = layer.with_suffix(".making")
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def is_whole(layer: Path, target: Path, paths: list[dict[str, Any]]) -> bool:
    """Say whether an environment that an earlier run made is as that left it.

    Its state tells also of files that are linked in another form, and of those of other packages.
    """
    return (
        target.is_dir()
        and _made_as(layer).is_file()
        and _made_as(layer).read_bytes() == files.lasting_state(layer).encode()
        and not files.first_difference(target, paths)
    )


def made(layer: Path) -> None:
    """Note the state in which an environment was made."""
    with files.replacing(_made_as(layer)) as file:
        file.write_text(files.lasting_state(layer))


def _made_as(layer: Path) -> Path:
    """Return the file with the state in which an environment was made."""
    return layer.with_suffix(".state")
