"""anaconda.org, through the Python interface of the real anaconda-client.

The interface and not the command: it uploads from our open private copy, where
the command opens the path again and again, and it is told the labels, where the
command takes an empty list for everybody's. Nothing is forced or skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, BinaryIO

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.targets.base import Present, Standing

ANSWER_S = 300
"""How long an answer may take. Sending a file has no limit: a slow line needs hours for some."""
_PIECE = 1 << 20


class _OddAnswer(Exception):
    """The server answered something else than its interface has."""

    def __init__(self) -> None:
        super().__init__("the server's answer has another form than expected")


class AnacondaTarget:
    """A label of an owner's channel, at the site that the client is configured for."""

    def __init__(
        self, owner: str, label: str, *, staging: str | None, answer_s: float = ANSWER_S
    ) -> None:
        os.environ["OTEL_SDK_DISABLED"] = "true"  # the client would report its use
        from binstar_client.utils.config import get_server_api  # noqa: PLC0415 # 0.5 s

        self._owner, self._label, self._staging = owner, label, staging
        self._answer_s = answer_s
        self._api: Any = get_server_api()
        self._limit_answers()
        self.where = f"{self._api.domain}, owner {owner}, label {label}"

    def _limit_answers(self) -> None:
        """Have the client's session wait for an answer, and not for ever."""
        from requests.adapters import HTTPAdapter  # noqa: PLC0415 # see __init__

        limit_s = self._answer_s

        class Limited(HTTPAdapter):
            def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override] # noqa: ANN401 # as the library has it
                return super().send(request, **{**options, "timeout": limit_s})

        for scheme in ("http://", "https://"):
            self._api.session.mount(scheme, Limited())

    def login(self) -> str:
        """Return the name of the account whose token is used."""

        def ask() -> str:
            name = _table(self._api.user()).get("login")
            if not isinstance(name, str) or not name:
                raise _OddAnswer
            return name

        return str(self._call("ask who is logged in", ask))

    def check(self, artifacts: Collection[Artifact]) -> None:
        """Do nothing: the server publishes what it is told to, and nothing else."""

    def look(self, artifact: Artifact) -> Present | None:
        """Return the hash, size and labels that the server has for that file name."""
        from binstar_client.errors import NotFound  # noqa: PLC0415 # see __init__

        def ask() -> Present | None:
            try:
                return _present(self._api.distribution(*self._name(artifact)))
            except NotFound:
                return None

        found: Present | None = self._call(f"look for {artifact.key}", ask)
        return found

    def standing(self, present: Present | None, artifact: Artifact) -> Standing:
        """Compare bytes and labels with exactly those asked for."""
        if present is None:
            return Standing.ABSENT
        if present.holds(artifact):
            if set(present.labels) == {self._label}:
                return Standing.PUBLIC
            if self._staging and set(present.labels) in (
                {self._staging},
                {self._staging, self._label},
            ):
                return Standing.STAGED
        return Standing.OTHER

    def send(self, artifact: Artifact, file: BinaryIO) -> None:
        """Upload under the staging label, or under the label itself without one."""
        self._call(f"upload {artifact.key}", lambda: self._upload(artifact, file))

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
            *self._name(artifact),
            file,
            PackageType.CONDA,
            dependencies=described.get("dependencies"),
            attrs=described["attrs"],
            channels=[self._staging or self._label],
            sha256=artifact.sha256,
        )

    def fetch(self, artifact: Artifact) -> Iterator[bytes]:
        """Yield what the server hands out; it may send us to its object store."""
        what = f"download {artifact.key}"
        answer = self._call(what, lambda: self._download(artifact))
        try:
            pieces = answer.iter_content(_PIECE)
            while piece := self._call(what, lambda: next(pieces, b"")):
                yield bytes(piece)
        finally:
            answer.close()

    def _download(self, artifact: Artifact) -> Any:  # noqa: ANN401 # the client has no types
        import requests  # noqa: PLC0415 # see __init__

        url = "/".join([self._api.domain, "download", *self._name(artifact)])
        answer = self._api.session.get(url, stream=True, allow_redirects=False)
        if answer.is_redirect:
            # Without the session: the object store must not see the token.
            answer = requests.get(answer.headers["location"], stream=True, timeout=self._answer_s)
        answer.raise_for_status()
        return answer

    def promote(self, artifact: Artifact) -> None:
        """Give the file its label, then take the staging label away."""
        owner, name, version, path = self._name(artifact)
        file = {"package": name, "version": version, "filename": path}
        for what, function, label in (
            (f"add the label to {artifact.key}", self._api.add_channel, self._label),
            (
                f"remove the staging label of {artifact.key}",
                self._api.remove_channel,
                self._staging,
            ),
        ):
            self._call(what, partial(function, label, owner, **file))

    def finish(self, artifacts: Collection[Artifact]) -> None:
        """Do nothing: the server indexes by itself."""

    def files(self) -> list[str]:
        """Return every file that has the label."""

        def ask() -> list[str]:
            found = _table(self._api.show_channel(self._label, self._owner)).get("files")
            if not isinstance(found, list):
                raise _OddAnswer
            return sorted(_key(_table(file).get("full_name")) for file in found)

        return list(self._call("list the files of the label", ask))

    def _name(self, artifact: Artifact) -> tuple[str, str, str, str]:
        path = f"{artifact.subdir}/{artifact.filename}"
        return self._owner, artifact.name, artifact.version, path

    def _call(self, what: str, function: Callable[[], Any]) -> Any:  # noqa: ANN401 # no types
        try:
            return function()
        except UploadError:
            raise
        except Exception as error:  # noqa: BLE001 # the client raises whatever its libraries do
            # Without the cause: what it holds, a request with its token, ends in no traceback.
            raise self._failed(what, error) from None

    def _failed(self, what: str, error: Exception) -> UploadError:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        token = getattr(self._api, "token", None)
        if token:
            reason = reason.replace(str(token), "***")
        return UploadError(
            f"{self.where}: cannot {what}: {reason}.",
            remedy="Check --user and the token (ANACONDA_API_TOKEN), and run it again.",
        )


def _table(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise _OddAnswer
    return answer


def _present(answer: object) -> Present:
    found = _table(answer)
    size, sha256 = found.get("size"), found.get("sha256") or ""
    labels = found.get("labels") or found.get("channels") or []
    if not isinstance(sha256, str) or not isinstance(labels, list):
        raise _OddAnswer
    if not all(isinstance(label, str) for label in labels):
        raise _OddAnswer
    return Present(
        sha256=sha256,
        size=size if isinstance(size, int) else None,
        labels=tuple(sorted(labels)),
    )


def _key(full_name: object) -> str:
    """Return SUBDIR/FILE of OWNER/NAME/VERSION/SUBDIR/FILE, as the client prints it."""
    parts = full_name.split("/", 3) if isinstance(full_name, str) else []
    if len(parts) != 4:  # noqa: PLR2004 # as above
        raise _OddAnswer
    return parts[3]
