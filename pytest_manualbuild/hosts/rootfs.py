"""Hosts of kind ``rootfs``: a root folder, or a tarball of one, without any engine.

Overlays of the root and of each environment are mounted in a mount namespace
that nothing outlives, and bubblewrap shuts the control shell into them: its
own processes, its own (empty) network, few capabilities. When the controller
dies, the shell reads end of file, and the kernel ends whatever runs in there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable, during
from pytest_manualbuild.hosts import facts
from pytest_manualbuild.hosts.base import FOLDER, Placement, Progress, in_own_root
from pytest_manualbuild.hosts.cgroups import ControlGroup
from pytest_manualbuild.hosts.kept import Call, Kept, there
from pytest_manualbuild.hosts.local import kill_marked
from pytest_manualbuild.hosts.pipes import PipeTransport
from pytest_manualbuild.hosts.runs import Run, cache_folder, locked, unwritable
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

# Those of Docker's default that packages' scripts use on files and processes of their own.
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
# Root may write there by being root, with no capability at all, and bubblewrap lets it.
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_ODD = frozenset(",:\\\n")  # mount options cannot hold these
_END_S = 10.0
_ROOT = "0"
"""The view of the root itself among those of a host, which are numbered."""
_UNPACK_S = 900


class RootfsProvider:
    """Makes a root folder a host: each start gets a fresh copy-on-write view of it."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return the facts of the root, asked in it; a tarball is unpacked into the cache once."""
        root, digest = _root(host, progress)
        connection = RootfsConnection(host, run, root, ())
        try:
            found = facts.ask(host.name, connection)
        finally:
            connection.close()
        notes = [*found.notes, *connection.notes]
        if digest is None:
            notes.append("the root is a folder: what it holds is not part of the evidence")
        return replace(found, image_digest=digest, notes=tuple(notes))

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in the root; they are linked once, in the cache."""
        del host, run
        return in_own_root(package_sha256)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> RootfsConnection:
        """Start a control shell in overlays of the root and of each environment."""
        root, _ = _root(host, progress)
        return _started(host, run, root, tuple(environments))

    def sweep(self, run: Run) -> list[str]:
        """Kill what is left of a run's processes; mounts end with them, folders with its record."""
        entries = run.made("rootfs")
        removed = kill_marked(f"{run.run_id}/") if entries else []
        for entry in entries:
            if ControlGroup.remove(entry["group"]):
                removed.append(f"control group {entry['group']}")
        return removed

    @contextlib.contextmanager
    def call(self, one: Kept, run: Run, words: Sequence[str], *, terminal: bool) -> Iterator[Call]:
        """Give what mounts the kept views again and runs the words in there."""
        del terminal
        there(one)
        own, host = Path(one.what["folder"]), one.host
        layers = msgspec.json.decode(one.what["layers"], type=list[tuple[str, str]])
        name = f"manualbuild-{run.run_id[:12]}-{os.urandom(3).hex()}"
        run.expect("rootfs", host=host.name, group=name)
        group = ControlGroup(name, memory=host.memory, pids=host.pids)
        try:
            script = _script(own, host, layers, group, words)
            argv = ("unshare", *_own_user(), "--mount", "sh", "-c", script)
            yield Call(argv=argv, environment={"PATH": shells.SYSTEM_PATH})
        finally:
            group.close()

    def resume(
        self,
        one: Kept,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> RootfsConnection:
        """Go on in the kept view of the root, with fresh ones of environments."""
        there(one)
        root, _ = _root(host, progress)
        return _started(host, run, root, tuple(environments), again=one)

    def remove(self, one: Kept, run: Run) -> list[str]:
        """Remove the kept views; nothing runs in them."""
        del run
        _remove(Path(one.what["folder"]))
        return [f"root folder {one.what['folder']}"]


class RootfsConnection(shells.ShellConnection):
    """A control shell in a root folder."""

    def __init__(
        self,
        host: Host,
        run: Run,
        root: Path,
        environments: Sequence[LinkedEnvironment],
        again: Kept | None = None,
    ) -> None:
        """Shut a shell into a fresh view of the root, or into the kept one of ``again``."""
        group = f"manualbuild-{run.run_id[:12]}-{os.urandom(3).hex()}"
        run.expect("rootfs", host=host.name, group=group)
        base = run.folder / "rootfs"
        try:
            base.mkdir(exist_ok=True)
            if again is None:
                self._own = Path(tempfile.mkdtemp(dir=base, prefix=host.name))
            else:
                self._own = Path(again.what["folder"])
                _freshen(self._own)
        except OSError as error:
            raise unwritable(run.folder, error) from error
        self._group = ControlGroup(group, memory=host.memory, pids=host.pids)
        self.notes = _notes(host, self._group)
        """What this way of making a host does not do, in sentences."""
        self._stays = False
        self._layers = [(str(root), "/"), *((one.path, one.prefix) for one in environments)]
        self._pipes: PipeTransport | None = None
        try:
            script = _script(self._own, host, self._layers, self._group, shells.CONTROL)
            self._pipes = PipeTransport(("unshare", *_own_user(), "--mount", "sh", "-c", script))
            super().__init__(
                self._pipes,
                host=host.name,
                folder=f"{FOLDER}/run",
                run_id=run.run_id,
                also_kill=shells.KILL_ALL,
            )
            if host.network:
                self.put("/etc", {"resolv.conf": Path("/etc/resolv.conf").read_bytes()})
        except HostLost as error:
            said = self._pipes.last_words() if self._pipes else ""
            self.close()
            raise _not_started(host, root, said) from error
        except OSError as error:
            self.close()
            raise unwritable(run.folder, error) from error
        except BaseException:
            self.close()
            raise

    def keep(self) -> dict[str, str]:
        """Leave the folders of the views, with what was written in them; no process stays."""
        self._end()
        self._stays = True
        layers = msgspec.json.encode(self._layers).decode()
        return {"place": str(self._own), "folder": str(self._own), "layers": layers}

    def close(self) -> None:
        """End the control shell, and with it every process and mount; remove the folders."""
        self._end()
        if not self._stays:
            _remove(self._own)

    def _end(self) -> None:
        if self._pipes is not None:
            self._pipes.hang_up(patient(_END_S))
            self._pipes.close()
            self._pipes = None
        self._group.close()


def _script(
    own: Path,
    host: Host,
    layers: Sequence[tuple[str, str]],
    group: ControlGroup,
    words: Sequence[str],
) -> str:
    """Return what mounts the overlays of (folder here, path there) and shuts words into them."""
    views, inside = [], []
    for number, (lower, path) in enumerate(layers):
        views.append(_overlay(own / str(number), lower))
        inside += ["--bind", str(own / str(number) / "view"), path]
    call = ["bwrap", "--die-with-parent", "--clearenv", "--chdir", "/"]
    call += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
    call += [] if host.network else ["--unshare-net"]
    call += [word for name in _CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
    call += [*inside, "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]
    call += [word for path in _READ_ONLY for word in ("--ro-bind-try", path, path)]
    # Not `exec`: bubblewrap ends with its parent, and a thread of ours is too short-lived.
    return "\n".join(["set -e", *group.enter(), *views, f"{shlex.join([*call, *words])}\n"])


def _overlay(folder: Path, lower: str) -> str:
    parts = [folder / part for part in ("upper", "work", "view")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    upper, work, view = map(str, parts)
    for path in (lower, upper):
        if _ODD & set(path):
            raise HostUnavailable(
                f"{path}: an overlay cannot be mounted at a path with ',', ':' or '\\'.",
                remedy="Move it; MANUALBUILD_CACHE names another folder for the cache.",
            )
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    options += "" if os.geteuid() == 0 else ",userxattr"
    return shlex.join(["mount", "-t", "overlay", "overlay", "-o", options, view])


def _started(
    host: Host,
    run: Run,
    root: Path,
    environments: Sequence[LinkedEnvironment],
    again: Kept | None = None,
) -> RootfsConnection:
    connection = RootfsConnection(host, run, root, environments, again)
    try:
        with during("delivering"):
            if not connection.has_folders([f"{one.prefix}/conda-meta" for one in environments]):
                raise EnvironmentBroken(
                    f"{host.name}: the environment did not arrive in the root.",
                    remedy="Run again; if it stays so, report it with the kernel's version.",
                )
    except BaseException:
        connection.close()
        raise
    return connection


def _own_user() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("--user", "--map-root-user")


def _notes(host: Host, group: ControlGroup) -> tuple[str, ...]:
    notes = []
    if not group.limits:
        notes.append("memory and number of processes are not limited on this machine")
    if host.network:
        notes.append("the network is that of this machine")
    if os.geteuid() != 0:
        notes.append("there is one user only: files cannot be given to others")
    return tuple(notes)


def _not_started(host: Host, root: Path, said: str) -> HostUnavailable:
    lines = said.splitlines() or ["it said nothing"]
    remedy = "Is it a whole root folder for this machine's processor, with /bin/sh?"
    if "ermission" in said or "not permitted" in said:
        remedy = "Run as root, or let users make user namespaces; or leave the host out with --on."
    elif "No space" in said:
        remedy = "Free some space in the cache folder."
    return HostUnavailable(f"{host.name}: {root} cannot be entered: {lines[-1]}.", remedy=remedy)


def _root(host: Host, progress: Progress) -> tuple[Path, str | None]:
    """Return the root folder, and the digest of the tarball that it came from."""
    if sys.platform != "linux":
        raise HostUnavailable(
            f"{host.name}: hosts of kind rootfs need Linux.", remedy="Leave them out with --on."
        )
    for program, package in (("unshare", "util-linux"), ("bwrap", "bubblewrap")):
        if not shutil.which(program, path=shells.SYSTEM_PATH):
            raise HostUnavailable(
                f"{host.name}: {program} is not on this machine, and hosts of kind rootfs need it.",
                remedy=f"Install {package}, or leave the host out with --on.",
            )
    named = Path(host.root or "").expanduser().absolute()
    if named.is_dir():
        return named, None
    try:
        with named.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _unpacked(host, named, digest, progress), f"sha256:{digest}"
    except OSError as error:
        raise HostUnavailable(
            f"{host.name}: the root {named} cannot be used: {error.strerror or error}.",
            remedy="Correct `root` in the matrix: a root folder, or a tarball of one.",
        ) from error


def _unpacked(host: Host, tarball: Path, digest: str, progress: Progress) -> Path:
    """Return the folder of the cache that holds a tarball's root."""
    target = cache_folder() / "roots" / digest
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            progress(f"unpacking {tarball.name}")
            fresh = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                fresh.chmod(0o755)
                # Device files need rights that a user lacks, and /dev is mounted anyway.
                words = ["--exclude=./dev/*", "--exclude=dev/*", "-C", str(fresh)]
                done = subprocess.run(
                    ["tar", "-x", "--numeric-owner", *words, "-f", str(tarball)],  # noqa: S607 # the system's
                    stdin=subprocess.DEVNULL, capture_output=True, check=False,
                    timeout=patient(_UNPACK_S),
                )  # fmt: skip
                if done.returncode != 0:
                    said = done.stderr.decode(errors="backslashreplace").strip() or "tar failed"
                    raise HostUnavailable(
                        f"{host.name}: {tarball} cannot be unpacked: {said.splitlines()[0]}.",
                        remedy="Is it a tarball of a root folder, and is there space for it?",
                    )
                fresh.rename(target)
            finally:
                _remove(fresh)
    return target


def _freshen(own: Path) -> None:
    """Remove what tests left in a kept root; what people did elsewhere in it stays."""
    for folder in own.iterdir():
        if folder.name != _ROOT:
            _remove(folder)
    _remove(own / _ROOT / "upper" / FOLDER.lstrip("/"))
    if (own / _ROOT / "upper" / FOLDER.lstrip("/")).exists():
        raise EnvironmentBroken(
            f"{own}: what an earlier run left there cannot be removed.",
            remedy="Remove the kept host: `manualbuild hosts sweep`.",
        )


def _remove(folder: Path) -> None:
    """Remove a folder whatever its modes; the kernel leaves one of an overlay's closed to all."""
    for closed in (*folder.glob("*/work/work"),):
        with contextlib.suppress(OSError):
            closed.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


PROVIDER = RootfsProvider()
