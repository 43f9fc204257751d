"""Hosts of kind ``vagrant``: virtual machines that Vagrant makes, reached as kind ``ssh`` is.

Vagrant is slow to start (0.7 s a call), so it is called for what it alone can
do: ``up``, ``ssh-config`` once, snapshots, ``destroy``. A machine stays up from
the first look at it until its run is swept, and is then left as it was found.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostError, HostUnavailable
from pytest_manualbuild.hosts import ssh, ssh_cmd
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.openssh import Client, environment
from pytest_manualbuild.hosts.reached import BASE
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.hosts.vagrant_calls import Vagrant
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

UP_S = 1800.0
"""Time limit of a machine's way up, in which Vagrant may fetch its box."""
SNAPSHOT_S = 600.0
_SHARED = ".manualbuild-shared"
_PINNED = ("userknownhostsfile", "globalknownhostsfile", "stricthostkeychecking", "loglevel")
"""Options of Vagrant's configuration for ssh that would let any server in."""
_machines: dict[tuple[str, str], _Machine] = {}


class VagrantProvider:
    """Makes a machine of a Vagrantfile a host, for as long as a run lasts."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Bring the machine up, and return its facts and what it was made from."""
        machine = _machine(host, run, progress)
        found = ssh.PROVIDER.probe(machine.far, run, progress)
        return replace(found, origin=machine.origin, notes=(*found.notes, *machine.notes))

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments as on any machine that is reached by ssh."""
        return ssh.PROVIDER.placement(_reached(host, None), run, package_sha256)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> ssh.SshConnection | ssh_cmd.CmdConnection:
        """Put the machine back to its snapshot, if it has one, and connect."""
        machine = _machine(host, run, progress)
        machine.revert(progress)
        return ssh.PROVIDER.start(machine.far, run, environments, progress)

    def sweep(self, run: Run) -> list[str]:
        """Leave each machine of a run as it was found: destroyed, halted, or running."""
        removed: list[str] = []
        away: HostError | None = None
        for entry in run.made("vagrant"):
            if machine := _machines.pop((run.run_id, entry["host"]), None):
                machine.unlock()
            vagrant = Vagrant(entry["host"], Path(entry["root"]), Path(entry["calls"]))
            try:
                vagrant.end_call()
                removed += _left_as_found(run, vagrant, entry)
                run.gone(**entry)
            except HostError as error:
                away = error
        if away is not None:
            raise away
        return removed


class _Machine:
    """One machine that is up for this run, locked against other runs."""

    def __init__(self, host: Host, run: Run, progress: Progress) -> None:
        root = Path(host.root or "").expanduser().absolute()
        calls = run.folder / "vagrant" / host.name
        calls.mkdir(parents=True, exist_ok=True)
        self._host, self._vagrant = host, Vagrant(host.name, root, calls)
        progress("asking vagrant")
        status = self._vagrant.status(host.machine)
        self._name, self._found, self._provider = status.machine, status.state, status.provider
        self._lock = self._locked(root)
        try:
            run.expect(
                "vagrant", host=host.name, root=str(root), machine=self._name,
                found=self._found, calls=str(calls),
            )  # fmt: skip
            if self._found != "running":
                progress("vagrant up")
                self._vagrant.call("up", self._name, limit_s=UP_S)
            self.far = _reached(host, self._ssh_config(calls), self._name)
            self._learn_key(root)
            self._snapshot = self._taken(run)
        except BaseException:
            self.unlock()
            raise
        self._fresh = host.snapshot is None

    @property
    def origin(self) -> str:
        """The box with its version, the provider and the snapshot, in words."""
        kept = self._vagrant.root / ".vagrant/machines" / self._name / self._provider / "box_meta"
        try:
            box = json.loads(kept.read_bytes())
            made = f"box {box['name']} {box['version']}"
        except (OSError, ValueError, KeyError, TypeError):
            made = "no box"
        snapshot = f", snapshot {self._host.snapshot}" if self._host.snapshot else ""
        return f"{made}, provider {self._provider}{snapshot}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not put back, and what is not known, in sentences."""
        notes = ["the key of its server was learnt in this run: Vagrant keeps none"]
        if self._snapshot is None:
            why = "it was there before the run, and the matrix names no snapshot"
            if self._found == "not_created":
                why = f"the provider {self._provider} has no snapshots"
            notes.append(f"nothing but our folder is removed between packages: {why}")
        return tuple(notes)

    def revert(self, progress: Progress) -> None:
        """Put the machine back, unless nothing ran on it since it was fresh."""
        if self._snapshot and not self._fresh:
            progress("putting the machine back")
            # A started machine of a snapshot need not be provisioned again.
            words = ("snapshot", "restore", "--no-provision", self._name, self._snapshot)
            self._vagrant.call(*words, limit_s=SNAPSHOT_S)
        self._fresh = False

    def unlock(self) -> None:
        """Let other runs have the machine."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def _locked(self, root: Path) -> int:
        folder = cache_folder() / "vagrant"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(f"{root}\n{self._name}".encode()).hexdigest()[:16]
        descriptor = os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise HostUnavailable(
                f"{self._host.name}: the machine {self._name} of {root} is in use by another run"
                " or host.",
                remedy="Wait for that run, or give the Vagrantfile one more machine.",
            ) from error
        return descriptor

    def _taken(self, run: Run) -> str | None:
        """Return the snapshot to go back to: the one of the matrix, or one of ours."""
        if self._host.snapshot:
            return self._host.snapshot
        # A machine of somebody's is not put back unasked: it may hold work.
        if self._found != "not_created" or not self._vagrant.has_snapshots(self._name):
            return None
        snapshot = f"manualbuild-{run.run_id[:12]}"
        self._vagrant.call("snapshot", "save", self._name, snapshot, limit_s=SNAPSHOT_S)
        return snapshot

    def _ssh_config(self, folder: Path) -> Path:
        """Write Vagrant's configuration for ssh, with the server's key pinned from now on."""
        said = self._vagrant.plain("ssh-config", self._name)
        options = [line.strip() for line in said.splitlines()]
        kept = [
            line for line in options if line and line.split()[0].lower() not in ("host", *_PINNED)
        ]
        path = folder / "ssh_config"
        ours = [f'UserKnownHostsFile "{folder}/known_hosts"', "GlobalKnownHostsFile /dev/null"]
        path.write_text("\n  ".join(["Host *", *kept, *ours]) + "\n")
        return path

    def _learn_key(self, root: Path) -> None:
        """Take the key that the server has now, once; and see that our folder is not shared."""
        (shared := root / f"{_SHARED}-{secrets.token_hex(4)}").touch()
        try:
            with tempfile.TemporaryDirectory(dir=BASE, prefix="mb-") as private:
                client = Client(
                    Path(private), self.far.address or "", ssh_config=self.far.ssh_config
                )
                learn = ("-o", "StrictHostKeyChecking=accept-new")
                call = client.first(f"test ! -e /vagrant/{shared.name} || echo seen", options=learn)
                try:
                    done = subprocess.run(
                        call, stdin=subprocess.DEVNULL, capture_output=True, env=environment(),
                        timeout=patient(shells.START_S), check=False,
                    )  # fmt: skip
                except subprocess.TimeoutExpired as error:
                    raise client.unreachable(self._host.name, "it does not answer") from error
                if done.returncode != 0:
                    raise client.unreachable(self._host.name)
        finally:
            shared.unlink()
        if b"seen" in done.stdout:
            raise HostUnavailable(
                f"{self._host.name}: the machine {self._name} shares the folder {root}, so that"
                " tests could change its Vagrantfile, which runs on this machine.",
                remedy='Add `config.vm.synced_folder ".", "/vagrant", disabled: true` to it.',
            )


def _machine(host: Host, run: Run, progress: Progress) -> _Machine:
    """Return the host's machine, which is brought up once in a run; HostUnavailable otherwise."""
    key = (run.run_id, host.name)
    if key not in _machines:
        _machines[key] = _Machine(host, run, progress)
    return _machines[key]


def _reached(host: Host, ssh_config: Path | None, address: str | None = None) -> Host:
    return replace(
        host, kind="ssh", root=None, address=address, ssh_config=str(ssh_config or "") or None
    )


def _left_as_found(run: Run, vagrant: Vagrant, entry: dict[str, str]) -> list[str]:
    ours = [
        over for over in run.made("ssh") if over["ssh_config"] == f"{entry['calls']}/ssh_config"
    ]
    name, found = entry["machine"], entry["found"]
    if found != "not_created":
        removed = [line for over in ours for line in ssh.sweep_one(run, over)]
        if found != "running":
            vagrant.call("halt", name, limit_s=SNAPSHOT_S)
            removed.append(f"machine {name} of {vagrant.root} (halted)")
        return removed
    made = vagrant.status(name).state != "not_created"
    if made:
        vagrant.call("destroy", "--force", name, limit_s=SNAPSHOT_S)
    for over in ours:  # what was in the machine went with it
        shutil.rmtree(over["socket"], ignore_errors=True)
        run.gone(**over)
    return [f"machine {name} of {vagrant.root}"] if made else []


PROVIDER = VagrantProvider()
