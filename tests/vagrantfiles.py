"""Vagrant machines for the tests: containers with an ssh server, by the real docker provider."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import sshd

_BASE = "manualbuild/debian-12:test"
_REPOSITORY = "manualbuild/debian-12-ssh"
_DOCKERFILE = f"""\
FROM {_BASE}
COPY root /server
COPY key.pub /root/.ssh/authorized_keys
COPY host_key /etc/ssh/host_key
COPY host_key /etc/ssh/host_key.kept
COPY other_key /etc/ssh/other_key.kept
RUN cp -rn /server/. / && rm -r /server && mkdir -p /run/sshd && touch /etc/fstab \\
 && chmod 700 /root/.ssh && chmod 600 /etc/ssh/*_key* \\
 && echo 'sshd:x:105:65534::/run/sshd:/usr/sbin/nologin' >> /etc/passwd
CMD ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", "/etc/ssh/host_key", \\
     "-o", "PermitRootLogin=yes", "-o", "PidFile=/run/sshd.pid"]
"""
# Named, as Vagrant would find out the guest by asking for one system after the other: half of `up`.
_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  {more}
  config.vm.guest = :debian
  config.vm.boot_timeout = {boot_s}
  config.ssh.username = "root"
  config.ssh.sudo_command = "%c"
  config.ssh.private_key_path = "{key}"
  config.ssh.insert_key = false
  config.vm.provider "docker" do |docker|
    docker.image = "{image}"
    docker.pull = false
    docker.has_ssh = true
    {cmd}
  end
end
"""
NOT_SHARED = 'config.vm.synced_folder ".", "/vagrant", disabled: true'
# A fake: no provider that has snapshots runs in a container. The docker provider gets them here,
# each of them an image. What Vagrant's command does with such a provider is real.
_SNAPSHOTS = """
REPOSITORY = "{repository}"
class SnapshotSave
  def initialize(app, env) = @app = app
  def call(env)
    `docker commit #{{env[:machine].id}} #{{REPOSITORY}}:#{{env[:snapshot_name]}}`
    @app.call(env)
  end
end
class SnapshotRestore
  def initialize(app, env) = @app = app
  def call(env)
    machine, port = env[:machine], env[:machine].ssh_info[:port]
    `docker rm -f #{{machine.id}}`
    from = "#{{REPOSITORY}}:#{{env[:snapshot_name]}}"
    machine.id = `docker run -d -p 127.0.0.1:#{{port}}:22 #{{from}}`.strip
    machine.communicate.wait_for_ready(20)
    @app.call(env)
  end
end
module Snapshots
  def self.snapshot_list(machine) = `docker images --format '{{{{.Tag}}}}' #{{REPOSITORY}}`.split
end
class SnapshotPlugin < Vagrant.plugin("2")
  name "snapshots of containers"
  provider_capability("docker", "snapshot_list") {{ Snapshots }}
end
class << VagrantPlugins::DockerProvider::Action
  def action_snapshot_save = Vagrant::Action::Builder.new.tap {{ |b| b.use SnapshotSave }}
  def action_snapshot_restore = Vagrant::Action::Builder.new.tap {{ |b| b.use SnapshotRestore }}
end
"""


@dataclass(frozen=True, kw_only=True)
class Box:
    """An image that a Vagrantfile can name, and the key that its server lets in."""

    image: str
    key: Path

    def vagrantfile(
        self,
        folder: Path,
        *,
        more: str = NOT_SHARED,
        before: str = "",
        key: Path | None = None,
        boot_s: int = 20,
        cmd: str = "",
    ) -> Path:
        """Write a Vagrantfile into a folder, which is made."""
        folder.mkdir(exist_ok=True)
        text = _VAGRANTFILE.format(
            more=more, key=key or self.key, image=self.image, boot_s=boot_s,
            cmd=f"docker.cmd = {cmd}" if cmd else "",
        )  # fmt: skip
        (folder / "Vagrantfile").write_text(before + text)
        return folder


def snapshots(repository: str) -> str:
    """Return what gives a Vagrantfile's machines snapshots, kept under that name of images."""
    return _SNAPSHOTS.format(repository=repository)


def make(folder: Path) -> Box:
    """Make an image of Debian with this machine's ssh server."""
    _sweep_dead()
    needed = subprocess.run(
        ["ldd", str(sshd.PROGRAM)], capture_output=True, text=True, check=True
    ).stdout
    for path in (str(sshd.PROGRAM), *re.findall(r"/\S+", needed)):
        into = folder / "root" / os.path.realpath(Path(path).parent)[1:] / Path(path).name
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, into)
    for name in ("key", "host_key", "other_key"):
        sshd.keygen(folder / name)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    image = f"{_REPOSITORY}:test-{os.getpid()}"
    subprocess.run(
        ["docker", "build", "-q", "--network", "none", "-t", image, "."],
        cwd=folder, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return Box(image=image, key=folder / "key")


def _sweep_dead() -> None:
    """Remove images, and the machines that were made from them, of test runs that were killed."""
    for tag in _docker("images", "--format", "{{.Tag}}", _REPOSITORY):
        if not Path("/proc", tag.removeprefix("test-")).exists():
            image = f"{_REPOSITORY}:{tag}"
            for machine in _docker("ps", "-a", "-q", "--filter", f"ancestor={image}"):
                _docker("rm", "-f", "-v", machine)
            _docker("rmi", "-f", image)


def _docker(*words: str) -> list[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    return done.stdout.split()


def vagrant(folder: Path, *words: str) -> str:
    """Call vagrant as a user would; return what it says."""
    return subprocess.run(
        ["vagrant", *words], cwd=folder, check=True, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        env={**os.environ, "VAGRANT_CHECKPOINT_DISABLE": "1"},
    ).stdout  # fmt: skip


def wait_for_ssh(machine: str) -> None:
    """Wait until the server of a container that was just started says who it is."""
    said = subprocess.run(["docker", "port", machine, "22"], capture_output=True, check=True)
    host, _, port = said.stdout.decode().split()[0].rpartition(":")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, int(port)), timeout=5) as server,
        ):
            if server.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise AssertionError(f"no ssh server answers in {machine}")


def container(folder: Path) -> str:
    """Return the id of the container that is the machine of a folder."""
    return (folder / ".vagrant/machines/default/docker/id").read_text()
