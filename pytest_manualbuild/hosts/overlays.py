"""Environments that containers see through overlays: they read one copy, and write into their own.

An engine on this machine reads the cache. Another one gets each environment once in a run, as one
archive into a volume, which also has the folders that the containers write into.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_manualbuild.errors import EnvironmentBroken
from pytest_manualbuild.hosts import engines
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

_PLACES = 64
"""Containers that may write beside one copy; the next ones get another copy."""
_volumes: dict[tuple[str, ...], _Volume] = {}
_lock = threading.Lock()


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """What is mounted at the prefix of one environment; the folders are on the engine's machine."""

    prefix: str
    lower: str
    upper: str
    work: str

    @property
    def options(self) -> dict[str, str]:
        """What the engine's ``local`` driver mounts, as ``mount`` takes it."""
        layers = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        return {"type": "overlay", "device": "overlay", "o": layers}


def on_this_machine(engine: str | None) -> bool:
    """Say whether an engine sees the folders of this machine."""
    return (engine or os.environ.get("DOCKER_HOST", "unix://")).startswith("unix://")


def possible(paths: Iterable[str]) -> bool:
    """Say whether the folders have names that the options of a mount can hold."""
    return not any(char in path for path in paths for char in ",:\\")


def here(folder: Path, environments: Iterable[LinkedEnvironment]) -> list[Overlay]:
    """Return overlays of environments on this machine, that write below a folder of their own."""
    made = []
    for one in environments:
        own = folder / hashlib.sha256(one.prefix.encode()).hexdigest()[:12]
        upper, work = own / "upper", own / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        made.append(Overlay(prefix=one.prefix, lower=one.path, upper=str(upper), work=str(work)))
    return made


def there(
    client: Any,  # noqa: ANN401 # docker publishes no complete types
    host: Host,
    run: Run,
    image: str,
    environments: Iterable[LinkedEnvironment],
    labels: dict[str, str],
) -> list[Overlay]:
    """Return overlays of environments on another machine, and send there what is not there yet.

    ``labels`` go to all that is made. Raises EnvironmentBroken where the sending fails.
    """
    made = []
    for one in environments:
        key = (host.engine or "", host.ssh_config or "", run.run_id, one.path, one.prefix)
        with _lock:
            volume = _volumes.setdefault(key, _Volume())
        with volume.lock:
            number = next(volume.numbers)
            if not volume.folder or number >= _PLACES:
                volume.folder = _send(client, host, image, one, labels)
                volume.numbers = itertools.count(1)
                number = 0
        own = f"{volume.folder}/places/{number}"
        made.append(
            Overlay(
                prefix=one.prefix,
                lower=f"{volume.folder}/environment",
                upper=f"{own}/upper",
                work=f"{own}/work",
            )
        )
    return made


@dataclass(kw_only=True)
class _Volume:
    """One environment on one engine, for one run."""

    folder: str = ""
    """Where it is on the engine's machine, once all of it arrived."""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _send(
    client: Any,  # noqa: ANN401 # as above
    host: Host,
    image: str,
    environment: LinkedEnvironment,
    labels: dict[str, str],
) -> str:
    """Send an environment into a new volume, by a container that never starts; return its folder.

    Both stay until the run is swept, which finds them by their labels: a volume that no container
    has would go with anybody's `docker volume prune`, from below those that read it.
    """
    at = "/environment"
    try:
        volume = client.volumes.create(labels=labels)
        container = client.containers.create(
            image, ["true"], labels=labels, entrypoint="", network_mode="none",
            volumes={volume.name: {"bind": at, "mode": "rw"}},
        )  # fmt: skip
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                _pack(archive, environment)
            packed.seek(0)
            client.api.put_archive(container.id, at, packed)
        return str(volume.attrs["Mountpoint"])
    except Exception as error:
        raise unsent(host.name, error) from error


def _pack(archive: tarfile.TarFile, environment: LinkedEnvironment) -> None:
    archive.add(environment.path, "environment")
    for number, name in itertools.product(range(_PLACES), ("", "/upper", "/work")):
        folder = tarfile.TarInfo(f"places/{number}{name}")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)


def unsent(host: str, error: BaseException) -> EnvironmentBroken:
    """Return the error for an environment that did not get to a container's machine."""
    return EnvironmentBroken(
        f"{host}: the environment cannot be copied: {engines.reason(error)}.",
        remedy="Is the engine's disk full, or its line cut?",
    )
