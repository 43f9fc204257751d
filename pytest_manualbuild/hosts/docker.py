"""Hosts of kind ``docker``: containers of any engine that speaks Docker's API.

The container's main process is our control shell, and its standard input is
our connection: when the controller dies, the shell reads end of file, ends,
and the engine removes the container by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import socket
import struct
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_manualbuild import shells
from pytest_manualbuild.errors import EnvironmentBroken, HostUnavailable, during
from pytest_manualbuild.framing import Stream
from pytest_manualbuild.hosts import engines, facts
from pytest_manualbuild.hosts.base import FOLDER, MEMORY, PIDS, Placement, Progress
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Facts, Host, LinkedEnvironment

LIBRARIES = ("docker",)
"""What takes long to import, and is not needed by who has no such hosts."""
RUN_LABEL = "io.pytest-manualbuild.run"
HOST_LABEL = "io.pytest-manualbuild.host"
_HEADER = struct.Struct(">BxxxL")
_STDERR = 2  # the engine's number of that stream
_CHUNK = 256 * 1024


class DockerProvider:
    """Makes a container a host, from the image that the matrix names."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return the facts of the image (kept by its id) and of the engine's kernel."""
        with engines.engine(host, run) as client:
            image = _image(client, host, progress)
            kernel = engines.version(host, run).get("KernelVersion", "")
            kept = cache_folder() / "facts" / f"{image.id.replace(':', '-')}.json"
            found = _kept_facts(kept)
            if found is None:
                progress("asking the image what it is")
                connection = DockerConnection(host, run, image.id, ())
                try:
                    found = facts.ask(host.name, connection)
                finally:
                    connection.close()
                _keep(kept, found)
            digests = image.attrs.get("RepoDigests") or [image.id]
            return replace(found, kernel=kernel, image_digest=digests[0])

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in the container; they are linked once, in the cache."""
        del host, run
        return Placement(root=f"{FOLDER}/{package_sha256[:8]}", in_place=False)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> DockerConnection:
        """Start a container with an overlay of each environment, or with a copy of it."""
        wanted = tuple(environments)
        with engines.engine(host, run) as client:
            image = _image(client, host, progress)
        overlay = _overlay_possible(host.engine, wanted)
        try:
            connection = DockerConnection(host, run, image.id, wanted if overlay else ())
        except _MountRefused:
            overlay = False
            connection = DockerConnection(host, run, image.id, ())
        try:
            with during("delivering"):
                if not overlay:
                    progress("copying the environments")
                    connection.copy(wanted)
                connection.check(wanted)
        except BaseException:
            connection.close()
            raise
        return connection

    def sweep(self, run: Run) -> list[str]:
        """Remove the containers and volumes of a run, on each engine that it used."""
        removed: list[str] = []
        away: HostUnavailable | None = None
        entries = run.made("docker")
        for entry in entries:
            if "folder" in entry:
                engines.remove_tunnel(entry["folder"])
        for host in dict.fromkeys(map(engines.recorded, entries)):
            try:
                removed += _remove_all(host, run)
            except HostUnavailable as error:
                away = error
        if away is not None:
            raise away
        return removed


def _remove_all(host: Host, run: Run) -> list[str]:
    removed = []
    with engines.engine(host, run) as client:
        ours = {"label": f"{RUN_LABEL}={run.run_id}"}
        for container in client.containers.list(all=True, ignore_removed=True, filters=ours):
            with engines.gone_is_fine():
                client.api.remove_container(container.id, force=True, v=True)
            removed.append(f"container {container.name}")
        for volume in client.volumes.list(filters=ours):
            with engines.gone_is_fine():
                volume.remove(force=True)
            removed.append(f"volume {volume.name[:12]}")
    return removed


class _MountRefused(Exception):
    """The engine cannot mount an overlay here: the environment must be copied."""


class DockerTransport:
    """The attached streams of a container's main process."""

    def __init__(self, stream: socket.socket, status: Iterator[str]) -> None:
        self._socket = stream
        self._buffer = b""
        self._status = status
        stream.settimeout(shells.START_S)

    def send(self, data: bytes) -> None:
        """Write to the shell."""
        self._socket.sendall(data)

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came from the shell, taken out of the engine's frames."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return []
        data = self._socket.recv(_CHUNK)
        if not data:
            raise EOFError
        self._buffer += data
        chunks: list[tuple[Stream, bytes]] = []
        while len(self._buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + size
            if len(self._buffer) < end:
                break
            chunks.append(
                ("stderr" if kind == _STDERR else "stdout", self._buffer[_HEADER.size : end])
            )
            self._buffer = self._buffer[end:]
        return chunks

    def lost(self) -> str:
        """Say what the engine says of the container."""
        return next(self._status, "")

    def close(self) -> None:
        """Let go of the streams: the container's shell ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class DockerConnection(shells.ShellConnection):
    """A control shell that is the main process of a container."""

    def __init__(
        self, host: Host, run: Run, image: str, environments: tuple[LinkedEnvironment, ...]
    ) -> None:
        import docker  # noqa: PLC0415 # 0.2 s, only for those who have such hosts

        self._host_name = host.name
        self._overlay: Path | None = None
        run.expect("docker", **engines.record(host))
        self._client = engines.client(host, run)
        self._docker: DockerTransport | None = None
        self._attached: Any = None
        self._id = ""
        try:
            mounts = [self._mount(run, host, one, docker) for one in environments]
            # Not the client's `containers`: it would inspect the container after making it.
            api = self._client.api
            limits = api.create_host_config(
                auto_remove=True,
                init=True,
                security_opt=["no-new-privileges:true"],
                network_mode="bridge" if host.network else "none",
                mem_limit=host.memory or MEMORY,
                pids_limit=host.pids or PIDS,
                # We read its streams; a log would keep all of it on the engine's disk as well.
                log_config={"type": "none"},
                mounts=mounts,
            )
            self._id = api.create_container(
                image,
                ["/bin/sh"],
                name=f"manualbuild-{run.run_id[:12]}-{host.name}-{os.urandom(3).hex()}",
                labels={RUN_LABEL: run.run_id, HOST_LABEL: host.name},
                stdin_open=True,
                tty=False,
                user="0",
                working_dir="/",
                entrypoint="",
                host_config=limits,
            )["Id"]
            attached = api.attach_socket(
                self._id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            self._attached = attached  # it owns the socket
            self._docker = DockerTransport(getattr(attached, "_sock", attached), self._statuses())
            api.start(self._id)
            super().__init__(
                self._docker,
                host=host.name,
                folder=f"{FOLDER}/run",
                run_id=run.run_id,
                also_kill=shells.KILL_ALL,
            )
        except docker.errors.APIError as error:
            self.close()
            if environments and "mount" in str(error).lower():
                raise _MountRefused from error
            raise HostUnavailable(
                f"{host.name}: the engine cannot start a container: {engines.reason(error)}.",
                remedy="Correct the matrix, or leave the host out with --on.",
            ) from error
        except OSError as error:
            self.close()
            raise engines.down(host, error) from error
        except BaseException:
            self.close()
            raise

    def _mount(self, run: Run, host: Host, environment: LinkedEnvironment, docker: Any) -> Any:  # noqa: ANN401
        name = hashlib.sha256(environment.prefix.encode()).hexdigest()[:12]
        if self._overlay is None:
            (run.folder / "overlay").mkdir(exist_ok=True)
            self._overlay = Path(tempfile.mkdtemp(dir=run.folder / "overlay", prefix=host.name))
        upper, work = self._overlay / name / "upper", self._overlay / name / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        options = {
            "type": "overlay",
            "device": "overlay",
            "o": f"lowerdir={environment.path},upperdir={upper},workdir={work}",
        }
        return docker.types.Mount(
            environment.prefix,
            None,
            type="volume",
            no_copy=True,
            labels={RUN_LABEL: run.run_id},
            driver_config=docker.types.DriverConfig("local", options),
        )

    def _statuses(self) -> Iterator[str]:
        """Say once, when asked, what the engine knows of the container."""
        with contextlib.suppress(Exception):
            state = self._client.api.inspect_container(self._id)["State"]
            if state.get("OOMKilled"):
                yield "The engine killed it: it used more memory than it may."
            yield f"The engine says that its container is {state.get('Status')}."
        yield "Its container is gone, or the engine does not answer."

    def copy(self, environments: Iterable[LinkedEnvironment]) -> None:
        """Copy environments into the container, each as one archive."""
        for environment in environments:
            with tempfile.TemporaryFile() as packed:
                with tarfile.open(fileobj=packed, mode="w") as archive:
                    archive.add(environment.path, environment.prefix.lstrip("/"))
                packed.seek(0)
                try:
                    self._client.api.put_archive(self._id, "/", packed)
                except Exception as error:
                    raise EnvironmentBroken(
                        f"{self._host_name}: the environment cannot be copied:"
                        f" {engines.reason(error)}.",
                        remedy="Is the engine's disk full, or its line cut?",
                    ) from error

    def check(self, environments: Iterable[LinkedEnvironment]) -> None:
        """See that every environment is where it must be; EnvironmentBroken otherwise."""
        if not self.has_folders([f"{one.prefix}/conda-meta" for one in environments]):
            raise EnvironmentBroken(
                f"{self._host_name}: the environment did not arrive in the container.",
                remedy="Run again; if it stays so, report it with the engine's version.",
            )

    def close(self) -> None:
        """Remove the container with its volumes, and the folders of its overlays."""
        if self._docker is not None:
            self._docker.close()
            self._docker = None
        if self._attached is not None:
            with contextlib.suppress(Exception):
                self._attached.close()
                response = getattr(self._attached, "_response", None)
                if response is not None:
                    response.close()
            self._attached = None
        if self._id:
            with engines.gone_is_fine():
                self._client.api.remove_container(self._id, force=True, v=True)
            self._id = ""
        self._client.close()
        if self._overlay is not None:
            shutil.rmtree(self._overlay, ignore_errors=True)


def _image(client: Any, host: Host, progress: Progress) -> Any:  # noqa: ANN401
    import docker  # noqa: PLC0415 # 0.2 s, only for those who have such hosts
    from docker.utils import parse_repository_tag  # noqa: PLC0415

    with contextlib.suppress(docker.errors.ImageNotFound):
        return client.images.get(host.image)
    progress(f"pulling {host.image}")
    repository, tag = parse_repository_tag(host.image or "")
    layers: dict[str, tuple[int, int]] = {}
    try:
        for line in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise docker.errors.APIError(line["error"])
            detail = line.get("progressDetail") or {}
            if detail.get("total"):
                layers[line.get("id", "")] = (detail.get("current", 0), detail["total"])
                done, total = (sum(values) for values in zip(*layers.values(), strict=True))
                progress(f"pulling {host.image} ({100 * done // total} %)")
        return client.images.get(host.image)
    except docker.errors.APIError as error:
        raise HostUnavailable(
            f"{host.name}: the image {host.image} is not here and cannot be pulled:"
            f" {engines.reason(error)}.",
            remedy="Correct its name in the matrix, or fetch or import it by hand.",
        ) from error


def _kept_facts(path: Path) -> Facts | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _keep(path: Path, found: Facts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(msgspec.to_builtins(found), file)
    Path(file.name).replace(path)


def _overlay_possible(engine: str | None, environments: Iterable[LinkedEnvironment]) -> bool:
    url = engine or os.environ.get("DOCKER_HOST", "unix://")
    odd = any(char in one.path for one in environments for char in ",:\\")
    return url.startswith("unix://") and not odd


PROVIDER = DockerProvider()
