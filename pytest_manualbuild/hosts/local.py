"""Hosts of kind ``local``: this machine, in a session and folders of its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts import facts
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.matrix import local_subdir
from pytest_manualbuild.model import Facts, Host, LinkedEnvironment

_CHUNK = 64 * 1024
# A process that is just starting a program shows no environment for a moment.
_QUIET_LOOKS = 2
_LOOK_AGAIN_S = 0.01
_KILL_S = 10.0
_ENVIRONMENT = {"PATH": shells.SYSTEM_PATH, "LANG": "C.UTF-8"}


class LocalProvider:
    """Runs tests on this machine: nothing is started, and nothing but processes can be undone."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return this machine's facts."""
        del run, progress
        if host.subdir != local_subdir():
            raise HostUnavailable(
                f"{host.name}: this machine is {local_subdir()}, not {host.subdir}.",
                remedy="Correct its subdir, or leave it out with --on.",
            )
        done = subprocess.run(
            ["/bin/sh", "-c", facts.PROBE],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            timeout=shells.START_S,
            check=False,
        )
        found = facts.parse(done.stdout)
        if not host.network:
            note = "the network is not cut off on this machine"
            found = replace(found, notes=(*found.notes, note))
        return found

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in the run's own folder, for this host alone."""
        return Placement(root=str(run.folder / host.name / package_sha256[:8]), in_place=True)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> LocalConnection:
        """Start a control shell in a session of its own."""
        del environments, progress
        run.expect("local", host=host.name)
        return LocalConnection(host, run)

    def sweep(self, run: Run) -> list[str]:
        """Kill what is left of a run's processes; its folders go with its record."""
        return kill_marked(f"{run.run_id}/") if run.made("local") else []


class LocalTransport:
    """The pipes of a control shell on this machine."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["/bin/sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
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

    def receive(self, timeout_s: float) -> list[tuple[shells.Stream, bytes]]:
        """Return what came from the shell."""
        chunks: list[tuple[shells.Stream, bytes]] = []
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, _CHUNK)
            if not data:
                raise EOFError
            chunks.append((key.data, data))
        return chunks

    def lost(self) -> str:
        """Say how the control shell ended."""
        status = self.process.poll()
        return "" if status is None else f"Its control shell ended with status {status}."

    def close(self) -> None:
        """End the shell and its session."""
        self._selector.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class LocalConnection(shells.ShellConnection):
    """A control shell on this machine."""

    def __init__(self, host: Host, run: Run) -> None:
        self._local = LocalTransport()
        self._marked = f"{run.run_id}/{host.name}"
        self._own = run.folder / host.name
        self._own.mkdir(parents=True, exist_ok=True)
        super().__init__(
            self._local,
            host=host.name,
            folder=str(self._own),
            run_id=run.run_id,
            kill_all=False,
        )

    def kill(self) -> tuple[str, ...]:
        """Kill the script, and those of its processes that left its group."""
        before = kill_marked(self._marked)
        super().kill()
        return tuple(before)

    def settle(self) -> tuple[str, ...]:
        """Kill those processes of ended scripts that left their group, too."""
        left = kill_marked(self._marked)
        super().settle()
        return tuple(left)

    def close(self) -> None:
        """Kill what is left of the tests and remove their folders."""
        self._local.close()
        kill_marked(self._marked)
        shutil.rmtree(self._own, ignore_errors=True)


def kill_marked(mark: str) -> list[str]:
    """Kill the processes that carry this run in their environment (where ``/proc`` shows it)."""
    killed: list[str] = []
    quiet = 0
    deadline = time.monotonic() + _KILL_S  # what multiplies faster than this cannot be won over
    while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
        found = _kill_once(f"MANUALBUILD_RUN_ID={mark}".encode())
        killed += found
        quiet = 0 if found else quiet + 1
        if quiet < _QUIET_LOOKS:
            time.sleep(_LOOK_AGAIN_S)
    return list(dict.fromkeys(killed))


def _kill_once(wanted: bytes) -> list[str]:
    killed = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = any(
                entry.startswith(wanted) for entry in (folder / "environ").read_bytes().split(b"\0")
            )
            if ours and int(folder.name) != os.getpid():
                name = (folder / "comm").read_text(errors="replace").strip()
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(f"{name} ({folder.name})")
        except (OSError, ValueError):
            continue
    return killed


PROVIDER = LocalProvider()
