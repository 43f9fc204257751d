"""What all ways to a machine of Windows share that is up: a folder of ours, and what runs in it.

On command lines stand words and plain paths of our own making, so that nothing has to be quoted,
whatever shell takes them.

Scripts run below a copy of the command processor, with a name of its own for each host of a run:
that name is what they are found and killed by. What else belongs to a session ends with it, where
the server sees to that; each run tries it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.batch import BatchConnection, Process
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable
from pytest_manualbuild.hosts import delivery, facts
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

END_S = 20.0
_KILL_S = 10.0
_CMD = r"%SystemRoot%\System32\cmd.exe"
_TAR = r"%SystemRoot%\System32\tar.exe"
_NO_SUCH = 128
"""What taskkill ends with when there is no such process."""
_THERE = 7
_UNPACK = """\
@echo off
mkdir "{prefix}" 2>nul
"{tar}" -xzf "{archive}" -C "{prefix}"
if not "%ERRORLEVEL%"=="0" exit 1
del "{archive}"
exit 0
"""
_LEAVES = """\
@echo off
start "" /b {left} /d /c {spins}
exit 0
"""
_SPINS = "@echo off\n:again\ngoto again\n"

Done = subprocess.CompletedProcess[bytes]


class OwnFolder:
    """Our folder on a machine, and the processes that run below the command processor in it."""

    def __init__(self, call: Callable[..., Done], path: str, run_id: str) -> None:
        self._call = call
        self.path = path
        # A run may have several hosts on one machine, and each kills by this name.
        of = hashlib.sha256(path.encode()).hexdigest()[:6]
        self.name = f"mb-{run_id[:12]}-{of}.exe"
        self.shell = f"{path}\\{self.name}"
        self._tree: list[str] | None = None
        """What makes taskkill end all that a process started; wine's has no such option."""

    def cmd(self, *words: str, timeout_s: float | None = None) -> int:
        """Run words of cmd; return their exit status."""
        timeout_s = patient(shells.START_S) if timeout_s is None else timeout_s
        return self._call("cmd", "/d", "/c", *words, timeout_s=timeout_s).returncode

    def has(self, path: str) -> bool:
        """Say whether a file or folder is there; HostLost where nobody says so."""
        status = self.cmd("if", "exist", path, "exit", str(_THERE))
        if status not in {0, _THERE}:  # such as of a machine that shuts down
            raise HostLost(
                f"it does not say whether {path} is there (exit status {status}).",
                remedy="Look at the host and run again; this says nothing about the package.",
            )
        return status == _THERE

    def ours(self) -> bool:
        """Say whether the folder is there and is the run's."""
        return self.has(self.shell)

    def kill(self, name: str | None = None) -> tuple[str, ...] | None:
        """Kill what runs below the command processor, as far as known; None if nothing did.

        Raises HostLost when it cannot be killed.
        """
        names: dict[str, None] | None = None
        deadline = time.monotonic() + patient(_KILL_S)
        while True:
            done = self._taskkill(name or self.name)
            if done.returncode == _NO_SUCH:
                return None if names is None else tuple(names)
            said = done.stdout.decode(errors="replace")
            names = (names or {}) | dict.fromkeys(re.findall(r'"([^"\r\n]+)"', said))
            names.pop(self.name, None)
            if time.monotonic() > deadline:
                said = f"{said} {done.stderr.decode(errors='replace')}"
                raise HostLost(
                    f"its processes cannot be killed: {' '.join(said.split())[-200:]}.",
                    remedy="Look at the host and run again.",
                )

    def _taskkill(self, name: str) -> Done:
        if self._tree is None:
            # Asked of a process that is not there: no race with one that ends can blur the answer.
            nobody = f"mb-{secrets.token_hex(6)}.exe"
            asks = ("taskkill", "/F", "/T", "/IM", nobody)
            asked = self._call(*asks, timeout_s=patient(shells.START_S))
            self._tree = ["/T"] if asked.returncode == _NO_SUCH else []
        words = ("taskkill", "/F", *self._tree, "/IM", name)
        return self._call(*words, timeout_s=patient(shells.START_S))

    def remove(self, timeout_s: float) -> bool:
        """Kill what runs there and remove the folder; say whether it is gone."""
        self.kill()
        deadline = time.monotonic() + min(timeout_s, patient(END_S))
        while True:  # a file is in use until its process has gone for good
            self.cmd("rmdir", "/s", "/q", self.path, timeout_s=timeout_s)
            if not self.has(self.path):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


class FarMachine:
    """A machine of Windows that is up (see ``batch.Machine``); each way to one is a class below."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        """Note what is made there; ``begin`` connects."""
        if not host.subdir.startswith("win-"):
            raise HostUnavailable(
                f"{host.name}: a host that is reached like this is Windows, not {host.subdir}.",
                remedy="Correct its subdir, or how it is reached, in the matrix.",
            )
        self._name, self._run = host.name, run
        self._made: dict[str, str] = {}
        """What is written down of it, for a sweep."""
        self._folder = OwnFolder(self.words, folder, run.run_id)
        self._left: Literal["nothing", "unknown", "folder"] = "nothing"
        """What of ours is on the machine, as far as known."""
        self.host_key: str | None = None
        """Type and fingerprint of the key that the server proved to have."""

    @property
    def path(self) -> str:
        """The folder of ours."""
        return self._folder.path

    @abstractmethod
    def connect(self) -> None:
        """Make the connection; HostUnavailable if that fails."""

    @abstractmethod
    def words(self, *words: str, timeout_s: float) -> Done:
        """Run words that need no quotes to their end; HostLost when that fails or takes longer."""

    @abstractmethod
    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files; see ``batch.Machine``."""

    @abstractmethod
    def call(self, path: str) -> Process:
        """Run a batch file in a session of its own; see ``batch.Machine``."""

    @abstractmethod
    def send(self, source: Path, target: str) -> None:
        """Send a file or a folder, within ``delivery.DELIVER_S``; HostLost if that fails."""

    @abstractmethod
    def lost(self) -> str:
        """Say how the connection ended; see ``batch.Machine``."""

    @abstractmethod
    def hang_up(self) -> None:
        """End the connection, of which nothing or only a part may be there."""

    def begin(self) -> None:
        """Connect, and make the folder."""
        self._run.expect(**self._made)
        try:
            self.connect()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        path = self._folder.path
        above = path.rpartition("\\")[0]
        # mkdir would make what is above, and nobody remove it.
        if "\\" in above and not self._folder.has(above):
            raise HostUnavailable(
                f"{self._name}: there is no folder {above} on it.",
                remedy="Make it, or correct `root` in the matrix.",
            )
        self._left = "unknown"
        made = self._folder.cmd("mkdir", path) == 0
        if not made and self._folder.ours():
            # What an earlier start of this run could not remove; nobody is tested in it again.
            made = self._folder.remove(patient(END_S)) and self._folder.cmd("mkdir", path) == 0
        if not made:
            taken = self._folder.has(path)
            self._left = "nothing"
            raise HostUnavailable(
                f"{self._name}: its folder {path}"
                + (" is in use by another run." if taken else " cannot be made."),
                remedy="Wait for it, or run `manualbuild hosts sweep`."
                if taken
                else "May the user write there, and is there room? `root` names another folder.",
            )
        self._left = "folder"
        if self._folder.cmd("copy", "/y", _CMD, self._folder.shell) != 0:
            raise HostUnavailable(
                f"{self._name}: nothing can be written to {path}.", remedy="Is the disk full?"
            )

    def gone(self, how: str) -> HostLost:
        """Return the error for a machine that is gone."""
        return HostLost(
            f"{self._name}: the host was lost: {how}.",
            remedy="Look at the host and run again; this says nothing about the package.",
        )

    def deliver(self, one: LinkedEnvironment) -> None:
        """Send an environment to its prefix; EnvironmentBroken if it did not arrive whole."""
        unpacks = self._folder.has(_TAR)
        try:
            if unpacks:
                self._send_archive(one)
            else:
                # File by file, which is slower: Windows before 10 has no tar.
                self.send(Path(one.path), one.prefix)
        except HostLost as error:
            if self.lost():
                raise
            raise EnvironmentBroken(error.problem, remedy=error.remedy) from error
        arrived = not unpacks or self._unpack(one)
        if not (arrived and self._folder.has(f"{one.prefix}\\conda-meta")):
            raise EnvironmentBroken(
                f"{self._name}: the environment did not arrive whole.",
                remedy="Is the host's disk full?",
            )

    @property
    def _archive(self) -> str:
        return f"{self._folder.path}\\environment.tgz"

    @property
    def _unpacks(self) -> str:
        return f"{self._folder.path}\\unpack.bat"

    def _send_archive(self, one: LinkedEnvironment) -> None:
        text = _UNPACK.format(tar=_TAR, archive=self._archive, prefix=one.prefix)
        self.write({self._unpacks: _lines(text)})
        with tempfile.TemporaryDirectory(dir=self._run.folder) as folder:
            archive = Path(folder, "environment.tgz")
            try:
                delivery.pack(Path(one.path), archive.open("wb"), zstd=False)
            except OSError as error:
                raise EnvironmentBroken(
                    f"{self._name}: the environment cannot be packed in {self._run.folder}:"
                    f" {error.strerror or error}.",
                    remedy="Free some space there, or name another folder with MANUALBUILD_CACHE.",
                ) from error
            self.send(archive, self._archive)

    def _unpack(self, one: LinkedEnvironment) -> bool:
        """Unpack the archive; say whether all of it arrived."""
        # Where one file cannot be made, it goes on to the last one, and says so at its end.
        unpacked = self._folder.cmd(self._unpacks, timeout_s=patient(delivery.DELIVER_S)) == 0
        last = f"{one.prefix}\\{delivery.LAST}"
        arrived = unpacked and self._folder.has(last)
        self._folder.cmd("rmdir", last)
        return arrived

    def kill(self) -> tuple[str, ...]:
        """Kill the scripts and what they started; see ``batch.Machine``."""
        return self._folder.kill() or ()

    def outlives(self, connection: BatchConnection) -> bool:
        """Leave a process behind, and see whether it lives on when its session ended."""
        name = f"mb-{secrets.token_hex(6)}.exe"
        left, spins = f"{self._folder.path}\\{name}", f"{self._folder.path}\\spins.bat"
        self.write({spins: _lines(_SPINS)})
        self._folder.cmd("copy", "/y", _CMD, left)
        text = _LEAVES.format(left=left, spins=spins)
        try:
            connection.run(text, timeout_s=patient(shells.START_S))
            self._folder.kill()  # it may not have ended all by itself yet
        finally:
            lived = self._folder.kill(name) is not None
        return lived

    def close(self) -> None:
        """Kill what runs, remove the folder and end the connection; see ``batch.Machine``."""
        if self._left == "folder" and not self.lost():
            with contextlib.suppress(HostLost):
                if self._folder.remove(patient(END_S)):
                    self._left = "nothing"
        self.hang_up()
        if self._left == "nothing":
            self._run.gone(**self._made)


class FarConnection(BatchConnection):
    """A connection to such a machine."""

    def __init__(self, machine: FarMachine, *, host: str) -> None:
        """Connect, and see that scripts run."""
        self.machine = machine
        machine.begin()
        super().__init__(machine, host=host, folder=f"{machine.path}\\s")
        try:
            self.ping()
        except BaseException:
            self.close()
            raise

    def deliver(self, one: LinkedEnvironment) -> None:
        """Send an environment to its prefix; EnvironmentBroken if it did not arrive whole."""
        self.machine.deliver(one)


def probe(host: Host, connection: FarConnection) -> Facts:
    """Return what the machine says of itself, and the key that its server proved to have."""
    try:
        said = connection.run(facts.WINDOWS_PROBE, timeout_s=patient(shells.START_S))
        outlives = connection.machine.outlives(connection)
    finally:
        connection.close()
    found = facts.parse_windows(said.stdout)
    if said.exit_status != 0 or not found.os_version:
        raise HostUnavailable(
            f"{host.name}: it did not say what it is.", remedy="Look at the host and run again."
        )
    notes = [] if host.network else ["the network is not cut off on that machine"]
    if outlives:
        notes.append("a process that a test leaves behind survives the end of its check")
    return replace(found, host_key=connection.machine.host_key, notes=tuple(notes))


def swept(host: Host, folder: OwnFolder, limit_s: float) -> bool:
    """Kill and remove what a run left on a machine; say whether its folder was there.

    Raises HostUnavailable where it cannot be removed.
    """
    if not folder.ours():
        folder.cmd("rmdir", folder.path, timeout_s=limit_s)  # if it is empty
        return False
    if not folder.remove(limit_s):
        raise HostUnavailable(
            f"{host.name}: {folder.path} cannot be removed.",
            remedy="Does a program use it? End it, and sweep again.",
        )
    return True


def _lines(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()
