"""A Docker engine of our own beside the machine's: its own socket, store, network and containers.

In the machine's network namespace, an engine without a bridge would remove the machine's
``docker0``, and no container of the machine's engine could have a network any more.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin")
START_S = 60.0


class Engine:
    """One engine; ``folder`` takes all that it makes."""

    def __init__(self, folder: Path, *more: str, port: int | None = None) -> None:
        self.folder = folder
        self._port = port
        """On the machine's loopback; None: there is its socket alone."""
        self._more = more
        """Further words of its command line."""
        self.socket = folder / "d.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The engine's URL on this machine."""
        return f"unix://{self.socket}"

    def start(self) -> str:
        """Start it; return why it did not start, or nothing."""
        self.folder.mkdir(exist_ok=True)
        call = [
            "unshare", "--net", str(PROGRAM), "--host", self.url,
            "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec",
            "--pidfile", f"{self.folder}/pid", "--bridge", "none", "--iptables=false",
            "--ip-forward=false", "--ip-masq=false", *self._more,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log, socket.socket() as listener:
            if self._port is not None:
                # A socket belongs to the network that it was made in: it is handed in as number 3,
                # as systemd does.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", self._port))
                listener.listen()
                hand = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
                call = ["bash", "-c", hand, "bash", *call, "--host", "fd://"]
            self._process = subprocess.Popen(
                call,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"},
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.docker("version").returncode == 0:
                return ""
            time.sleep(0.1)
        return (self.folder / "log").read_text()[-500:]

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call the docker command on this engine."""
        return subprocess.run(
            ["docker", "--host", self.url, *words],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip

    def take_root(self, root: Path, image: str) -> None:
        """Make an image of a root folder."""
        with subprocess.Popen(
            ["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE
        ) as packed:
            subprocess.run(
                ["docker", "--host", self.url, "import", "-", image],
                stdin=packed.stdout, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip

    def stop(self) -> None:
        """Stop it, with the containers that it has."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
