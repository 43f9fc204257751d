"""The pipes of processes on this machine, whatever these lead to."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.framing import Stream

ENVIRONMENT: Mapping[str, str] = {"PATH": shells.SYSTEM_PATH, "LANG": "C.UTF-8"}
"""What such a process gets: nothing of the caller's."""
_CHUNK = 64 * 1024
_LAST_WORDS = 2000


class PipeTransport:
    """A control shell: a process in a session of its own, with no terminal to ask anybody on."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> None:
        """Start the process; HostUnavailable where the program is missing."""
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise HostUnavailable(
                f"{argv[0]} cannot be started: {error.strerror}.",
                remedy=f"Install {argv[0]}, or leave such hosts out with --on.",
            ) from error
        self._last_words = b""
        self._selector = selectors.DefaultSelector()
        for stream, pipe in (("stdout", self.process.stdout), ("stderr", self.process.stderr)):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, stream)

    def send(self, data: bytes) -> None:
        """Write to the shell."""
        if self.process.stdin is not None:
            view = memoryview(data)
            while view:
                view = view[self.process.stdin.write(view) :]

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came from the shell."""
        chunks: list[tuple[Stream, bytes]] = []
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, _CHUNK)
            if not data:
                self._keep_last_words(chunks)
                raise EOFError
            chunks.append((key.data, data))
        self._keep_last_words(chunks)
        return chunks

    def _keep_last_words(self, chunks: list[tuple[Stream, bytes]]) -> None:
        said = b"".join(data for stream, data in chunks if stream == "stderr")
        self._last_words = (self._last_words + said)[-_LAST_WORDS:]

    def lost(self) -> str:
        """Say how the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"Its control shell ended with status {self.process.wait(0.5)}."
        return ""

    def last_words(self) -> str:
        """Return the end of what the process wrote to its standard error, read to its end."""
        with contextlib.suppress(EOFError, OSError):
            while self.receive(0.5):
                pass
        return self._last_words.decode(errors="backslashreplace").strip()

    def hang_up(self, timeout_s: float) -> bool:
        """Close the shell's input, and say whether the process ended by itself in that time."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(EOFError, OSError):
            while (left_s := deadline - time.monotonic()) > 0:
                self.receive(left_s)
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the process and its session; safe to call twice."""
        self._selector.close()
        _end(self.process)


class PipedProcess:
    """A process that is given nothing to read, and may leave others that keep its streams open."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        self._process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._selector = selectors.DefaultSelector()
        for stream, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, stream)

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came within ``timeout_s``; EOFError when it ended and nothing more comes."""
        if not self._selector.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
                raise EOFError
            return []
        ended = self._process.poll() is not None  # before the look: nothing of its own comes after
        chunks: list[tuple[Stream, bytes]] = []
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            if data := os.read(key.fd, _CHUNK):
                chunks.append((key.data, data))
            else:
                self._selector.unregister(key.fileobj)
        if ended and not ready:
            raise EOFError
        return chunks

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        self._selector.close()
        _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its session, and close what it was given."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
