"""Chooses where an environment goes on a host: a prefix as long as conda-build's, or as may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pytest_manualbuild.errors import Uninstallable
from pytest_manualbuild.package import archive, entries

PREFIX_LENGTH = 255
"""As conda-build's: what cannot be relocated into a long prefix is found out."""
_PLACEHOLD = "_test_env_placehold"


def padded(root: str, packages: list[dict[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """Return the padded prefix below ``root``, shorter where a package cannot take it."""
    length = PREFIX_LENGTH
    notes: tuple[str, ...] = ()
    for one in packages:
        short = min(_placeholders(one), default=length)
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


def _placeholders(described: dict[str, Any]) -> Iterator[int]:
    """Yield the lengths of the placeholders in the binaries of a local package."""
    if not described["url"].startswith("file://"):
        return
    path = Path(unquote(urlsplit(described["url"]).path))
    for name, content in archive.info_members(path):
        if name == "info/paths.json":
            for entry in entries(path, content):
                if entry.get("prefix_placeholder") and entry.get("file_mode") == "binary":
                    yield len(str(entry["prefix_placeholder"]))
            return
