"""How many hosts of one engine or machine may be up at once, over all runs of a user.

A turn is the lock of one of so many files, so that workers and other runs on
this machine count, and a killed process gives its turn back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator

from pytest_manualbuild.errors import Interrupted
from pytest_manualbuild.hosts.base import Progress
from pytest_manualbuild.hosts.runs import cache_folder
from pytest_manualbuild.model import Host

_LOOK_AGAIN_S = 0.1


@contextlib.contextmanager
def turn(host: Host, stopped: Callable[[], bool], progress: Progress) -> Iterator[None]:
    """Hold one of the ``at_once`` turns of the host's engine or machine, waiting for a free one.

    Raises Interrupted when ``stopped`` says so meanwhile.
    """
    if host.at_once is None:
        yield
        return
    folder = cache_folder() / "turns"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(machine(host).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as files:
        descriptors = []
        for number in range(host.at_once):
            path = folder / f"{key}-{number}"
            descriptors.append(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            files.callback(os.close, descriptors[-1])
        while not any(map(_taken, descriptors)):
            if stopped():
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            progress("waiting for its turn")
            time.sleep(_LOOK_AGAIN_S)
        yield


def machine(host: Host) -> str:
    """Return what names the engine or machine that bears the host."""
    if host.kind == "docker":
        return host.engine or os.environ.get("DOCKER_HOST", "docker")
    return (host.address or "this machine").rpartition("@")[2]


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
