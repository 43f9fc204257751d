"""The seam of this folder: what an upload target must offer.

A package goes through at most three standings: absent, staged, public. Each step is done once and
looked at afterwards, so that an upload that was killed anywhere can be run again. A target that
has nothing between absent and public leaves ``staged`` out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import BinaryIO, Protocol

import msgspec

from pytest_manualbuild.model import Artifact


class Standing(StrEnum):
    """How a package stands at a target."""

    ABSENT = "absent"
    STAGED = "staged"  # there, where nobody looks for packages yet
    PUBLIC = "public"  # there, exactly as it was to be published
    OTHER = "other"  # something else has its name: other bytes, or other labels


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What a target has under a package's name."""

    sha256: str
    size: int | None
    """None where the target does not say."""
    labels: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it in words."""
        labels = f", labels {', '.join(self.labels)}" if self.labels else ""
        return f"sha256 {self.sha256 or 'unknown'}{labels}"

    def holds(self, artifact: Artifact) -> bool:
        """Say whether that are the package's bytes, as far as the target says."""
        return self.sha256 == artifact.sha256 and self.size in (None, artifact.size)


class UploadTarget(Protocol):
    """A place where packages are published. Nothing that is there is ever replaced or removed."""

    where: str
    """For people: the URL or the folder, with owner and label."""

    def login(self) -> str:
        """Return who is publishing; empty where nobody logs in. Raises UploadError."""
        ...

    def check(self, artifacts: Collection[Artifact]) -> None:
        """Raise UploadError if these cannot be published alone. Changes nothing."""
        ...

    def look(self, artifact: Artifact) -> Present | None:
        """Return what is there under the package's name, None if nothing is. Changes nothing."""
        ...

    def standing(self, present: Present | None, artifact: Artifact) -> Standing:
        """Say what ``look`` means."""
        ...

    def send(self, artifact: Artifact, file: BinaryIO) -> None:
        """Bring the bytes of an open file there: from absent to staged or public.

        Raises UploadError when that failed, or when it is not known whether it did.
        """
        ...

    def fetch(self, artifact: Artifact) -> Iterator[bytes]:
        """Yield the bytes that the target hands out under the package's name."""
        ...

    def promote(self, artifact: Artifact) -> None:
        """Bring a package from staged to public. Raises UploadError as ``send`` does."""
        ...

    def finish(self, artifacts: Collection[Artifact]) -> None:
        """Do what is due once after all packages. Raises UploadError."""
        ...

    def files(self) -> list[str]:
        """Return the keys, ``SUBDIR/FILE``, of all packages that are public. Changes nothing."""
        ...
