"""Environments that containers see through an overlay: they read one copy, and write their own.

All environments of a container are layers of one overlay: mounting one for each takes an engine
longer than to start the container. An engine on this machine reads the cache. Another one gets
each environment once in a run, as one archive into a volume, which also has the folders that the
containers write into.
"""

from __future__ import annotations

import itertools
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_manualbuild.errors import EnvironmentBroken
from pytest_manualbuild.hosts import engines
from pytest_manualbuild.hosts.base import ENVIRONMENTS
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

_SENT = "/environment"
"""Where a volume has its environment, below which it lies as in the container."""
_PLACES = 64
"""Containers that may write beside one copy; the next ones get another copy."""
_MOST_OPTIONS = 4095
"""Bytes of the options of a mount, which are one page of memory for the kernel, with a NUL."""
_volumes: dict[tuple[str, ...], _Volume] = {}
_lock = threading.Lock()


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """What is mounted in a container; the folders are on the engine's machine."""

    at: str
    lowers: tuple[str, ...]
    upper: str
    work: str

    @property
    def options(self) -> dict[str, str]:
        """What the engine's ``local`` driver mounts, as ``mount`` takes it."""
        lowers = ":".join(self.lowers)
        layers = f"lowerdir={lowers},upperdir={self.upper},workdir={self.work}"
        return {"type": "overlay", "device": "overlay", "o": layers}


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    """An environment on the engine's machine, to be seen at its prefix."""

    prefix: str
    path: str

    @property
    def shared(self) -> str:
        """The folder that holds it as ``ENVIRONMENTS`` is to hold it; empty: there is none."""
        tail = self.prefix.removeprefix(ENVIRONMENTS)
        fits = self.prefix.startswith(f"{ENVIRONMENTS}/") and self.path.endswith(tail)
        return self.path.removesuffix(tail) if fits else ""


def _overlays(layers: Sequence[_Layer], places: Sequence[tuple[str, str]]) -> list[Overlay]:
    """Return one overlay of as many layers as there may be, and one of each other layer.

    ``places`` has a pair of folders for each layer: for what an overlay writes, and for its work.
    """
    room = _MOST_OPTIONS - max(
        (len(os.fsencode(f"lowerdir=,upperdir={upper},workdir={work}")) for upper, work in places),
        default=0,
    )
    together: list[str] = []
    alone = []
    for layer in layers:
        size = len(os.fsencode(layer.shared)) + 1
        if layer.shared and size <= room:
            together.append(layer.shared)
            room -= size
        else:
            alone.append((layer.prefix, (layer.path,)))
    # Those that are alone may lie below the others: they are mounted after them.
    mounts = [*([(ENVIRONMENTS, tuple(together))] if together else []), *alone]
    return [
        Overlay(at=at, lowers=lowers, upper=upper, work=work)
        for (at, lowers), (upper, work) in zip(mounts, places, strict=False)
    ]


def on_this_machine(engine: str | None) -> bool:
    """Say whether an engine sees the folders of this machine."""
    return (engine or os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://")


def possible(paths: Iterable[str]) -> bool:
    """Say whether the folders have names that the options of a mount can hold."""
    return not any(char in path for path in paths for char in ",:\\")


def here(folder: Path, environments: Iterable[LinkedEnvironment]) -> list[Overlay]:
    """Return overlays of environments on this machine, that write below a folder of their own."""
    layers = [_Layer(prefix=one.prefix, path=one.path) for one in environments]
    places = [(str(folder / f"{n}"), str(folder / f"{n}-work")) for n in range(len(layers))]
    made = _overlays(layers, places)
    for path in (path for one in made for path in (one.upper, one.work)):
        Path(path).mkdir()
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
    layers, places = [], []
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
            layers.append(_Layer(prefix=one.prefix, path=f"{volume.folder}{_SENT}{one.prefix}"))
            place = f"{volume.folder}/places/{number}"
            places.append((f"{place}/upper", f"{place}/work"))
    return _overlays(layers, places)


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
    archive.add(environment.path, f"{_SENT}{environment.prefix}".lstrip("/"))
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
