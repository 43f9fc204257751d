"""Chooses where an environment goes on a host: a prefix as long as conda-build's, or as may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pytest_manualbuild.errors import Uninstallable
from pytest_manualbuild.package import archive, entries

PREFIX_LENGTH = 255
"""As conda-build's: what cannot be relocated into a long prefix is found out."""
_PLACEHOLD = "_test_env_placehold"
LONGEST_PATH = 259
"""What most programs of Windows can open."""


def below(root: str, prefix: str) -> str:
    """Return where a prefix is below the folder that holds the root, with ``/``.

    The cache has an environment there, too, so that it can be seen from that folder on.
    """
    # Of both kinds of systems: it takes either separator.
    return PureWindowsPath(prefix).relative_to(PureWindowsPath(root).parent).as_posix()


Known = Mapping[str, list[dict[str, Any]]]
"""What is known already of packages: the entries of their files, by sha256 of the package."""


def on_windows(
    root: str, packages: list[dict[str, Any]], known: Known
) -> tuple[str, tuple[str, ...]]:
    """Return the prefix below ``root`` on Windows: not padded, as conda-build has it there.

    Raises Uninstallable for a file whose path would be too long.
    """
    prefix = f"{root}\\_test_env"
    for one in packages:
        for entry in _entries(one, known):
            size = len(prefix) + 1 + len(str(entry["_path"]))
            if size > LONGEST_PATH:
                raise Uninstallable(
                    f"{one['file']}: the path of {entry['_path']} has {size} characters on the"
                    f" host, and Windows takes {LONGEST_PATH}.",
                    remedy="Shorten the paths in the package.",
                )
    return prefix, ()


def padded(root: str, packages: list[dict[str, Any]], known: Known) -> tuple[str, tuple[str, ...]]:
    """Return the padded prefix below ``root``, shorter where a package cannot take it."""
    length = PREFIX_LENGTH
    notes: tuple[str, ...] = ()
    for one in packages:
        short = min(_placeholders(one, known), default=length)
        if short < length:
            length = short
            note = (
                f"the prefix has {length} characters, not {PREFIX_LENGTH}:"
                f" {one['file']} was built with a placeholder that short"
            )
            notes = (note,)
    plain = f"{root}/{_PLACEHOLD}"
    while len(plain) + len("_placehold") <= length:
        plain += "_placehold"
    prefix = plain + "_placehold"[: max(0, length - len(plain))]
    if len(prefix) > length:
        prefix = f"{root}/e"
    if len(prefix) > length:
        raise Uninstallable(
            f"No prefix below {root} is short enough: {notes[0] if notes else ''}.",
            remedy="Build the package with conda-build's padded prefix.",
        )
    return prefix, notes


def _placeholders(described: dict[str, Any], known: Known) -> Iterator[int]:
    """Yield the lengths of the placeholders in the binaries of a local package."""
    for entry in _entries(described, known):
        if entry.get("prefix_placeholder") and entry.get("file_mode") == "binary":
            yield len(str(entry["prefix_placeholder"]))


def _entries(described: dict[str, Any], known: Known) -> Iterator[dict[str, Any]]:
    """Yield what a local package says of its files."""
    if not described["url"].startswith("file://"):
        return
    if described["sha256"] in known:
        yield from known[described["sha256"]]
        return
    path = Path(unquote(urlsplit(described["url"]).path))
    for name, content in archive.info_members(path):
        if name == "info/paths.json":
            yield from entries(path, content)
            return
