"""Hosts of kind ``winrm``: machines of Windows, reached by Windows Remote Management.

There is no way for files but the standard input of a command, as lines of base64. Each script has
a shell of its own, since all that runs in a shell ends with it. ``winrm_client`` does the talking,
by ``pypsrp``, which is an extra (``pip install pytest-manualbuild[winrm]``).
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostError, HostLost, during
from pytest_manualbuild.hosts import delivery, far_windows
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.far_windows import Done, FarConnection, FarMachine, OwnFolder
from pytest_manualbuild.hosts.reached import below, own_folder, same_folder
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.hosts.winrm_client import Client, Command
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

_SWEEP_S = 60.0
_LINE = 6000
"""Characters of base64 in a line; findstr takes 8191."""
_LINES = 13
"""Lines of one message: a server takes 150 kB, with base64 once more around it."""
_PLAIN = re.compile(r"[A-Za-z0-9:\\._-]+")


class WinrmProvider:
    """Makes a machine that is up a host, for as long as a run lasts."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return what the machine says of itself."""
        progress("connecting")
        folder = own_folder(host, run)
        return far_windows.probe(host, _connection(host, run, folder))

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in a folder that is the same in each run: they are linked once."""
        folder = below(host, same_folder(host, run), package_sha256[:8])
        return Placement(root=folder, folder=folder, in_place=False)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> FarConnection:
        """Connect, and send each environment."""
        progress("connecting")
        connection = _connection(host, run, same_folder(host, run))
        try:
            with during("delivering"):
                for one in environments:
                    progress("sending the environment")
                    connection.deliver(one)
        except BaseException:
            connection.close()
            raise
        return connection

    def sweep(self, run: Run) -> list[str]:
        """Kill and remove what a run left on machines; raises HostError where one is away."""
        removed: list[str] = []
        away: HostError | None = None
        for entry in run.made("winrm"):
            host = Host(
                name=entry["host"], kind="winrm", subdir="win-64", address=entry["address"],
                port=int(entry["port"]) if entry["port"] else None,
                https=entry["https"] == "yes", ca_file=entry["ca_file"] or None,
                password_from=entry["password_from"],
            )  # fmt: skip
            try:
                with contextlib.closing(Client(host)) as client:
                    if "shell" in entry:
                        client.end(entry["shell"])
                    folder = OwnFolder(client.words, entry["folder"], run.run_id)
                    if far_windows.swept(host, folder, _SWEEP_S):
                        removed.append(f"folder {entry['folder']} on {host.address}")
                run.gone(**entry)
            except HostError as error:
                away = error
        if away is not None:
            raise away
        return removed


def _connection(host: Host, run: Run, folder: str) -> FarConnection:
    return FarConnection(_WinrmMachine(host, run, folder), host=host.name)


class _WinrmMachine(FarMachine):
    """A machine of Windows behind its WinRM server."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        super().__init__(host, run, folder)
        self._host = host
        self._client: Client | None = None
        self._made = {
            "kind": "winrm", "host": host.name, "folder": folder, "address": host.address or "",
            "port": str(host.port or ""), "https": "yes" if host.https else "no",
            "ca_file": str(Path(host.ca_file).expanduser().absolute()) if host.ca_file else "",
            "password_from": host.password_from or "",
        }  # fmt: skip

    def connect(self) -> None:
        """Make the connection; see ``FarMachine``."""
        self._client = Client(self._host)
        # A server that hangs may start later what we told it, and then it waits for us for ever.
        known = {**self._made, "shell": self._client.shell_id}
        self._run.expect(**known)
        self._run.gone(**self._made)
        self._made = known

    @property
    def _calls(self) -> Client:
        if self._client is None:
            raise self.gone("it is not connected")
        return self._client

    def words(self, *words: str, timeout_s: float) -> Done:
        """Run words in the shell of ours; see ``FarMachine``."""
        return self._calls.words(*words, timeout_s=timeout_s)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files; see ``batch.Machine``."""
        for path, data in files.items():
            self._upload(path, io.BytesIO(data), time.monotonic() + patient(shells.PUT_S))

    def send(self, source: Path, target: str) -> None:
        """Send a file, or the files of a folder; see ``FarMachine``."""
        deadline = time.monotonic() + patient(delivery.DELIVER_S)
        if not source.is_dir():
            with source.open("rb") as file:
                self._upload(target, file, deadline)
            return
        for path in [source, *sorted(source.rglob("*"))]:
            there = "\\".join([target, *path.relative_to(source).parts])
            if path.is_dir():
                self._calls.feed(f"{_makes(there)}cd.", (), deadline - time.monotonic())
            else:
                with path.open("rb") as file:
                    self._upload(there, file, deadline)

    def _upload(self, path: str, file: IO[bytes], deadline: float) -> None:
        """Have findstr take lines of base64, and certutil make the file of them."""
        above, _, _ = path.rpartition("\\")
        text, target = _quoted(f"{path}.b64"), _quoted(path)
        pieces = _bundled(file)
        first = next(pieces, b"")
        makes = f"findstr /v # >{text}&certutil -f -decode {text} {target}&del {text}"
        line = _makes(above) + (makes if first else f"type nul >{target}")
        given = itertools.chain([first], pieces) if first else ()
        # On a full disk these programs leave a part and say nothing.
        line += f"&for %I in ({target}) do @echo size=%~zI"
        done = self._calls.feed(line, given, max(1.0, deadline - time.monotonic()))
        if b"size=" not in done.stdout:  # which needs no file, and no program but cmd
            raise self._calls.lost(f"it does not run what it is told to ({done.returncode})")
        sizes = re.findall(rb"size=([0-9]+)", done.stdout)
        if [int(size) for size in sizes] != [file.tell()]:
            said = (done.stderr or done.stdout).decode(errors="backslashreplace").split()
            raise HostLost(
                f"{self._name}: files cannot be written on it: {' '.join(said)[-200:]}.",
                remedy="Is its disk full?",
            )

    def call(self, path: str) -> Command:
        """Run a batch file in a shell of its own; see ``batch.Machine``."""
        line = f"{self._folder.shell} /d /c {path}"
        return Command(self._calls, self._calls.shell(), line, own=True)

    def lost(self) -> str:
        """Say how the connection ended; see ``FarMachine``."""
        return self._client.gone if self._client is not None else "it is not connected"

    def hang_up(self) -> None:
        """Close the shell and the connection; see ``FarMachine``."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _makes(folder: str) -> str:
    """Return the beginning of a line that makes a folder and those above it, if they are not there.

    Each file says it again: what an earlier line did is not known, and cmd needs no process for it.
    """
    return f"mkdir {_quoted(folder)} 2>nul&"


def _bundled(file: IO[bytes]) -> Iterator[bytes]:
    """Return a file as lines of base64, as many at once as one message takes."""
    while piece := file.read(_LINE * 3 // 4 * _LINES):
        text = base64.b64encode(piece)
        yield b"".join(text[at : at + _LINE] + b"\r\n" for at in range(0, len(text), _LINE))


def _quoted(path: str) -> str:
    return path if _PLAIN.fullmatch(path) else f'"{path}"'


PROVIDER = WinrmProvider()
