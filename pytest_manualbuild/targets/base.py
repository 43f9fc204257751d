"""The seam of this folder: what an upload target must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pytest_manualbuild.model import Artifact


@dataclass(frozen=True, kw_only=True)
class Present:
    """What a target has under a package's name."""

    sha256: str
    labels: tuple[str, ...] = ()


class UploadTarget(Protocol):
    """A place where packages are published. Nothing that is there is ever replaced."""

    where: str
    """For people: the URL or the folder, with owner and label."""

    def login(self) -> str:
        """Return who is publishing; empty where nobody logs in."""
        ...

    def look(self, artifact: Artifact) -> Present | None:
        """Return what is there under the package's name, None if nothing is. Changes nothing."""
        ...

    def fits(self, present: Present, artifact: Artifact) -> bool:
        """Say whether that is the package exactly as it was to be published."""
        ...

    def publish(self, artifact: Artifact, file: BinaryIO) -> None:
        """Publish the bytes of an open file. Raises UploadError."""
        ...

    def finish(self) -> None:
        """Do what is due once after all packages."""
        ...
