"""A folder as a conda channel: packages in their subdirs, indexed.

Nobody finds a package before the index names it, so that nothing needs to be staged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.package import PACKAGE_SUBDIRS
from pytest_manualbuild.package.archive import EXTENSIONS
from pytest_manualbuild.targets.base import Present, Standing

_PIECE = 1 << 20


class DirectoryTarget:
    """Writes a channel into a folder; no labels, and nobody logs in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.where = str(self._folder)

    def login(self) -> str:
        """Return nobody."""
        return ""

    def look(self, artifact: Artifact) -> Present | None:
        """Return the hash and size of the file of that name."""
        if not self._path(artifact).exists():
            return None
        digest, size = hashlib.sha256(), 0
        for piece in self.fetch(artifact):
            digest.update(piece)
            size += len(piece)
        return Present(sha256=digest.hexdigest(), size=size)

    def standing(self, present: Present | None, artifact: Artifact) -> Standing:
        """Say whether the bytes are the same."""
        if present is None:
            return Standing.ABSENT
        return Standing.PUBLIC if present.holds(artifact) else Standing.OTHER

    def send(self, artifact: Artifact, file: BinaryIO) -> None:
        """Write the file whole or not at all, never over another one."""
        target = self._path(artifact)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as fresh:
                try:
                    shutil.copyfileobj(file, fresh)
                    fresh.flush()
                    os.fsync(fresh.fileno())
                    Path(fresh.name).chmod(0o644)
                    os.link(fresh.name, target)  # unlike a rename, it fails if the name is taken
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        Path(fresh.name).unlink()
        except OSError as error:
            raise UploadError(
                f"{target}: cannot be written: {error.strerror}.",
                remedy="Nothing was replaced; check the folder and its disk.",
            ) from error

    def fetch(self, artifact: Artifact) -> Iterator[bytes]:
        """Yield the bytes of the file."""
        path = self._path(artifact)
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece
        except OSError as error:
            raise UploadError(f"{path}: {error.strerror}.", remedy="Check that folder.") from error

    def promote(self, artifact: Artifact) -> None:
        """Do nothing: the index does it."""

    def finish(self) -> None:
        """Index the channel."""
        from pytest_manualbuild.environment.environments import index_channel  # noqa: PLC0415 # only here

        index_channel(self._folder)

    def files(self) -> list[str]:
        """Return every package of the folder, in the index or not."""
        return sorted(
            path.relative_to(self._folder).as_posix()
            for subdir in PACKAGE_SUBDIRS
            for path in (self._folder / subdir).glob("*")
            if path.name.endswith(EXTENSIONS)
        )

    def _path(self, artifact: Artifact) -> Path:
        return self._folder / artifact.subdir / artifact.filename
