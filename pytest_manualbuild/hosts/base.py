"""The seam of this folder: what a kind of host must offer.

A provider makes hosts ready and removes them; a connection talks to one that
is up. Neither knows what a check is: the engine (``execution``) decides what
runs, and blames nobody but the host for what is raised here (``HostError``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.records import LinkedEnvironment

Progress = Callable[[str], None]
"""Called with a few words on what goes on, such as ``pulling debian:12 (40 %)``."""

FOLDER = "/opt/manualbuild"
"""Where our files go on a host whose root is its own."""
ENVIRONMENTS = f"{FOLDER}/env"
"""Where the environments go there: they may be one view that is mounted."""
MEMORY = "4g"
PIDS = 1024
"""Limits of a host whose matrix entry names none."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that the script wrote, exactly as they came."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The script called ``mark TEXT``; all its output before that has been handed out."""

    text: str


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The script ended; nothing follows. A signal N shows as 128 + N."""

    status: int


Event = Output | Mark | Exit


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one short script did, with its whole output."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host wants an environment to be linked for it."""

    root: str
    """Folder on the host below which the (padded) prefix goes; no trailing slash."""
    folder: str
    """Folder on the host for the files of the tests; no trailing slash."""
    in_place: bool
    """True: link straight into the prefix, which is on this machine, for this host alone.
    False: link once into the cache; the provider shows a copy-on-write view of it at the prefix."""


def in_own_root(sha256: str) -> Placement:
    """Return where an environment goes on a host whose root is its own; linked in the cache."""
    name = sha256[:8]
    return Placement(root=f"{ENVIRONMENTS}/{name}", folder=f"{FOLDER}/{name}", in_place=False)


class Running(Protocol):
    """A script under way on a host."""

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next event, or None if there is none within ``timeout_s`` seconds.

        Raises HostLost when the connection broke or the host stopped answering
        (a paused container), which is found out by itself while waiting.
        """
        ...

    def assure_alive(self) -> None:
        """Wait for a sign of life that the host gives from now on; HostLost when none comes.

        Events that come meanwhile stay for ``next_event``.
        """
        ...

    def kill(self) -> tuple[str, ...]:
        """Kill the script and all its descendants inside the host, at once.

        Returns the names of what was killed, as far as the host can say. Events that follow end
        with an Exit. Raises HostLost when the host does not answer.
        """
        ...


def collect(running: Running, timeout_s: float) -> CommandResult | None:
    """Return what a script did with its whole output; None if it did not end in that time."""
    deadline = time.monotonic() + timeout_s
    output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    while (left_s := deadline - time.monotonic()) > 0:
        event = running.next_event(left_s)
        if isinstance(event, Output):
            output[event.stream] += event.data
        elif isinstance(event, Exit):
            return CommandResult(
                exit_status=event.status,
                stdout=bytes(output["stdout"]),
                stderr=bytes(output["stderr"]),
            )
    return None


class Connection(Protocol):
    """A way into a host that is up, for one thread at a time."""

    @property
    def shell(self) -> Literal["sh", "cmd"]:
        """What scripts are written for: bash, or the command processor of Windows."""
        ...

    def marker(self, text: str) -> str:
        """Return what puts a Mark into the events when a program writes it as a line.

        For hosts of ``cmd``, whose scripts have no function for it.
        """
        ...

    def start(self, script: str, *, plain: bool = False) -> Running:
        """Start a script in its own process group, with an empty standard input.

        In bash it may call the shell function ``mark TEXT`` (defined for it,
        not exported) to put a Mark into the events. It inherits a built
        environment (PATH of the system, HOME, TMPDIR, LANG=C.UTF-8 and nothing
        of the caller's). Only one script runs at a time.

        A ``plain`` script is of POSIX sh and ASCII, and runs nothing of a package in its own
        shell, so that a copy of one that is there will do. It starts a bash in a process group by
        ``_mb_apart PATH bash``, which runs what is in ``_mb_define`` before anything else: where
        that never began, the host is lost. Batch is never plain.
        """
        ...

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a short script to its end; HostLost when it takes longer than ``timeout_s``."""
        ...

    def look(self, script: str, *, timeout_s: float) -> bytes:
        """Return what a short script prints that reads the host and changes nothing there.

        It is of POSIX sh where ``run`` wants bash: no process begins for it alone. HostLost
        when it takes longer than ``timeout_s``.
        """
        ...

    def settle(self) -> tuple[str, ...]:
        """Kill what scripts that ended left behind; return its names, as far as known.

        Raises HostLost when something cannot be killed, or the host does not answer.
        """
        ...

    def environment(self) -> dict[str, str]:
        """Return the variables that every script begins with, and no others."""
        ...

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files (relative paths with ``/``) below an absolute folder, which is made."""
        ...

    def make(self, folders: Sequence[str]) -> None:
        """Make absolute folders, so that ``put`` need not make each by itself."""
        ...

    def close(self) -> None:
        """Release the host and everything made for it. Never raises; safe to call twice."""
        ...


class Provider(Protocol):
    """Makes and removes the hosts of one kind."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return the host's facts, fetching its image if it is missing.

        What cannot change without the image changing may come from a cache.
        Raises HostUnavailable with what to do.
        """
        ...

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Say where the environment of a package goes on that host."""
        ...

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> Connection:
        """Start the host with these environments at their prefixes, and connect.

        Records what it is about to make with ``run.expect`` before it makes it.
        Raises HostUnavailable (the host) or EnvironmentBroken (the delivery).
        """
        ...

    def sweep(self, run: Run) -> list[str]:
        """Remove whatever that (dead or ended) run left of this kind; say what was removed."""
        ...
