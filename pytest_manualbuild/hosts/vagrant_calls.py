"""Calls of the ``vagrant`` program, with time limits, and what it says read line by line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.patience import patient

ASK_S = 120.0
"""Time limit of a call that changes nothing."""
_END_S = 30.0
_LOOK_AGAIN_S = 0.1
_NO_SNAPSHOTS = "SnapshotNotSupported"
_FIELDS = 3  # time, machine, type; values follow
_MOST_SAID = 400
_REMEDIES = {
    "NoEnvironmentError": "Make `root` in the matrix the folder of a Vagrantfile.",
    "MachineNotFound": "Correct `machine` in the matrix: `vagrant status` lists them.",
    "SnapshotNotFound": "Correct `snapshot` in the matrix: `vagrant snapshot list` lists them.",
    _NO_SNAPSHOTS: "Remove `snapshot` from the matrix.",
}


class Refused(HostUnavailable):
    """Vagrant ended badly; ``code`` is the name that it gives its error."""

    def __init__(self, name: str, words: Sequence[str], code: str, said: str) -> None:
        call = f"vagrant {' '.join(words)}"
        super().__init__(
            f"{name}: `{call}` failed: {said or 'it said nothing'}",
            remedy=_REMEDIES.get(code, "Run it by hand in its folder, or leave the host out."),
        )
        self.code = code


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What Vagrant says of one machine."""

    machine: str
    state: str
    """``not_created``, ``running``, or a word of the provider's."""
    provider: str


class Vagrant:
    """The program's calls for one host; ``calls`` is a private folder for what they need."""

    def __init__(self, host: str, root: Path, calls: Path) -> None:
        self._host = host
        self.root = root
        self._running = calls / "call"

    def status(self, machine: str | None) -> Status:
        """Return what a machine is; without a name, the Vagrantfile must describe one alone."""
        lines = self.call("status", *([machine] if machine else []), limit_s=ASK_S)
        states = {line[1]: line[3] for line in lines if line[2] == "state"}
        if len(states) != 1:
            raise HostUnavailable(
                f"{self._host}: the Vagrantfile in {self.root} has {len(states)} machines.",
                remedy=f"Name one with `machine` in the matrix: {', '.join(states)}.",
            )
        ((name, state),) = states.items()
        if machine not in (None, name):
            # It takes the beginning of an id for the machine that has it, in whatever folder.
            raise HostUnavailable(
                f"{self._host}: Vagrant takes {machine!r} for the machine {name!r} of another"
                " folder.",
                remedy="Give it another name in the Vagrantfile; its index has that one's id.",
            )
        provider = next((line[3] for line in lines if line[2] == "provider-name"), "unknown")
        return Status(machine=name, state=state, provider=provider)

    def has_snapshots(self, machine: str) -> bool:
        """Say whether the machine's provider can take snapshots, as it says itself."""
        try:
            self.call("snapshot", "list", machine, limit_s=ASK_S)
        except Refused as error:
            if error.code == _NO_SNAPSHOTS:
                return False
            raise
        return True

    def call(self, *words: str, limit_s: float) -> list[list[str]]:
        """Return the machine-readable lines of a call, each [time, machine, type, values...].

        Raises Refused when it ends badly, and HostUnavailable when it takes longer.
        """
        status, said = self._called(("--machine-readable", *words), limit_s)
        lines = [_fields(line) for line in said.splitlines() if line.count(",") >= _FIELDS]
        if status != 0:
            code, why = "", " ".join(said.split())[:_MOST_SAID]
            for line in lines:
                if line[2] == "error-exit":
                    code, why = line[3].rpartition(":")[2], " ".join(" ".join(line[4:]).split())
            raise Refused(self._host, words, code, why[:_MOST_SAID])
        return lines

    def plain(self, *words: str) -> str:
        """Return what a short call writes for people."""
        status, said = self._called(words, ASK_S)
        if status != 0:
            raise Refused(self._host, words, "", " ".join(said.split())[:_MOST_SAID])
        return said

    def _called(self, words: Sequence[str], limit_s: float) -> tuple[int, str]:
        limit_s = patient(limit_s)
        program = shutil.which("vagrant")
        if program is None:
            raise HostUnavailable(
                f"{self._host}: the program vagrant is not on PATH.",
                remedy="Install Vagrant, or leave the host out with --on.",
            )
        if not self.root.is_dir():
            raise HostUnavailable(
                f"{self._host}: there is no folder {self.root}.",
                remedy="Correct `root` in the matrix: the folder of a Vagrantfile.",
            )
        # The user's own program on the controller: its providers may need any variable.
        own = {name: text for name, text in os.environ.items() if name != "VAGRANT_CWD"}
        own |= {"VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_NO_COLOR": "1"}
        # A file, not a pipe: what the call starts may stay, and keep a pipe open.
        with tempfile.TemporaryFile() as said:
            # In our process group, so that an interrupt by the user ends it as well.
            process = subprocess.Popen(
                [program, *words], cwd=self.root, env=own,
                stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
            self._running.write_text(f"{process.pid}\n{' '.join(words)}")
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired as error:
                raise HostUnavailable(
                    f"{self._host}: `vagrant {' '.join(words)}` took longer than {limit_s:g} s.",
                    remedy="Look at the machine, or leave the host out with --on.",
                ) from error
            finally:
                _end(process)
                self._running.unlink(missing_ok=True)
            said.seek(0)
            return status, said.read().decode(errors="backslashreplace")

    def end_call(self) -> None:
        """End a call that a killed run, or another thread of this one, left under way."""
        try:
            pid, _, words = self._running.read_text().partition("\n")
        except OSError:
            return
        deadline = time.monotonic() + 2 * _END_S
        number = signal.SIGINT
        while words and _command(pid).endswith(words) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                os.kill(int(pid), number)
            if time.monotonic() > deadline - _END_S:
                number = signal.SIGKILL
            time.sleep(_LOOK_AGAIN_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a call that still runs clean up, and kill it when that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(pid: str) -> str:
    """Return the words that a process was started with; nothing when it is gone."""
    words = ["ps", "-ww", "-o", "args=", "-p", pid]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def _fields(line: str) -> list[str]:
    """Return the fields of a machine-readable line as they were before they were escaped."""
    return [
        field.replace("%!(VAGRANT_COMMA)", ",").replace("\\n", "\n").replace("\\r", "\r")
        for field in line.split(",")
    ]
