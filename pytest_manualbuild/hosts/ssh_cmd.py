"""Hosts of kind ``ssh`` whose shell is ``cmd``: Windows, with its own OpenSSH server.

One connection of the client lasts as long as the host. Files go by sftp over it, an environment as
one archive where Windows has a ``tar``; each script is a session of its own. On the command
lines stand words and plain paths of our own making, so that nothing has to be quoted, whatever the
server's shell is.

A copy of the command processor, with a name of the run's own, is what scripts run below: that name
is what they are found and killed by. The server does the rest, since it ends all processes of a
session with its first one (as win32-openssh does, by a job object).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pytest_manualbuild import shells
from pytest_manualbuild.batch import BatchConnection
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable
from pytest_manualbuild.hosts import delivery, facts
from pytest_manualbuild.hosts.openssh import Client, environment
from pytest_manualbuild.hosts.pipes import PipedProcess, PipeTransport
from pytest_manualbuild.hosts.reached import BASE, client_for, own_folder, written
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.records import LinkedEnvironment

_END_S = 20.0
_SWEEP_S = 60.0
_KILL_S = 10.0
_CMD = r"%SystemRoot%\System32\cmd.exe"
_TAR = r"%SystemRoot%\System32\tar.exe"
_READY = (b"echo ready-%OS%\r\n", b"ready-Windows_NT")
_NO_SUCH = 128
"""What taskkill ends with when there is no such process."""
_CUT = 255
"""What the client ends with when the connection is cut, or was never made."""
_THERE = 7
_UNPACK = """\
@echo off
"{tar}" -xzf "{archive}" -C "{prefix}" || exit 1
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


class CmdConnection(BatchConnection):
    """A host of Windows that is reached by ssh."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        self._far = _FarMachine(host, run, folder)
        super().__init__(self._far, host=host.name, folder=f"{folder}\\s")
        try:
            self.ping()
        except BaseException:
            self.close()
            raise
        self.host_key = self._far.client.host_key()
        """Type and fingerprint of the key that the server proved to have."""

    def deliver(self, one: LinkedEnvironment) -> None:
        """Send an environment to its prefix; EnvironmentBroken if it did not arrive whole."""
        self._far.deliver(one)

    def outlives(self) -> bool:
        """Say whether what a script leaves behind lives on when the script has ended."""
        return self._far.outlives(self)


def probe(host: Host, run: Run) -> Facts:
    """Return what the machine says of itself, and the key that its server proved to have."""
    connection = CmdConnection(host, run, own_folder(host, run))
    try:
        said = connection.run(facts.WINDOWS_PROBE, timeout_s=shells.START_S)
        outlives = connection.outlives()
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
    return replace(found, host_key=connection.host_key, notes=tuple(notes))


def sweep(host: Host, run_id: str, folder: str) -> bool:
    """Kill and remove what a run left on one machine; say whether its folder was there.

    Raises HostUnavailable where the machine is away.
    """
    with tempfile.TemporaryDirectory(dir=BASE, prefix="mb-") as private:
        client = client_for(host, Path(private))

        def call(*words: str, timeout_s: float) -> Done:
            done = _run(client.alone(*words, terminal=False), timeout_s)
            if done is None or done.returncode == _CUT:
                said = done.stderr.decode(errors="replace").strip() if done else ""
                raise client.unreachable(host.name, said)
            return done

        far = _Folder(call, folder, run_id)
        if not far.ours():
            call("cmd", "/d", "/c", "rmdir", folder, timeout_s=_SWEEP_S)  # if it is empty
            return False
        if not far.remove(_SWEEP_S):
            raise HostUnavailable(
                f"{host.name}: {folder} cannot be removed.",
                remedy="Does a program use it? End it, and sweep again.",
            )
        return True


class _Folder:
    """Our folder on a machine, and the processes that run below the command processor in it."""

    def __init__(self, call: Callable[..., Done], path: str, run_id: str) -> None:
        self._call = call
        self.path = path
        self.name = f"mb-{run_id[:12]}.exe"
        self.shell = f"{path}\\{self.name}"
        self._tree = ["/T"]
        """With all that the process started; wine's taskkill has no such option."""

    def cmd(self, *words: str, timeout_s: float | None = None) -> int:
        """Run words of cmd; return their exit status."""
        timeout_s = shells.START_S if timeout_s is None else timeout_s
        return self._call("cmd", "/d", "/c", *words, timeout_s=timeout_s).returncode

    def has(self, path: str) -> bool:
        """Say whether a file or folder is there."""
        return self.cmd("if", "exist", path, "exit", str(_THERE)) == _THERE

    def ours(self) -> bool:
        """Say whether the folder is there and is the run's."""
        return self.has(self.shell)

    def kill(self, name: str | None = None) -> tuple[str, ...] | None:
        """Kill what runs below the command processor, as far as known; None if nothing did.

        Raises HostLost when it cannot be killed.
        """
        names: dict[str, None] | None = None
        deadline = time.monotonic() + _KILL_S
        while True:
            done = self._taskkill(name or self.name)
            if done.returncode not in (0, _NO_SUCH) and self._tree:
                self._tree = []
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
        words = ("taskkill", "/F", *self._tree, "/IM", name)
        return self._call(*words, timeout_s=shells.START_S)

    def remove(self, timeout_s: float) -> bool:
        """Kill what runs there and remove the folder; say whether it is gone."""
        self.kill()
        deadline = time.monotonic() + min(timeout_s, _END_S)
        while True:  # a file is in use until its process has gone for good
            self.cmd("rmdir", "/s", "/q", self.path, timeout_s=timeout_s)
            if not self.has(self.path):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


class _FarMachine:
    """A machine of Windows; see ``batch.Machine``."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        if not host.subdir.startswith("win-"):
            raise HostUnavailable(
                f"{host.name}: a host whose shell is 'cmd' is Windows, and not {host.subdir}.",
                remedy="Correct its subdir or its shell in the matrix.",
            )
        self._name, self._address, self._run = host.name, host.address, run
        self._made = written(host, folder)
        self._private = Path(self._made["socket"])
        self._line: PipeTransport | None = None
        self._folder = _Folder(self._call, folder, run.run_id)
        self._left: Literal["nothing", "unknown", "folder"] = "nothing"
        """What of ours is on the machine, as far as known."""
        run.expect(**self._made)
        self._private.mkdir(mode=0o700)
        try:
            self.client: Client = client_for(host, self._private)
            self._connect()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        words = ("cmd", "/d", "/q")  # which ends when we end, and the connection with it
        call = self.client.first(*words, options=("-o", "ClearAllForwardings=yes"))
        self._line = PipeTransport(call, environment())
        asks, answer = _READY
        heard = b""
        deadline = time.monotonic() + shells.START_S
        try:
            self._line.send(asks)
            while answer not in heard:
                if time.monotonic() > deadline:
                    raise HostUnavailable(
                        f"{self._name}: {self._address}: no answer within {shells.START_S:g} s.",
                        remedy='Is it Windows? Else remove `shell = "cmd"` from the matrix.',
                    )
                heard += b"".join(data for _, data in self._line.receive(0.5))
        except (EOFError, OSError) as error:
            raise self.client.unreachable(self._name, self._line.last_words()) from error

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
        if self._folder.cmd("mkdir", path) != 0 and not self._folder.ours():
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

    def _call(self, *words: str, timeout_s: float) -> Done:
        """Run words in a session of the connection; HostLost when that is cut, or too slow."""
        done = _run(self.client.further(*words), timeout_s)
        if done is None:
            raise self._lost(f"it did not answer within {timeout_s:g} s")
        if done.returncode == _CUT:
            raise self._lost(self.lost() or done.stderr.decode(errors="replace").strip())
        return done

    def _lost(self, how: str) -> HostLost:
        return HostLost(
            f"{self._name}: the host was lost: {how}.",
            remedy="Look at the host and run again; this says nothing about the package.",
        )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files below the folder; see ``batch.Machine``."""
        top = self._folder.path.rpartition("\\")
        with tempfile.TemporaryDirectory(dir=self._private) as stage:
            for path, data in files.items():
                staged = Path(stage, *path.removeprefix(f"{top[0]}\\").split("\\"))
                staged.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(data)
            self._sftp([f'put -r "{stage}/{top[2]}" "{_remote(top[0])}/"'], shells.PUT_S)

    def _sftp(self, lines: list[str], timeout_s: float) -> None:
        """Run lines of sftp until one fails; HostLost then."""
        server = shlex.join(self.client.subsystem("sftp"))
        argv = ["sftp", "-q", "-b", "-", "-D", server]
        done = _run(argv, timeout_s, "".join(f"{line}\n" for line in lines))
        if done is None:
            raise self._lost(f"files did not arrive within {timeout_s:g} s")
        if done.returncode != 0:
            said = done.stderr.decode(errors="backslashreplace").strip().splitlines()
            raise HostLost(
                f"{self._name}: files cannot be written on it:"
                f" {self.lost() or (said[-1] if said else 'sftp failed')}.",
                remedy="Is its disk full, or its line cut?",
            )

    def deliver(self, one: LinkedEnvironment) -> None:
        """Send an environment to its prefix; EnvironmentBroken if it did not arrive whole."""
        try:
            if self._folder.has(_TAR):
                arrived = self._deliver_archive(one)
            else:
                self._deliver_files(one)
                arrived = True
            whole = arrived and self._folder.has(f"{one.prefix}\\conda-meta")
        except HostLost as error:
            if self.lost():
                raise
            raise EnvironmentBroken(error.problem, remedy=error.remedy) from error
        if not whole:
            raise EnvironmentBroken(
                f"{self._name}: the environment did not arrive whole.",
                remedy="Is the host's disk full?",
            )

    def _deliver_archive(self, one: LinkedEnvironment) -> bool:
        far = f"{self._folder.path}\\environment.tgz"
        unpack = f"{self._folder.path}\\unpack.bat"
        text = _UNPACK.format(tar=_TAR, archive=far, prefix=one.prefix)
        with tempfile.NamedTemporaryFile(dir=self._run.folder, suffix=".tgz") as archive:
            delivery.pack(Path(one.path), Path(archive.name).open("wb"), zstd=False)  # noqa: SIM115 # it closes it
            self.write({unpack: text.replace("\n", "\r\n").encode()})
            self._sftp(
                [*_folders(one.prefix), f'put "{archive.name}" "{_remote(far)}"'],
                delivery.DELIVER_S,
            )
        self._folder.cmd(unpack, timeout_s=delivery.DELIVER_S)
        last = f"{one.prefix}\\{delivery.LAST}"
        arrived = self._folder.has(last)
        self._folder.cmd("rmdir", last)
        return arrived

    def _deliver_files(self, one: LinkedEnvironment) -> None:
        """Send file by file, which is slower: for Windows before 10, which has no tar."""
        above = one.prefix.rpartition("\\")[0]
        self._sftp(
            [*_folders(above), f'put -r "{one.path}" "{_remote(one.prefix)}"'], delivery.DELIVER_S
        )

    def call(self, path: str) -> PipedProcess:
        """Run a batch file in a session of its own; see ``batch.Machine``."""
        argv = self.client.further(self._folder.shell, "/d", "/c", path)
        return PipedProcess(argv, environment(), "/")

    def kill(self) -> tuple[str, ...]:
        """Kill the scripts and what they started; see ``batch.Machine``."""
        return self._folder.kill() or ()

    def outlives(self, connection: BatchConnection) -> bool:
        """Leave a process behind, and see whether it lives on when its session ended."""
        name = f"mb-{secrets.token_hex(6)}.exe"
        left, spins = f"{self._folder.path}\\{name}", f"{self._folder.path}\\spins.bat"
        self.write({spins: _SPINS.replace("\n", "\r\n").encode()})
        self._folder.cmd("copy", "/y", _CMD, left)
        text = _LEAVES.format(left=left, spins=spins)
        try:
            connection.run(text, timeout_s=shells.START_S)
            self._folder.kill()  # it may not have ended all by itself yet
        finally:
            lived = self._folder.kill(name) is not None
        return lived

    def lost(self) -> str:
        """Say how the connection ended; see ``batch.Machine``."""
        if self._line is None or self._line.process.poll() is not None:
            return f"its line was cut: {self.client.reason()}"
        return ""

    def close(self) -> None:
        """Kill what runs, remove the folder and end the connection; see ``batch.Machine``."""
        if self._left == "folder" and not self.lost():
            with contextlib.suppress(HostLost):
                if self._folder.remove(_END_S):
                    self._left = "nothing"
        if self._line is not None:
            self._line.hang_up(1.0)
            self._line.close()
            self._line = None
        if self._left == "nothing" and self._private.is_dir():
            self._run.gone(**self._made)
        shutil.rmtree(self._private, ignore_errors=True)


def _run(argv: list[str], timeout_s: float, text: str = "") -> Done | None:
    """Run a program to its end; None if it takes longer than that."""
    try:
        return subprocess.run(
            argv,
            input=text.encode(),
            capture_output=True,
            env=environment(),
            start_new_session=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


def _remote(path: str) -> str:
    """Return a path of Windows as sftp has it."""
    return "/" + path.replace("\\", "/")


def _folders(path: str) -> list[str]:
    """Return lines of sftp that make a folder and those above it, of which some may be there."""
    parts = path.split("\\")
    return [
        f'-mkdir "{_remote(chr(92).join(parts[:number]))}"' for number in range(2, len(parts) + 1)
    ]
