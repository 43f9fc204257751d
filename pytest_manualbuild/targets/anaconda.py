"""anaconda.org, through the Python interface of the real anaconda-client.

The interface and not the command: it uploads from our open private copy, where
the command opens the path again and again, and it is told the labels, where the
command takes an empty list for everybody's. Nothing is forced or skipped.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.targets.base import Present


class AnacondaTarget:
    """A label of an owner's channel, at the site that the client is configured for."""

    def __init__(self, owner: str, label: str) -> None:
        os.environ["OTEL_SDK_DISABLED"] = "true"  # the client would report its use
        from binstar_client.utils.config import get_server_api  # noqa: PLC0415 # 0.5 s

        self._owner = owner
        self._label = label
        self._api: Any = get_server_api()
        self.where = f"{self._api.domain}, owner {owner}, label {label}"

    def login(self) -> str:
        """Return the name of the account whose token is used."""
        return str(self._call("ask who is logged in", self._api.user)["login"])

    def look(self, artifact: Artifact) -> Present | None:
        """Return the hash and labels that the server has for that file name."""
        from binstar_client.errors import NotFound  # noqa: PLC0415 # see __init__

        try:
            found = self._api.distribution(
                self._owner,
                artifact.name,
                artifact.version,
                f"{artifact.subdir}/{artifact.filename}",
            )
        except NotFound:
            return None
        except Exception as error:
            raise self._failed(f"look for {artifact.key}", error) from error
        labels = found.get("labels") or found.get("channels") or ()
        return Present(sha256=str(found.get("sha256", "")), labels=tuple(sorted(labels)))

    def fits(self, present: Present, artifact: Artifact) -> bool:
        """Say whether bytes and labels are exactly those asked for."""
        return present.sha256 == artifact.sha256 and present.labels == (self._label,)

    def publish(self, artifact: Artifact, file: BinaryIO) -> None:
        """Upload under the label; an answer that was lost is settled by looking."""
        try:
            self._upload(artifact, file)
        except Exception as error:
            present = self._settle(artifact)
            if present is None or not self.fits(present, artifact):
                raise self._failed(f"upload {artifact.key}", error) from error

    def _settle(self, artifact: Artifact) -> Present | None:
        try:
            return self.look(artifact)
        except UploadError:
            return None

    def _upload(self, artifact: Artifact, file: BinaryIO) -> None:
        from binstar_client.errors import NotFound  # noqa: PLC0415 # see __init__
        from binstar_client.inspect_package.conda import (  # noqa: PLC0415
            inspect_conda_package,
        )
        from binstar_client.utils.config import PackageType  # noqa: PLC0415

        about, release, described = inspect_conda_package(file.name)
        name, version = artifact.name, artifact.version
        try:
            self._api.package(self._owner, name)
        except NotFound:
            self._api.add_package(
                self._owner,
                name,
                about.get("summary"),
                about.get("license"),
                public=True,
                attrs=about,
                license_url=about.get("license_url"),
                license_family=about.get("license_family"),
                package_type=PackageType.CONDA,
            )
        try:
            self._api.release(self._owner, name, version)
        except NotFound:
            self._api.add_release(self._owner, name, version, [], None, release)
        self._api.upload(
            self._owner,
            name,
            version,
            f"{artifact.subdir}/{artifact.filename}",
            file,
            PackageType.CONDA,
            dependencies=described.get("dependencies"),
            attrs=described["attrs"],
            channels=[self._label],
            sha256=artifact.sha256,
        )

    def finish(self) -> None:
        """Do nothing: the server indexes by itself."""

    def _call(self, what: str, function: Any) -> Any:  # noqa: ANN401 # the client has no types
        try:
            return function()
        except Exception as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> UploadError:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        token = getattr(self._api, "token", None)
        if token:
            reason = reason.replace(str(token), "***")
        return UploadError(
            f"{self.where}: cannot {what}: {reason}.",
            remedy="Check --user and the token (ANACONDA_API_TOKEN), and run it again.",
        )
