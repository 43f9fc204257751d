"""A folder as a conda channel: packages in their subdirs, indexed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.targets.base import Present


class DirectoryTarget:
    """Writes a channel into a folder; no labels, and nobody logs in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.where = str(self._folder)

    def login(self) -> str:
        """Return nobody."""
        return ""

    def look(self, artifact: Artifact) -> Present | None:
        """Return the hash of the file of that name."""
        path = self._folder / artifact.subdir / artifact.filename
        try:
            with path.open("rb") as file:
                return Present(sha256=hashlib.file_digest(file, "sha256").hexdigest())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UploadError(f"{path}: {error.strerror}.", remedy="Check that folder.") from error

    def fits(self, present: Present, artifact: Artifact) -> bool:
        """Say whether the bytes are the same."""
        return present.sha256 == artifact.sha256

    def publish(self, artifact: Artifact, file: BinaryIO) -> None:
        """Write the file whole or not at all, never over another one."""
        target = self._folder / artifact.subdir / artifact.filename
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

    def finish(self) -> None:
        """Index the channel."""
        from pytest_manualbuild.environment import index_channel  # noqa: PLC0415 # only here

        index_channel(self._folder)
