"""A Docker engine of our own beside the machine's: its own socket, store and containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin")
START_S = 60.0


class Engine:
    """One engine; ``folder`` takes all that it makes."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder = folder
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
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(PROGRAM), "--host", self.url, "--data-root", f"{self.folder}/data",
                    "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid",
                    "--bridge", "none", "--iptables=false", "--ip-forward=false",
                    "--ip-masq=false", *self._more,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"},
            )  # fmt: skip
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
