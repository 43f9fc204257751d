"""A folder as a conda channel: packages in their subdirs, indexed.

Nobody finds a package before the index names it, so that nothing needs to be staged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_manualbuild.errors import HostError, UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.targets import channel
from pytest_manualbuild.targets.base import Present, Standing

_PIECE = 1 << 20
_MOST_NAMED = 5


class DirectoryTarget:
    """Writes a channel into a folder; no labels, and nobody logs in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.where = str(self._folder)

    def login(self) -> str:
        """Return nobody."""
        return ""

    def check(self, artifacts: Collection[Artifact]) -> None:
        """Refuse where the index, which is of the whole folder, would publish something else."""
        if not self._folder.exists():
            return
        ours = {artifact.key for artifact in artifacts}
        others = [key for key in channel.unindexed(self._folder) if key not in ours]
        if others:
            more = f" and {len(others) - _MOST_NAMED} more" * (len(others) > _MOST_NAMED)
            raise UploadError(
                f"{self._folder}: nobody finds {', '.join(others[:_MOST_NAMED])}{more} there now,"
                " and the new index would publish it.",
                remedy="Move it away, or publish it first with the report that proves it.",
            )

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

    def finish(self, artifacts: Collection[Artifact]) -> None:
        """Index the channel."""
        from pytest_manualbuild.environment.environments import index_channel  # noqa: PLC0415 # only here

        self.check(artifacts)  # again: sending may have taken hours
        try:
            index_channel(self._folder)
        except HostError as error:
            raise UploadError(
                f"{error.problem} The packages lie there, and no index names them.",
                remedy="Run it again; it goes on where it ended.",
                detail=error.detail,
            ) from error

    def files(self) -> list[str]:
        """Return every package of the folder, in the index or not, and what the index names."""
        return channel.files(self._folder)

    def _path(self, artifact: Artifact) -> Path:
        return self._folder / artifact.subdir / artifact.filename
