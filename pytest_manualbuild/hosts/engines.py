"""Clients of Docker engines: on a socket here, over TLS, or on another machine over ssh.

An engine over ssh is reached through a socket that the OpenSSH client forwards,
under the same rules as hosts of kind ``ssh``: its host key must be known.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostError, HostUnavailable
from pytest_manualbuild.hosts.openssh import Client, environment
from pytest_manualbuild.hosts.pipes import PipeTransport
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.patience import patient

SOCKET = "/var/run/docker.sock"
"""Where an engine over ssh listens, unless its URL has a path."""
_API_S = 120
_TLS = ("HTTPS", "SSL", "tls:", "certificate")
"""Words of errors that are about certificates."""
_tunnels: dict[tuple[str | None, ...], _Tunnel] = {}
_versions: dict[str | None, Future[dict[str, Any]]] = {}
"""What each engine said of itself, by its URL, or says at this moment."""
_lock = threading.Lock()


class _Tunnel:
    """A socket on this machine that is the engine's on another; it ends with this process."""

    def __init__(self, host: Host, run: Run) -> None:
        url = urlsplit(host.engine or "")
        address = f"{url.username}@{url.hostname}" if url.username else str(url.hostname or "")
        self.folder = Path("/tmp") / f"mb-{secrets.token_hex(6)}"  # noqa: S108 # short, and ours alone
        run.expect("docker", **record(host), folder=str(self.folder))
        self.folder.mkdir(mode=0o700)
        self.url = f"unix://{self.folder}/d"
        self._pipes: PipeTransport | None = None
        atexit.register(self.close)
        try:
            self._client = Client(
                self.folder, address, port=url.port,
                ssh_config=host.ssh_config, identity_file=host.identity_file,
            )  # fmt: skip
            forward = f"{self.folder}/d:{url.path.rstrip('/') or SOCKET}"
            options = ("-L", forward, "-o", "ExitOnForwardFailure=yes")
            # It ends when its input does, so with this process.
            call = self._client.first("/bin/sh", "-c", "'echo up; exec cat'", options=options)
            self._pipes = PipeTransport(call, environment())
            self._wait(host)
        except BaseException:
            self.close()
            raise

    def _wait(self, host: Host) -> None:
        deadline = time.monotonic() + patient(shells.START_S)
        said = b""
        while self._pipes is not None and b"up\n" not in said:
            try:
                said += b"".join(data for _, data in self._pipes.receive(1.0))
            except (EOFError, OSError) as error:
                raise self._client.unreachable(host.name, self._pipes.last_words()) from error
            if time.monotonic() > deadline:
                raise self._client.unreachable(host.name, "it does not answer")

    def alive(self) -> bool:
        return self._pipes is not None and self._pipes.process.poll() is None

    def close(self) -> None:
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)


def remove_tunnel(folder: str) -> None:
    """Remove the folder of a tunnel, unless it is one of this process, which ends with it."""
    if not any(folder == str(tunnel.folder) for tunnel in _tunnels.values()):
        shutil.rmtree(folder, ignore_errors=True)


def record(host: Host) -> dict[str, str]:
    """Return what must be written down to reach the host's engine again."""
    return {
        "host": host.name,
        "engine": host.engine or "",
        "ssh_config": host.ssh_config or "",
        "identity_file": host.identity_file or "",
    }


def recorded(entry: dict[str, str]) -> Host:
    """Return a host on the engine of a record: the same one for all that it bears."""
    return Host(
        name="engine",
        kind="docker",
        subdir="",
        engine=entry.get("engine") or None,
        ssh_config=entry.get("ssh_config") or None,
        identity_file=entry.get("identity_file") or None,
    )


def client(host: Host, run: Run) -> Any:  # noqa: ANN401 # docker publishes no complete types
    """Return a new client of the host's engine; HostUnavailable where none answers."""
    where = url(host, run)
    version = str(_version(where, host.engine)["ApiVersion"])
    try:
        return _new_client(where, version)
    except Exception as error:
        raise _down(host.engine, error) from error


def version(host: Host, run: Run) -> dict[str, Any]:
    """Return what the host's engine says of itself."""
    return _version(url(host, run), host.engine)


@contextlib.contextmanager
def engine(host: Host, run: Run) -> Iterator[Any]:
    """Give a client of the host's engine; whatever it raises becomes a HostError."""
    made = client(host, run)
    try:
        yield made
    except HostError:
        raise
    except Exception as error:
        raise _down(host.engine, error) from error
    finally:
        made.close()


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Removing what removes itself, or an engine that is gone, is no reason to fail."""
    with contextlib.suppress(Exception):
        yield


def down(host: Host, error: BaseException) -> HostUnavailable:
    """Return the error for an engine that does not answer."""
    return _down(host.engine, error)


def reason(error: BaseException) -> str:
    """Return what an engine says in an error, in one line."""
    text = str(getattr(error, "explanation", None) or error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def url(host: Host, run: Run) -> str | None:
    """Return the URL of the host's engine on this machine; None: the client's own default."""
    if not (host.engine or "").startswith("ssh://"):
        return host.engine
    key = (host.engine, host.ssh_config, host.identity_file)
    with _lock:
        tunnel = _tunnels.get(key)
        if tunnel is None or not tunnel.alive():
            if tunnel is not None:
                tunnel.close()
            tunnel = _tunnels[key] = _Tunnel(host, run)
        return tunnel.url


def _new_client(url: str | None, version: str | None = None) -> Any:  # noqa: ANN401 # as above
    import docker  # noqa: PLC0415 # 0.2 s, only for those who have such hosts
    from docker.constants import MINIMUM_DOCKER_API_VERSION  # noqa: PLC0415 # as above

    # With "auto", a client whose engine is down would fail half-made, its sockets left open.
    version = version or MINIMUM_DOCKER_API_VERSION
    if url is None or url.startswith("tcp://"):
        # As for the docker command: DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say how to reach it.
        named = {**os.environ, **({"DOCKER_HOST": url} if url else {})}
        made = docker.from_env(timeout=_API_S, version=version, environment=named)
        # Else REQUESTS_CA_BUNDLE would replace the authority that was named for this engine.
        made.api.trust_env = not made.api.verify or made.api.verify is True
        return made
    return docker.DockerClient(base_url=url, timeout=_API_S, version=version)


def _version(url: str | None, engine: str | None) -> dict[str, Any]:
    """Return what an engine says of itself, asked once: it starts programs of its own for that."""
    with _lock:
        known = url in _versions
        version = _versions.setdefault(url, Future())
    if not known:
        try:
            version.set_result(_ask(url))
        except BaseException as error:
            _versions.pop(url, None)  # who comes later asks again
            version.set_exception(_down(engine, error))  # for all who wait
            if not isinstance(error, Exception):
                raise
    return version.result()


def _ask(url: str | None) -> dict[str, Any]:
    made = _new_client(url)
    try:
        return dict(made.api.version(api_version=False))
    finally:
        made.close()


def _down(engine: str | None, error: BaseException) -> HostUnavailable:
    said = reason(error)
    remedy = "Start it, or leave hosts of kind docker out with --on."
    if any(sign in said for sign in _TLS):
        remedy = "It wants TLS: set DOCKER_TLS_VERIFY, and DOCKER_CERT_PATH with its certificates."
    return HostUnavailable(
        f"The Docker engine ({engine or os.environ.get('DOCKER_HOST', 'default')}) does not"
        f" answer: {said}.",
        remedy=remedy,
    )
