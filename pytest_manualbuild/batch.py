"""Runs scripts on a host of Windows: batch files that are uploaded and run by their path.

Nothing is ever quoted into a command line, since cmd has no quotes that hold everything. A batch
file of ours runs each script as a process of its own, and says how it ended; what it and the
script say are markers on both streams (see ``framing``). Where the end is not said, it is not
known: lines and servers pass on less of an exit status than Windows has, and end with one
themselves. How files and processes get to the host is the business of a ``Machine``.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pytest_manualbuild.errors import EnvironmentBroken, HostLost
from pytest_manualbuild.framing import Framing, Stream
from pytest_manualbuild.hosts.base import CommandResult, Event, Exit, collect
from pytest_manualbuild.patience import patient
from pytest_manualbuild.shells import KILLED, SILENCE_S

_TAKE_S = 0.5
_END_S = 10.0
_ALONE_S = 2.0
"""How long the reason may take to show why a script ended without saying how."""
# A variable of the name ERRORLEVEL would hide what the script returned. The streams come first in
# a line, where no digit before them can be taken for the number of one.
_CALL = """\
@echo off
set "ERRORLEVEL="
%SystemRoot%\\System32\\cmd.exe /d /c {path} <nul
>&1 echo \x1e{nonce}:exit:%ERRORLEVEL%
>&2 echo \x1e{nonce}:exit:%ERRORLEVEL%
"""


class Process(Protocol):
    """A batch file under way."""

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came within ``timeout_s``; EOFError when it ended and nothing more comes."""
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
    """A connection to a host of Windows."""

    def __init__(self, machine: Machine, *, host: str, folder: str) -> None:
        """Take over a machine that is up; ``folder`` is for our scripts on it."""
        self._machine = machine
        self._host = host
        self._folder = folder
        self._number = 0
        self._next = _Words()
        self._script: _Script | None = None

    @property
    def shell(self) -> Literal["sh", "cmd"]:
        """What scripts are written for; see ``hosts.base.Connection``."""
        return "cmd"

    def marker(self, text: str) -> str:
        """Return the line of a mark in the script that starts next."""
        return f"\x1e{self._next.mark}:mark:{text}"

    def start(self, script: str, *, plain: bool = False) -> _Script:
        """Start a batch script; see ``hosts.base.Connection``."""
        del plain  # each has a cmd of its own
        self._release()
        if how := self._machine.lost():
            # Wine would go on with a server that knows nothing of what ran before.
            raise self.lost(how)
        self._number += 1
        path = f"{self._folder}\\script{self._number}.bat"
        call = f"{self._folder}\\call{self._number}.bat"
        words, self._next = self._next, _Words()
        calls = _CALL.format(path=path, nonce=words.ended)
        self._machine.write({path: _lines(script), call: _lines(calls)})
        self._script = _Script(self, self._machine, self._machine.call(call), words.framing)
        return self._script

    def _release(self) -> None:
        if self._script is not None:
            self._script.close()
            self._script = None

    def ping(self) -> None:
        """See that the host still runs what it is told to, beside its script; HostLost if not."""
        word = secrets.token_hex(8)
        path = f"{self._folder}\\ping.bat"
        self._machine.write({path: _lines(f"@echo {word}\n")})
        process = self._machine.call(path)
        heard = b""
        deadline = time.monotonic() + (silence_s := patient(SILENCE_S))
        try:
            while word.encode() not in heard:
                if time.monotonic() > deadline:
                    raise self.lost(f"it did not answer within {silence_s:g} s")
                heard += b"".join(data for _, data in process.receive(_TAKE_S))
        except EOFError:
            how = self._machine.lost() or "it does not run what it is told to"
            raise self.lost(how) from None
        finally:
            process.close()

    def settle(self) -> tuple[str, ...]:
        """Kill what scripts left behind; see ``hosts.base.Connection``."""
        found = names = self._machine.kill()
        deadline = time.monotonic() + patient(SILENCE_S)
        while found:
            if time.monotonic() > deadline:
                raise self.lost(f"these of its processes cannot be killed: {', '.join(found)}")
            found = self._machine.kill()
        return names

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a short script to its end; see ``hosts.base.Connection``."""
        done = collect(self.start(script), timeout_s)
        if done is None:
            raise self.lost(f"it did not finish a small script within {timeout_s:g} s")
        return done

    def look(self, script: str, *, timeout_s: float) -> bytes:
        """Return what a short script prints; see ``hosts.base.Connection``."""
        return self.run(script, timeout_s=timeout_s).stdout

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files below a folder of the host; see ``hosts.base.Connection``."""
        for name in files:
            # On the way there a backslash separates folders, and may lead out of all of them.
            if re.search(r"[\\:]", name) or ".." in name.split("/"):
                raise EnvironmentBroken(
                    f"{self._host}: no file on Windows can be named {name!r}.",
                    remedy="Give it another name in the recipe.",
                )
        self._machine.write(
            {f"{folder}\\{name.replace('/', chr(92))}": data for name, data in files.items()}
        )

    def make(self, folders: Sequence[str]) -> None:
        """Make no folders: here they come with the files, and are made by the scripts."""

    def close(self) -> None:
        """Release the host; see ``hosts.base.Connection``."""
        self._release()
        self._machine.close()

    def lost(self, how: str) -> HostLost:
        """Return the error for a host that is gone, or does not do what it is told to."""
        return HostLost(
            f"{self._host}: the host was lost: {how}.",
            remedy="Look at the host and run again; this says nothing about the package.",
        )


class _Script:
    """A script under way; see ``hosts.base.Running``."""

    def __init__(
        self, connection: BatchConnection, machine: Machine, process: Process, framing: Framing
    ) -> None:
        self._connection, self._machine = connection, machine
        self._process: Process | None = process
        self._framing = framing
        self._killed = False

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next event; see ``hosts.base.Running``."""
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._framing.next()
            if isinstance(event, Exit):
                self.close()
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
        try:
            chunks = process.receive(timeout_s)
        except EOFError:
            self._over()
            return
        for stream, data in chunks:
            self._framing.feed(stream, data)
        # Also in silence: what waits inside a host that is gone may wait for ever.
        if not chunks and (how := self._machine.lost()):
            raise self._connection.lost(how)

    def _over(self) -> None:
        """Note that nothing more comes: how it ended was said before that, or is never known."""
        self.close()
        self._framing.closed()
        if self._framing.exited:
            return
        deadline = time.monotonic() + _ALONE_S
        while not self._killed:
            if how := self._machine.lost():
                raise self._connection.lost(how)
            if time.monotonic() > deadline:
                raise self._connection.lost("its script ended, and nothing says how")
            time.sleep(0.05)
        self._framing.ended(KILLED)

    def assure_alive(self) -> None:
        """See that the host runs something else meanwhile; see ``hosts.base.Running``."""
        self._connection.ping()

    def kill(self) -> tuple[str, ...]:
        """Kill the script inside the host; see ``hosts.base.Running``."""
        self._killed = True
        names = self._machine.kill()
        deadline = time.monotonic() + _END_S
        while self._process is not None and time.monotonic() < deadline:
            self._receive(self._process, _TAKE_S)
        if self._process is not None:
            self._over()
        # Else nobody but the host is to blame.
        self._connection.ping()
        return names

    def close(self) -> None:
        """Let go of its process; safe to call twice."""
        if self._process is not None:
            self._process.close()
            self._process = None


class _Words:
    """What takes the words of one script out of its output, and with which nonces it says them."""

    def __init__(self) -> None:
        self.framing = Framing(lines=True)
        self.mark, self.ended = self.framing.begin()


def _lines(script: str) -> bytes:
    """Return a script in the lines of Windows, in which alone cmd finds every label."""
    text = script.replace("\r\n", "\n").replace("\n", "\r\n")
    return text.encode(errors="surrogateescape")
