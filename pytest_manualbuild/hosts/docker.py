"""Hosts of kind ``docker``: containers of any engine that speaks Docker's API.

The container's main process is our control shell, and its standard input is
our connection: when the controller dies, the shell reads end of file, ends,
and the engine removes the container by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.errors import EnvironmentBroken, HostUnavailable, during
from pytest_manualbuild.hosts import engines, facts, images, kept, overlays
from pytest_manualbuild.hosts.attached import DockerTransport
from pytest_manualbuild.hosts.base import FOLDER, MEMORY, PIDS, Placement, Progress, in_own_root
from pytest_manualbuild.hosts.kept import Call, Kept
from pytest_manualbuild.hosts.overlays import Overlay
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

LIBRARIES = ("docker",)
"""What takes long to import, and is not needed by who has no such hosts."""
RUN_LABEL = "io.pytest-manualbuild.run"
HOST_LABEL = "io.pytest-manualbuild.host"
_GONE_S = 30
_END_S = 5.0
"""How long a container may take to end and to be removed when its shell was told to end."""
_ASK_S = 0.5
"""How long the engine may take to say so, until it is asked again."""
# An engine that makes no network writes no such file either; tests ask for both of these names.
_HOSTS = """\
_mb_name=
[ ! -r /etc/hostname ] || read -r _mb_name </etc/hostname
[ -s /etc/hosts ] || printf '%s\\t%s\\n' 127.0.0.1 "localhost $_mb_name" \\
  ::1 'localhost ip6-localhost ip6-loopback' >/etc/hosts
"""


class DockerProvider:
    """Makes a container a host, from the image that the matrix names."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return the facts of the image (kept by its id) and of the engine's kernel."""
        with engines.engine(host, run) as client:
            image = images.image(client, host, progress)
            kernel = engines.version(host, run).get("KernelVersion", "")
            file = cache_folder() / "facts" / f"{image.id.replace(':', '-')}.json"
            found = facts.kept(file)
            if found is None:
                progress("asking the image what it is")
                connection = DockerConnection(host, run, image.id)
                try:
                    found = facts.ask(host.name, connection)
                finally:
                    connection.close()
                facts.keep(file, found)
            digests = image.attrs.get("RepoDigests") or [image.id]
            return replace(found, kernel=kernel, image_digest=digests[0])

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in the container; they are linked once, in the cache."""
        del host, run
        return in_own_root(package_sha256)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> DockerConnection:
        """Start a container with an overlay of the environments, or with copies of them."""
        wanted = tuple(environments)
        with engines.engine(host, run) as client:
            image = images.image(client, host, progress)
            folder, layers = _overlays(client, host, run, image.id, wanted, progress)
        try:
            connection = DockerConnection(host, run, image.id, layers, folder)
        except _MountRefused:
            layers = []
            connection = DockerConnection(host, run, image.id)
        try:
            with during("delivering"):
                if not layers:
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

    @contextlib.contextmanager
    def call(self, one: Kept, run: Run, words: Sequence[str], *, terminal: bool) -> Iterator[Call]:
        """Give a call of the engine's own client, whose terminals know all that one may want."""
        program = shutil.which("docker")
        if program is None:
            raise HostUnavailable(
                f"{one.host.name}: the program `docker` is not on PATH.",
                remedy="Install the Docker client: a shell in a container needs it.",
            )
        with engines.engine(one.host, run) as client:
            if not client.containers.list(filters={"id": one.what["place"]}):
                raise HostUnavailable(
                    f"{one.host.name}: its container is gone.",
                    remedy="Run the tests again with --keep failed.",
                )
        url = engines.url(one.host, run)
        argv = [program, *(["-H", url] if url else []), "exec", "-i", *["-t"] * terminal]
        yield Call(argv=(*argv, one.what["place"], *words), environment=os.environ)

    def resume(
        self,
        one: Kept,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> DockerConnection:
        """Talk to the kept container's shell again, and copy environments into it."""
        wanted = tuple(environments)
        connection = DockerConnection(host, run, "", again=one)
        try:
            with during("delivering"):
                progress("copying the environments")
                connection.clear(FOLDER)
                connection.copy(wanted)
                connection.check(wanted)
        except BaseException:
            connection.close()
            raise
        return connection

    def remove(self, one: Kept, run: Run) -> list[str]:
        """Remove the kept container with its volumes, and the folders of its overlays."""
        with engines.engine(one.host, run) as client:
            there = client.containers.list(all=True, filters={"id": one.what["place"]})
            for container in there:
                client.api.remove_container(container.id, force=True, v=True)
        if one.what["folder"]:
            shutil.rmtree(one.what["folder"], ignore_errors=True)
        return [f"container {container.name}" for container in there]


def _remove_all(host: Host, run: Run) -> list[str]:
    removed = []
    with engines.engine(host, run) as client:
        ours = {"label": f"{RUN_LABEL}={run.run_id}"}
        spared = kept.places(run.run_id)
        found = [one for one in _containers(client, ours) if one["Id"] not in spared]
        for container in found:
            with engines.gone_is_fine():
                client.api.remove_container(container["Id"], force=True, v=True)
        _wait_until_gone(client, ours, {container["Id"] for container in found})
        removed += [f"container {container['Names'][0].lstrip('/')}" for container in found]
        for volume in client.volumes.list(filters={**ours, "dangling": True}):
            with engines.gone_is_fine():
                volume.remove(force=True)
            removed.append(f"volume {volume.name[:12]}")
    return removed


def _containers(client: Any, ours: dict[str, str]) -> list[dict[str, Any]]:  # noqa: ANN401 # as in engines
    return list(client.api.containers(all=True, filters=ours))


def _wait_until_gone(client: Any, ours: dict[str, str], names: set[str]) -> None:  # noqa: ANN401 # as in engines
    """See containers go; an engine that is removing one already refuses to do it once more."""
    deadline = time.monotonic() + _GONE_S
    while left := names.intersection(one["Id"] for one in _containers(client, ours)):
        if time.monotonic() > deadline:
            raise HostUnavailable(
                f"The engine did not remove the container {min(left)[:12]} in {_GONE_S} s.",
                remedy="Look at it with `docker inspect`, then `manualbuild hosts sweep` again.",
            )
        time.sleep(0.05)


class _MountRefused(Exception):
    """The engine cannot mount an overlay here: the environment must be copied."""


def _overlays(
    client: Any,  # noqa: ANN401 # as in engines
    host: Host,
    run: Run,
    image: str,
    environments: Sequence[LinkedEnvironment],
    progress: Progress,
) -> tuple[Path | None, list[Overlay]]:
    """Return overlays of the environments, none where they must be copied, and their folder here.

    A container that is kept has copies of its own on another machine: what containers share
    there goes with the run.
    """
    if not environments or not overlays.possible(one.path for one in environments):
        return None, []
    if overlays.on_this_machine(host.engine):
        (run.folder / "overlay").mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=run.folder / "overlay", prefix=host.name))
        return folder, overlays.here(folder, environments)
    if run.keeps:
        return None, []
    with during("delivering"):
        progress("copying the environments")
        run.expect("docker", **engines.record(host))
        labels = {RUN_LABEL: run.run_id, HOST_LABEL: host.name}
        return None, overlays.there(client, host, run, image, environments, labels)


class DockerConnection(shells.ShellConnection):
    """A control shell that is the main process of a container."""

    def __init__(
        self,
        host: Host,
        run: Run,
        image: str,
        layers: Sequence[Overlay] = (),
        folder: Path | None = None,
        again: Kept | None = None,
    ) -> None:
        """Start a container with these overlays, or go on with one ``again``.

        ``folder`` has what the overlays write, on this machine, and goes with the connection.
        """
        import docker  # noqa: PLC0415 # 0.2 s, only for those who have such hosts

        self._host_name = host.name
        self._overlay = folder
        run.expect("docker", **engines.record(host))
        self._client = engines.client(host, run)
        self._docker: DockerTransport | None = None
        self._attached: Any = None
        self._id = ""
        self._answered = False
        # Not the client's `containers`: it would inspect the container after making it.
        api = self._client.api
        try:
            if again is None:
                mounts = [_mount(one, run, docker) for one in layers]
                self._id = self._create(run, host, image, mounts)
            else:
                self._same_shell(again)
            attached = api.attach_socket(
                again.what["place"] if again else self._id,
                params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1},
            )
            self._attached = attached  # it owns the socket
            self._docker = DockerTransport(getattr(attached, "_sock", attached), self._statuses())
            if again is None:
                api.start(self._id)
            super().__init__(
                self._docker,
                host=host.name,
                folder=f"{FOLDER}/run",
                run_id=run.run_id,
                also_kill=shells.KILL_ALL,
                prepare=_HOSTS,
            )
            self._answered = True
            if again is not None:  # until now it stays whatever happens
                self._id = again.what["place"]
                self._overlay = Path(again.what["folder"]) if again.what["folder"] else None
        except docker.errors.APIError as error:
            self.close()
            if layers and "mount" in str(error).lower():
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

    def _create(self, run: Run, host: Host, image: str, mounts: Sequence[Any]) -> str:
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
            mounts=list(mounts),
        )
        made = api.create_container_config(
            image,
            list(shells.CONTROL),
            labels={RUN_LABEL: run.run_id, HOST_LABEL: host.name},
            stdin_open=True,
            tty=False,
            user="0",
            working_dir="/",
            entrypoint="",
            host_config=limits,
            # Of two ways to cut a container off, the one that costs the engine nothing.
            network_disabled=not host.network,
        )
        # A kept host outlives its shell's input; any other one ends with this process.
        made["StdinOnce"] = not run.keeps
        name = f"manualbuild-{run.run_id[:12]}-{host.name}-{os.urandom(3).hex()}"
        return str(api.create_container_from_config(made, name)["Id"])

    def _same_shell(self, again: Kept) -> None:
        """Refuse a kept container whose shell may have what is in the environment of its image."""
        made = self._client.api.inspect_container(again.what["place"])
        if made["Config"]["Cmd"] != list(shells.CONTROL):
            raise HostUnavailable(
                f"{self._host_name}: another version of pytest-manualbuild made it.",
                remedy="Remove the kept host: `manualbuild hosts sweep`.",
            )

    def _statuses(self) -> Iterator[str]:
        """Say once, when asked, what the engine knows of the container."""
        with contextlib.suppress(Exception):
            state = self._client.api.inspect_container(self._id)["State"]
            if state.get("OOMKilled"):
                yield "The engine killed it: it used more memory than it may."
            yield f"The engine says that its container is {state.get('Status')}."
        yield "Its container is gone, or the engine does not answer."

    def clear(self, folder: str) -> None:
        """Remove all files below a folder; EnvironmentBroken if one stays."""
        # Folders where something is mounted stay, and are empty.
        script = (
            f"find {folder} -depth -mindepth 1 -delete 2>/dev/null\n"
            f'[ -z "$(find {folder} ! -type d)" ] && mkdir -p "$HOME" "$TMPDIR"\n'
        )
        if self.run(script, timeout_s=patient(shells.PUT_S)).exit_status != 0:
            raise EnvironmentBroken(
                f"{self._host_name}: what an earlier run left in {folder} cannot be removed.",
                remedy="Remove the kept host: `manualbuild hosts sweep`.",
            )

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
                    raise overlays.unsent(self._host_name, error) from error

    def check(self, environments: Iterable[LinkedEnvironment]) -> None:
        """See that every environment is where it must be; EnvironmentBroken otherwise."""
        if not self.has_folders([f"{one.prefix}/conda-meta" for one in environments]):
            raise EnvironmentBroken(
                f"{self._host_name}: the environment did not arrive in the container.",
                remedy="Run again; if it stays so, report it with the engine's version.",
            )

    def keep(self) -> dict[str, str]:
        """Let go of the container's shell, which waits for whoever comes next."""
        made = {"place": self._id, "folder": str(self._overlay or "")}
        self._id, self._overlay = "", None
        self.close()
        return made

    def close(self) -> None:
        """Remove the container with its volumes, and the folders of its overlays."""
        ends = self._end()
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
            if not (ends and self._removes_itself()):
                with engines.gone_is_fine():
                    self._client.api.remove_container(self._id, force=True, v=True)
            self._id = ""
        self._client.close()
        if self._overlay is not None:
            shutil.rmtree(self._overlay, ignore_errors=True)

    def _removes_itself(self) -> bool:
        """Wait until the container is gone; say whether it is.

        Who asks just when it was removed is never answered: the engine tells those who asked
        before, and knows nothing of it to those who ask after (apocas/dockerode#596).
        """
        import docker  # noqa: PLC0415 # see __init__
        import requests  # noqa: PLC0415 # see __init__

        deadline = time.monotonic() + patient(_END_S)
        while time.monotonic() < deadline:
            try:
                said = self._client.api.wait(self._id, _ASK_S, condition="removed")
            except docker.errors.NotFound:
                return True
            except requests.Timeout:
                continue
            except Exception:  # noqa: BLE001 # whatever it is, it is not known to be gone
                return False
            return not said.get("Error")  # an engine answers as well when it could not remove it
        return False

    def _end(self) -> bool:
        """Tell the shell to end, and the container with it; say whether one can wait for that.

        An engine that is to kill a container begins a program for it.
        """
        return bool(self._id and self._docker and self._answered and self._docker.end())


def _mount(overlay: Overlay, run: Run, docker: Any) -> Any:  # noqa: ANN401 # as in engines
    return docker.types.Mount(
        overlay.at,
        None,
        type="volume",
        no_copy=True,
        labels={RUN_LABEL: run.run_id},
        driver_config=docker.types.DriverConfig("local", overlay.options),
    )


PROVIDER = DockerProvider()
