"""Hosts of kind ``local``: this machine, in a session and folders of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts import facts, kept
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.kept import Call, Kept, there
from pytest_manualbuild.hosts.pipes import ENVIRONMENT, PipeTransport
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.matrix import local_subdir
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

# A process that is just starting a program shows no environment for a moment.
_QUIET_LOOKS = 2
_LOOK_AGAIN_S = 0.01
_KILL_S = 10.0

_PLAIN = re.compile(r"[\w./+@=,:-]+")
"""Paths that need no quotes, in letters of any language."""


class LocalProvider:
    """Runs tests on this machine: nothing is started, and nothing but processes can be undone."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return this machine's facts."""
        del progress
        if host.subdir != local_subdir():
            raise HostUnavailable(
                f"{host.name}: this machine is {local_subdir()}, not {host.subdir}.",
                remedy="Correct its subdir, or leave it out with --on.",
            )
        if not _PLAIN.fullmatch(str(run.folder)):
            raise HostUnavailable(
                f"{host.name}: {cache_folder()} has a space or another character that scripts of"
                " conda packages do not expect in a prefix.",
                remedy="Name a plainer folder with MANUALBUILD_CACHE.",
            )
        limit_s = patient(shells.START_S)
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", facts.PROBE],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env=dict(ENVIRONMENT),
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HostUnavailable(
                f"{host.name}: this machine did not say within {limit_s:g} s what it is.",
                remedy="Is it very busy? Run again.",
            ) from error
        found = facts.heard(host.name, done.returncode, done.stdout)
        if not host.network:
            note = "the network is not cut off on this machine"
            found = replace(found, notes=(*found.notes, note))
        return found

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in the run's own folder, for this host alone."""
        folder = str(run.folder / host.name / package_sha256[:8])
        return Placement(root=folder, folder=folder, in_place=True)

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

    @contextlib.contextmanager
    def call(self, one: Kept, run: Run, words: Sequence[str], *, terminal: bool) -> Iterator[Call]:
        """Give the words themselves: the environment is on this machine."""
        del run, terminal
        there(one)
        yield Call(argv=tuple(words), environment={"PATH": shells.SYSTEM_PATH})

    def remove(self, one: Kept, run: Run) -> list[str]:
        """Kill what people started in a kept environment and left, and remove its folders."""
        del run
        kill_marked(f"{one.run_id}/{one.host.name}")
        shutil.rmtree(one.what["folder"], ignore_errors=True)
        return [f"folder {one.what['folder']}"]

    def sweep(self, run: Run) -> list[str]:
        """Kill what is left of a run's processes; its folders go with its record."""
        return kill_marked(f"{run.run_id}/") if run.made("local") else []


class LocalConnection(shells.ShellConnection):
    """A control shell on this machine."""

    def __init__(self, host: Host, run: Run) -> None:
        self._local = PipeTransport(shells.CONTROL)
        self._marked = f"{run.run_id}/{host.name}"
        self._own = run.folder / host.name
        self._own.mkdir(parents=True, exist_ok=True)
        super().__init__(
            self._local,
            host=host.name,
            folder=str(self._own),
            run_id=run.run_id,
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
        """Kill what is left of the tests and remove their folders, unless those were kept."""
        self._local.close()
        kill_marked(self._marked)
        if str(self._own) not in kept.places(self._run_id):
            shutil.rmtree(self._own, ignore_errors=True)

    def keep(self) -> dict[str, str]:
        """Leave the folders; see ``kept.Keepable``."""
        self._local.close()
        kill_marked(self._marked)
        return {"place": str(self._own), "folder": str(self._own)}


def kill_marked(mark: str, variable: str = "MANUALBUILD_RUN_ID") -> list[str]:
    """Kill the processes that carry this run in their environment (where ``/proc`` shows it).

    ``mark`` is ``RUN/HOST``, or ``RUN/`` for those of every host.
    """
    killed: list[str] = []
    quiet = 0
    # What multiplies faster than this cannot be won over.
    deadline = time.monotonic() + patient(_KILL_S)
    while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
        found = _kill_once(f"{variable}={mark}".encode())
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
                entry == wanted or (wanted.endswith(b"/") and entry.startswith(wanted))
                for entry in (folder / "environ").read_bytes().split(b"\0")
            )
            if ours and int(folder.name) != os.getpid():
                name = (folder / "comm").read_text(errors="replace").strip()
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(f"{name} ({folder.name})")
        except (OSError, ValueError):
            continue
    return killed


PROVIDER = LocalProvider()
