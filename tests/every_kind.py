"""One table of results over every kind of host: `python tests/every_kind.py` (tox run -e kinds).

Makes what the hosts of every_kind.toml need (an ssh server in a container, a root folder, a
Vagrantfile, stand-ins for Windows), tests an example package on all of them in one run, which
prints the table, and removes it all. A host whose part is missing here is named and left out; any
other must pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sshd
import vagrantfiles

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
RECIPE = "greet"
IMAGE = "manualbuild/debian-12:test"
WINDOWS_COMMANDS = ("code.exe 0", "if not %PKG_NAME%==greet exit /B 1")
LIMIT_S = 300


def say(line: str) -> None:
    """Write a line, in order with what the programs write that are called."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def docker(*words: str) -> str:
    """Call docker and return what it says; empty if it fails."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        timeout=120,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else ""


def root_tarball(folder: Path) -> Path:
    """Return a tarball of Debian's root: that of .ci/images, or out of the engine's image."""
    cache = Path(os.environ.get("MANUALBUILD_IMAGE_CACHE", "~/.cache/manualbuild-images"))
    if kept := sorted(cache.expanduser().glob("bookworm-*.tar.zst")):
        return kept[-1]
    made = docker("create", IMAGE, "true")
    docker("export", "-o", str(folder / "root.tar"), made)
    docker("rm", "-f", made)
    return folder / "root.tar"


@contextmanager
def ssh_container(box: vagrantfiles.Box, folder: Path) -> Iterator[Path]:
    """Start a container with an ssh server; give the configuration that reaches it."""
    name = docker("run", "-d", "-p", "127.0.0.1::22", box.image)
    try:
        port = docker("port", name, "22").rpartition(":")[2]
        public = " ".join(box.key.with_name("host_key.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
        (folder / "ssh_config").write_text(
            f"Host *\n  User root\n  Port {port}\n  IdentityFile {box.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        yield folder / "ssh_config"
    finally:
        docker("rm", "-f", name)


def missing() -> dict[str, str]:
    """Return what is missing here, by kind of host."""
    found = {}
    if not shutil.which("docker") or not docker("version"):
        found["docker"] = "no Docker engine answers"
    if not shutil.which("bwrap"):
        found["rootfs"] = "bubblewrap is missing"
    if not sshd.PROGRAM or "docker" in found:
        found["ssh"] = "OpenSSH's server or the engine is missing"
    if not shutil.which("wine") or not shutil.which("sftp"):
        found["wine"] = "wine or OpenSSH's client is missing"
    if not shutil.which("vagrant") or "ssh" in found:
        found["vagrant"] = "vagrant, OpenSSH's server or the engine is missing"
    return found


@contextmanager
def windows(folder: Path) -> Iterator[dict[str, str]]:
    """Give what reaches a stand-in for Windows: by ssh, by WinRM, and its prefix of wine."""
    import windows_hosts
    import windows_ssh
    import windows_winrm

    machine = windows_ssh.make(folder / "windows")
    try:
        windows_hosts.install_tools(machine.drive, folder)
        machine.start()
        other = windows_winrm.WindowsWinrm(
            folder=machine.folder, port=sshd.free_port(), bears=machine.bears
        )
        other.start()
        try:
            text = machine.ssh_config.read_text()
            machine.ssh_config.write_text(f"{text}  Port {machine.port}\n")
            os.environ["WINDOWS_PASSWORD"] = windows_winrm.PASSWORD
            yield {
                "WINE": str(windows_hosts.prefix()),
                "WINDOWS_SSH": str(machine.ssh_config),
                "WINRM": str(other.port),
            }
        finally:
            other.stop()
    finally:
        machine.halt()


def build(folder: Path, *, for_windows: bool) -> tuple[Path, Path]:
    """Build the example, and a package of it for Windows; return its recipe and its packages."""
    import builder  # beside the examples
    import packages

    target = folder / "recipe"
    shutil.copytree(packages.RECIPES / RECIPE, target)
    meta = (target / "meta.yaml").read_text()
    lines = [
        f"{line}  # [unix]" if line.startswith("    - ") else line for line in meta.split("\n")
    ]
    at = lines.index("  commands:") + 1
    lines[at:at] = [f"    - {command}  # [win]" for command in WINDOWS_COMMANDS]
    (target / "meta.yaml").write_text("\n".join(lines))
    built = builder.Built(recipe=target, files=packages._compiled(RECIPE), subdir="linux-64")
    builder.write(built, folder / "built", ".conda")
    if for_windows:
        import windows_hosts

        (folder / "programs").mkdir()
        program = builder.Staged(data=windows_hosts.program(folder / "programs"), executable=True)
        built = builder.Built(
            recipe=target, files={"Library/bin/code.exe": program}, subdir="win-64"
        )
        builder.write(built, folder / "built", ".conda")
    return target, folder / "built"


def matrix(away: dict[str, str], values: dict[str, str]) -> str:
    """Return the matrix of those hosts that can be had here; say which are left out."""
    lines = []
    text = (HERE / "every_kind.toml").read_text()
    for name, value in {"WINRM": "1", **values}.items():
        text = text.replace(f"@{name}@", value)
    for table in text.split("\n\n")[1:]:
        ((name, host),) = tomllib.loads(table)["hosts"].items()
        image = host.get("image")
        windows = host["subdir"].startswith("win-") if "subdir" in host else False
        why = away.get("wine" if windows else host["kind"])
        if why is None and image and not docker("image", "inspect", "-f", "there", image):
            why = f"the image {image} is missing"
        if why is not None:
            say(f"{name} is left out: {why}.")
            continue
        lines.append(table)
    return "\n\n".join(lines) + "\n"


def main() -> int:
    """Make the hosts, run, and return pytest's exit status."""
    began_s = time.monotonic()
    away = missing()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinds-")))
        recipe, built = build(folder, for_windows="wine" not in away)
        values = {}
        if "rootfs" not in away:
            values["ROOT"] = str(root_tarball(folder))
        if "ssh" not in away:
            (folder / "box").mkdir()
            box = vagrantfiles.make(folder / "box")
            stack.callback(docker, "rmi", "-f", box.image)
            values["SSH_CONFIG"] = str(stack.enter_context(ssh_container(box, folder)))
            values["VAGRANT"] = str(box.vagrantfile(folder / "vagrant"))
        if "wine" not in away:
            values |= stack.enter_context(windows(folder))
        (folder / "kinds.toml").write_text(matrix(away, values))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
             "--recipe", str(recipe), "--artifacts", str(built),
             "--matrix", str(folder / "kinds.toml"), "--evidence", str(folder / "report")],
            cwd=folder, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False,
            env={**os.environ, "COLUMNS": "160", "VAGRANT_HOME": str(folder / "vagrant-home")},
        )  # fmt: skip
    say(f"All of it took {time.monotonic() - began_s:.0f} s.")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
