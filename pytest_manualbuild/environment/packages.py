"""The packages under test: their files, read where they lie, as long as nobody touches them."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_manualbuild.environment import files
from pytest_manualbuild.environment.looks import Looks, Turns
from pytest_manualbuild.errors import EnvironmentBroken
from pytest_manualbuild.model import Artifact

Described = tuple[str, dict[str, Any], list[dict[str, Any]]]
"""The URL of a package's own channel, its ``info/index.json`` and the entries of its paths."""


class Packages:
    """What a run knows of the packages that it tests; safe for several threads."""

    def __init__(self, cache: Path) -> None:
        """Keep channels below ``cache``, where py-rattler unpacks packages as well."""
        self._cache = cache
        self._turns = Turns()
        self._looks = Looks()
        self._described: dict[str, Described] = {}
        self._common: dict[str, list[str]] = {}
        self._compared: dict[str, str] = {}
        self.tested: tuple[Artifact, ...] = ()
        """All that are tested in this run."""

    def channel(self, artifact: Artifact) -> Described:
        """Return a channel of that package alone; EnvironmentBroken if its bytes changed."""
        path = Path(artifact.path)
        asked_s = time.monotonic()
        with self._turns.of(artifact.sha256):
            if artifact.sha256 not in self._described or self._looks.changed(path, asked_s):
                look = self._looks.look(path)
                try:
                    self._described[artifact.sha256] = files.private_channel(self._cache, artifact)
                finally:  # also where other bytes than those that were hashed cannot be read
                    if files.state(path) != look[1]:
                        raise _changed(path)
                self._looks.know(path, look)
        return self._described[artifact.sha256]

    def common_channel(self, subdir: str) -> list[str]:
        """Return the channel of all packages that are tested there; none if there is but one."""
        with self._turns.of("common"):
            if subdir not in self._common:
                here = [one for one in self.tested if one.subdir in (subdir, "noarch")]
                found = [(one, self.channel(one)[1]) for one in here]
                made = [files.common_channel(self._cache, found)] if len(found) > 1 else []
                self._common[subdir] = made
        return self._common[subdir]

    def among(self, hashes: Sequence[str], artifact: Artifact | None) -> list[Artifact]:
        """Return the tested packages with these hashes; the one that is asked for comes first."""
        own = [artifact] if artifact is not None else []
        return own + [one for one in self.tested if one.sha256 in hashes and one not in own]

    @contextlib.contextmanager
    def reading(self, artifact: Artifact) -> Iterator[Path]:
        """Give a package file that has the planned bytes from beginning to end.

        EnvironmentBroken if not; then nothing that was unpacked from it stays.
        """
        self.channel(artifact)
        path = Path(artifact.path)
        with self._turns.of(artifact.sha256):
            known = self._looks.known(path)
        try:
            yield path
        finally:  # also where it could not be read to its end, for that reason
            if not known or files.state(path) != known:
                self.forget(artifact)
                raise _changed(path)

    def forget(self, artifact: Artifact) -> None:
        """Remove what was unpacked of a package."""
        self._compared.pop(artifact.sha256, None)
        shutil.rmtree(self._cache / "pkgs" / artifact.dist, ignore_errors=True)

    def forget_named(self, text: str, solved: Sequence[dict[str, Any]]) -> None:
        """Remove what was unpacked of those packages of a solution that a text names."""
        for one in solved:
            dist = f"{one['name']}-{one['version']}-{one['build']}"
            if dist in text:
                shutil.rmtree(self._cache / "pkgs" / dist, ignore_errors=True)

    def difference(self, artifact: Artifact, prefix: Path | None, place: Path) -> str:
        """Return the first file of a package that was not linked with its bytes; empty: all were.

        What a prefix has in another form is looked at where it was unpacked, in that place, and
        with None all of it is: others may have written over it in the prefix. That is done once,
        as long as nobody touches it.
        """
        unpacked = place / artifact.dist
        _, _, paths = self.channel(artifact)
        if prefix is not None:
            return files.first_difference(prefix, paths, unpacked)
        state = files.lasting_state(unpacked)
        if self._compared.get(artifact.sha256) != state:
            if wrong := files.first_difference(unpacked, paths, unpacked):
                return wrong
            self._compared[artifact.sha256] = state
        return ""


def _changed(path: Path) -> EnvironmentBroken:
    return EnvironmentBroken(f"{path}: it changed while it was read.", remedy=files.LEAVE_ALONE)
