"""Hosts of kind ``ssh`` whose shell is ``cmd``: Windows, with its own OpenSSH server.

One connection of the client lasts as long as the host. Files go by sftp over it, an environment as
one archive where Windows has a ``tar``; each script is a session of its own. All processes of a
session end with its first one: win32-openssh holds them in a job object.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostLost, HostUnavailable
from pytest_manualbuild.hosts import delivery, far_windows
from pytest_manualbuild.hosts.far_windows import Done, FarConnection, FarMachine, OwnFolder
from pytest_manualbuild.hosts.openssh import Client, environment
from pytest_manualbuild.hosts.pipes import PipedProcess, PipeTransport
from pytest_manualbuild.hosts.reached import BASE, client_for, own_folder, written
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient

_SWEEP_S = 60.0
_READY = (b"echo ready-%OS%\r\n", b"ready-Windows_NT")
_CUT = 255
"""What the client ends with when the connection is cut, or was never made."""


class CmdConnection(FarConnection):
    """A host of Windows that is reached by ssh."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        super().__init__(_SshMachine(host, run, folder), host=host.name)


def probe(host: Host, run: Run) -> Facts:
    """Return what the machine says of itself, and the key that its server proved to have."""
    return far_windows.probe(host, CmdConnection(host, run, own_folder(host, run)))


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

        return far_windows.swept(host, OwnFolder(call, folder, run_id), _SWEEP_S)


class _SshMachine(FarMachine):
    """A machine of Windows behind a connection of the OpenSSH client."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        super().__init__(host, run, folder)
        self._host = host
        self._made = written(host, folder)
        self._private = Path(self._made["socket"])
        self._client: Client | None = None
        self._line: PipeTransport | None = None

    def connect(self) -> None:
        """Make the connection; see ``FarMachine``."""
        self._private.mkdir(mode=0o700)
        client = self._client = client_for(self._host, self._private)
        words = ("cmd", "/d", "/q")  # which ends when we end, and the connection with it
        call = client.first(*words, options=("-o", "ClearAllForwardings=yes"))
        self._line = PipeTransport(call, environment())
        asks, answer = _READY
        heard = b""
        start_s = patient(shells.START_S)
        deadline = time.monotonic() + start_s
        try:
            self._line.send(asks)
            while answer not in heard:
                if time.monotonic() > deadline:
                    raise HostUnavailable(
                        f"{self._name}: {self._host.address}: no answer within {start_s:g} s.",
                        remedy='Is it Windows? Else remove `shell = "cmd"` from the matrix.',
                    )
                heard += b"".join(data for _, data in self._line.receive(0.5))
        except (EOFError, OSError) as error:
            raise client.unreachable(self._name, self._line.last_words()) from error
        self.host_key = client.host_key()

    @property
    def _calls(self) -> Client:
        if self._client is None:
            raise self.gone("it is not connected")
        return self._client

    def words(self, *words: str, timeout_s: float) -> Done:
        """Run words in a session of the connection; HostLost when that is cut, or too slow."""
        done = _run(self._calls.further(*words), timeout_s)
        if done is None:
            raise self.gone(f"it did not answer within {timeout_s:g} s")
        if done.returncode == _CUT:
            raise self.gone(self.lost() or done.stderr.decode(errors="replace").strip())
        return done

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files below the folder; see ``batch.Machine``."""
        top = self._folder.path.rpartition("\\")
        with tempfile.TemporaryDirectory(dir=self._private) as stage:
            for path, data in files.items():
                staged = Path(stage, *path.removeprefix(f"{top[0]}\\").split("\\"))
                staged.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(data)
            self._sftp([f'put -r "{stage}/{top[2]}" "{_remote(top[0])}/"'], patient(shells.PUT_S))

    def _sftp(self, lines: list[str], timeout_s: float) -> None:
        """Run lines of sftp until one fails; HostLost then."""
        server = shlex.join(self._calls.subsystem("sftp"))
        argv = ["sftp", "-q", "-b", "-", "-D", server]
        done = _run(argv, timeout_s, "".join(f"{line}\n" for line in lines))
        if done is None:
            raise self.gone(f"files did not arrive within {timeout_s:g} s")
        if done.returncode != 0:
            said = done.stderr.decode(errors="backslashreplace").strip().splitlines()
            raise HostLost(
                f"{self._name}: files cannot be written on it:"
                f" {self.lost() or (said[-1] if said else 'sftp failed')}.",
                remedy="Is its disk full, or its line cut?",
            )

    def send(self, source: Path, target: str) -> None:
        """Send a file or a folder by sftp; see ``FarMachine``."""
        above = target.rpartition("\\")[0]
        recursive = "-r " if source.is_dir() else ""
        put = f'put {recursive}"{source}" "{_remote(target)}"'
        self._sftp([*_folders(above), put], patient(delivery.DELIVER_S))

    def call(self, path: str) -> PipedProcess:
        """Run a batch file in a session of its own; see ``batch.Machine``."""
        argv = self._calls.further(self._folder.shell, "/d", "/c", path)
        return PipedProcess(argv, environment(), "/")

    def lost(self) -> str:
        """Say how the connection ended; see ``FarMachine``."""
        if self._line is None or self._line.process.poll() is not None:
            return f"its line was cut: {self._calls.reason()}"
        return ""

    def hang_up(self) -> None:
        """End the connection; see ``FarMachine``."""
        if self._line is not None:
            self._line.hang_up(1.0)
            self._line.close()
            self._line = None
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
