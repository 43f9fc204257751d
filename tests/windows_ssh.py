"""A stand-in for a machine of Windows with OpenSSH's server: asyncssh before a prefix of wine.

It does what win32-openssh does: a command goes to `cmd /c`, paths of sftp begin with the drive, and
all processes of a session end with its first one (there by a job object, here by a mark in their
environment; `JOB=no` in the server's environment leaves that out). Run as a program, it is the
server: `windows_ssh.py FOLDER PORT`; its prefix and the server of wine outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import posixpath
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import sshd
import windows_hosts

from pytest_manualbuild.hosts import wine
from pytest_manualbuild.hosts.local import kill_marked

_SILENT = 4
"""Looks in a row at which nothing more came of a session's output."""


@dataclass(kw_only=True)
class WindowsSsh(sshd.Sshd):
    """One machine; see ``sshd.Sshd`` for what it shares with others."""

    job: bool = True
    bears: subprocess.Popen[bytes] | None = None
    """The server of wine, without which no process of the machine lives."""

    @property
    def drive(self) -> Path:
        """The folder that is drive C."""
        return self.folder / "prefix/drive_c"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of wine."""
        return wine.environment(self.folder, str(self.folder))

    @property
    def shuts_down(self) -> Path:
        """A file with which the servers still answer, and no program starts any more."""
        return self.folder / "shuts-down"

    def runs(self, line: str) -> list[str]:
        """Return the words of a program that runs a line of cmd."""
        if self.shuts_down.exists():
            return ["false"]
        return [*wine.loader(), wine.CMD, "/c", line]

    def boot(self) -> None:
        """Make the machine: a copy of the prefix, with its server."""
        shutil.copytree(windows_hosts.prefix(), self.folder / "prefix", symlinks=True)
        for drive in (self.folder / "prefix/dosdevices").iterdir():
            if drive.name != "c:":
                drive.unlink()
        self.switch_on()

    def switch_on(self) -> None:
        """Start the server of wine and its services, unless they run."""
        if self.bears is not None and self.bears.poll() is None:
            return
        self.bears = wine.serve(self.environment)
        # Its services start with the first program, and belong to no session.
        subprocess.run(
            [*wine.loader(), "winecfg", "-v", "win10"], env=self.environment, check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=120,
        )  # fmt: skip

    def switch_off(self) -> None:
        """End all that runs on the machine at once, with its ssh server."""
        assert self.bears is not None
        self.stop()
        self.bears.kill()
        self.bears.wait()
        kill_marked(str(self.folder), "MANUALBUILD_WINE")

    def left(self) -> list[str]:
        """Return what tests or this tool left: folders, and names of processes."""
        found = [str(folder) for folder in self._folders()]
        for process in self._processes():
            with contextlib.suppress(OSError):
                found.append((process / "comm").read_text().strip())
        return found

    def _folders(self) -> list[Path]:
        # Not `Path.glob`, which fails where one is removed meanwhile.
        there = glob.escape(str(self.drive))
        patterns = (f"{there}/mb-*", f"{there}/*/mb-*")
        return [Path(path) for pattern in patterns for path in glob.glob(pattern)]  # noqa: PTH207

    def _processes(self) -> list[Path]:
        """Return what runs in sessions, as folders of /proc."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "environ").read_bytes().split(b"\0")
                ours = f"MANUALBUILD_WINE={self.folder}".encode() in words
                if ours and any(word.startswith(b"MANUALBUILD_JOB=") for word in words):
                    found.append(process)
        return found

    def clean(self) -> None:
        """Remove what is left."""
        for process in self._processes():
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)
        for folder in self._folders():
            shutil.rmtree(folder, ignore_errors=True)

    def halt(self) -> None:
        """End all that is left of the machine."""
        self.switch_off()

    def start(self) -> None:
        """Switch the machine on, start its ssh server and wait until it answers."""
        self.switch_on()
        self._start(__file__, JOB="yes" if self.job else "no")

    def _start(self, program: str, *words: str, **environ: str) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, program, str(self.folder), str(self.port), *words],
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.02)
        raise TimeoutError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        """Kill the ssh server; what it started goes on, as on a machine whose line was cut."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def cut(self) -> None:
        """Cut all lines: the server is killed, and comes back."""
        self.stop()
        self.start()

    def signal(self, name: str) -> None:
        """Send a signal to the ssh server, or kill it and have it come back."""
        assert self.process is not None
        if name == "KILL":
            self.cut()
        else:
            os.kill(self.process.pid, getattr(signal, f"SIG{name}"))


def make(folder: Path, *, job: bool = True) -> WindowsSsh:
    """Make keys and configurations of a machine, and the machine."""
    plain = sshd.make(folder)
    text = plain.ssh_config.read_text()
    plain.ssh_config.write_text(text.replace(f"  User {sshd.USER}\n", "  User builder\n"))
    machine = WindowsSsh(folder=folder, port=plain.port, job=job)
    machine.boot()
    return machine


class _Files(asyncssh.SFTPServer):
    """Files by the paths that the server of Windows gives them."""

    def map_path(self, path: bytes) -> bytes:
        plain = posixpath.normpath(posixpath.join(b"/C:/", path)).lstrip(b"/")
        drive, _, rest = plain.partition(b"/")
        if drive.upper() != b"C:":
            raise asyncssh.SFTPNoSuchFile("no such drive")
        assert self._chroot is not None
        return posixpath.join(self._chroot, rest)

    def reverse_map_path(self, path: bytes) -> bytes:
        assert self._chroot is not None
        return b"/C:/" + path.removeprefix(self._chroot).lstrip(b"/")


async def _session(machine: WindowsSsh, process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run a command as the server of Windows does, until its first process ends."""
    words = machine.runs(process.command or "")
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(Path(__file__).with_name("windows_job.py")),
        os.environ["JOB"], uuid.uuid4().hex, *words,
        cwd=machine.drive, start_new_session=True, env=machine.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    pumped = 0

    async def pump(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
        nonlocal pumped
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await source.read(65536):
                pumped += len(data)
                sink.write(data)
                await sink.drain()

    async def feed() -> None:
        assert ran.stdin is not None
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await process.stdin.read(65536):
                ran.stdin.write(data)
                await ran.stdin.drain()
        ran.stdin.close()

    assert ran.stdout is not None
    assert ran.stderr is not None
    feeding = asyncio.create_task(feed())
    pumps = [
        asyncio.create_task(pump(ran.stdout, process.stdout)),
        asyncio.create_task(pump(ran.stderr, process.stderr)),
    ]
    status = await ran.wait()
    # What it wrote is in the pipes by now, and is brought however slow this machine is; somebody
    # whom it left behind may hold them open for ever.
    silent = 0
    while silent < _SILENT:
        before = pumped
        _, left = await asyncio.wait(pumps, timeout=0.3)
        silent = _SILENT if not left else silent + 1 if pumped == before else 0
    feeding.cancel()
    process.exit(status)


async def _serve(machine: WindowsSsh) -> None:
    await asyncssh.listen(
        "127.0.0.1", machine.port,
        server_host_keys=[str(machine.folder / "host_key")],
        authorized_client_keys=str(machine.folder / "authorized_keys"),
        process_factory=lambda process: _session(machine, process),
        sftp_factory=lambda channel: _Files(channel, chroot=str(machine.drive).encode()),
        encoding=None, line_editor=False,
    )  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(WindowsSsh(folder=Path(sys.argv[1]), port=int(sys.argv[2]))))
