"""A real sshd on a loopback port, with keys and a configuration of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin:/usr/bin")
USER = pwd.getpwuid(os.geteuid()).pw_name


@dataclass(kw_only=True)
class Sshd:
    """One server; its client configuration is the file ``ssh_config``."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def ssh_config(self) -> Path:
        """The configuration of a client that knows the server's key."""
        return self.folder / "ssh_config"

    @property
    def key(self) -> Path:
        """The client's private key, which the server lets in."""
        return self.folder / "key"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(PROGRAM), "-D", "-e", "-f", str(self.folder / "sshd_config")],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Kill the server and the connections that it serves."""
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()

    def cut(self) -> None:
        """Kill the processes that serve connections: for the client, the line is cut."""
        self.signal("KILL")

    def signal(self, name: str) -> None:
        """Send a signal, such as ``KILL``, to the processes that serve connections."""
        assert self.process is not None
        serving = self._children(self.process.pid)
        # All are found before one is hit: a process whose parent is gone is nobody's child.
        for pid in [*serving, *(child for one in serving for child in self._children(one))]:
            with contextlib.suppress(OSError):  # it ended meanwhile by itself
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, getattr(signal, f"SIG{name}"))

    def _children(self, pid: int) -> list[int]:
        found: list[int] = []
        with contextlib.suppress(OSError):  # as above
            for task in Path(f"/proc/{pid}/task").glob("*"):
                found += map(int, (task / "children").read_text().split())
        return found

    def turn_away(self, fault: str) -> None:
        """Let clients fail: ``changed-key``, ``unknown-key`` or ``wrong-credentials``."""
        known = self.folder / "known_hosts"
        if fault == "changed-key":
            name, kind, _ = known.read_text().split()
            other = (self.folder / "other_key.pub").read_text().split()[1]
            known.write_text(f"{name} {kind} {other}\n")
        elif fault == "unknown-key":
            known.write_text("")
        elif fault == "wrong-credentials":
            (self.folder / "authorized_keys").write_text("")

    def new_host_key(self) -> None:
        """Give the server another key than the one that clients know."""
        (self.folder / "host_key").unlink()
        keygen(self.folder / "host_key")


def make(folder: Path, *more: str) -> Sshd:
    """Make keys and configurations of a server; ``more`` are lines of its configuration."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its rights, as root
    port = free_port()
    server = Sshd(folder=folder, port=port)
    for name in ("host_key", "key", "other_key"):
        keygen(folder / name)
    trust(server)
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys", "StrictModes no", "UsePAM no",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PidFile none",
        "AcceptEnv *", "LogLevel VERBOSE", "PermitRootLogin yes", "MaxStartups 100",
        # What the newest one computes is a third of the time of a connection.
        "KexAlgorithms curve25519-sha256", *more,
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    server.ssh_config.write_text(
        f"Host *\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        f"  User {USER}\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  SendEnv *\n"
        "  StrictHostKeyChecking no\n"
    )
    return server


def trust(server: Sshd) -> None:
    """Have server and client know each other's key."""
    folder = server.folder
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {public}\n")


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def keygen(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
