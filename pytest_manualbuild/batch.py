"""Runs scripts on a host of Windows: batch files that are uploaded and run by their path.

Nothing is ever quoted into a command line, since cmd has no quotes that hold everything. Each
script is a process of its own, whose end says more than any word could; what a script says while
it runs are markers on both streams (see ``framing``). How files and processes get to the host is
the business of a ``Machine``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, Protocol

from pytest_manualbuild.errors import HostLost
from pytest_manualbuild.framing import Framing, Stream
from pytest_manualbuild.hosts.base import CommandResult, Event, Exit, collect
from pytest_manualbuild.shells import KILLED, SILENCE_S

_TAKE_S = 0.5
_END_S = 10.0
_PING = "@exit 0\n"


class Process(Protocol):
    """A batch file under way."""

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came within ``timeout_s``; EOFError when it ended and nothing more comes."""
        ...

    def status(self) -> int:
        """Return its exit status, after its end; a signal N is 128 + N."""
        ...

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        ...


class Machine(Protocol):
    """A way into a host of Windows."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files by their absolute path, with folders; HostLost where that fails."""
        ...

    def call(self, path: str) -> Process:
        """Run a batch file, with an empty standard input; HostLost where that fails."""
        ...

    def kill(self) -> tuple[str, ...]:
        """Kill every process that scripts started; return their names, as far as known."""
        ...

    def lost(self) -> str:
        """Return what became of the host, in a sentence; empty as long as it is there."""
        ...

    def close(self) -> None:
        """Release the host and everything made for it. Never raises; safe to call twice."""
        ...


class BatchConnection:
    """A connection to a host of Windows; ``Running`` as well, since one script runs at a time."""

    def __init__(self, machine: Machine, *, host: str, folder: str) -> None:
        """Take over a machine that is up; ``folder`` is for our scripts on it."""
        self._machine = machine
        self._host = host
        self._folder = folder
        self._process: Process | None = None
        self._number = 0
        self._framing, self._nonce = _fresh()

    @property
    def shell(self) -> Literal["sh", "cmd"]:
        """What scripts are written for; see ``hosts.base.Connection``."""
        return "cmd"

    def marker(self, text: str) -> str:
        """Return the line of a mark in the script that starts next."""
        return f"\x1e{self._nonce}:mark:{text}"

    def start(self, script: str) -> BatchConnection:
        """Start a batch script; see ``hosts.base.Connection``."""
        self._number += 1
        path = f"{self._folder}\\script{self._number}.bat"
        self._machine.write({path: _lines(script)})
        self._process = self._machine.call(path)
        return self

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next event; see ``hosts.base.Running``."""
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._framing.next()
            if isinstance(event, Exit):
                self._framing, self._nonce = _fresh()
            if event is not None:
                return event
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            if self._process is None:  # its end is known, and marks are put into order
                time.sleep(min(left_s, 0.05))
                continue
            self._receive(self._process, min(left_s, _TAKE_S))

    def _receive(self, process: Process, timeout_s: float) -> None:
        ended = False
        chunks: list[tuple[Stream, bytes]] = []
        try:
            chunks = process.receive(timeout_s)
        except EOFError:
            ended = True
        for stream, data in chunks:
            self._framing.feed(stream, data)
        # Also in silence: what waits inside a host that is gone may wait for ever.
        if not chunks and (how := self._machine.lost()):
            raise self._lost(how)
        if ended:
            self._over(process.status())

    def _over(self, status: int) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        self._framing.ended(status)

    def assure_alive(self) -> None:
        """Look whether the host is there; see ``hosts.base.Running``."""
        if how := self._machine.lost():
            raise self._lost(how)

    def kill(self) -> tuple[str, ...]:
        """Kill the script inside the host; see ``hosts.base.Running``."""
        names = self._machine.kill()
        deadline = time.monotonic() + _END_S
        while self._process is not None and time.monotonic() < deadline:
            self._receive(self._process, _TAKE_S)
        if self._process is not None:
            self._over(KILLED)
        self._ping()
        return names

    def _ping(self) -> None:
        """See that the host still runs what it is told to: else nobody but it is to blame."""
        path = f"{self._folder}\\ping.bat"
        self._machine.write({path: _lines(_PING)})
        process = self._machine.call(path)
        deadline = time.monotonic() + SILENCE_S
        try:
            while time.monotonic() < deadline:
                process.receive(_TAKE_S)
        except EOFError:
            if how := self._machine.lost():
                raise self._lost(how) from None
        else:
            raise self._lost(f"it did not answer within {SILENCE_S:g} s")
        finally:
            process.close()

    def settle(self) -> tuple[str, ...]:
        """Kill what scripts left behind; see ``hosts.base.Connection``."""
        found = names = self._machine.kill()
        deadline = time.monotonic() + SILENCE_S
        while found:
            if time.monotonic() > deadline:
                raise self._lost(f"these of its processes cannot be killed: {', '.join(found)}")
            found = self._machine.kill()
        return names

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a short script to its end; see ``hosts.base.Connection``."""
        done = collect(self.start(script), timeout_s)
        if done is None:
            raise self._lost(f"it did not finish a small script within {timeout_s:g} s")
        return done

    def look(self, script: str, *, timeout_s: float) -> bytes:
        """Return what a short script prints; see ``hosts.base.Connection``."""
        return self.run(script, timeout_s=timeout_s).stdout

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files below a folder of the host; see ``hosts.base.Connection``."""
        self._machine.write(
            {f"{folder}\\{name.replace('/', chr(92))}": data for name, data in files.items()}
        )

    def close(self) -> None:
        """Release the host; see ``hosts.base.Connection``."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._machine.close()

    def _lost(self, how: str) -> HostLost:
        return HostLost(
            f"{self._host}: the host was lost: {how}.",
            remedy="Look at the host and run again; this says nothing about the package.",
        )


def _fresh() -> tuple[Framing, str]:
    framing = Framing(lines=True)
    return framing, framing.begin()[0]


def _lines(script: str) -> bytes:
    """Return a script in the lines of Windows, in which alone cmd finds every label."""
    text = script.replace("\r\n", "\n").replace("\n", "\r\n")
    return text.encode(errors="surrogateescape")
