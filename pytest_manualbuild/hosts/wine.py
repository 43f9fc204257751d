"""Hosts of kind ``wine``: a prefix of wine on this machine, which says it is some Windows.

A stand-in, never Windows itself: it shows that a package's batch files, programs and imports run,
and nothing about what wine does otherwise. One prefix is made in the user's cache and copied for
each host; a server of wine (``wineserver``) of its own lives as long as the host.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.batch import BatchConnection
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable, during
from pytest_manualbuild.hosts import facts
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.local import kill_marked
from pytest_manualbuild.hosts.pipes import PipedProcess
from pytest_manualbuild.hosts.runs import Run, cache_folder, locked
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

ROOT = r"C:\mb"
"""Where our files go on such a host."""
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"
SUBDIR = "win-64"
WINE, WINESERVER = "wine", "wineserver"
CMD = r"C:\windows\system32\cmd.exe"
"""With its path: by its name alone, wine has another program look for it, which takes 0.2 s."""
_FIXED = ("setarch", "x86_64", "-R")
"""What starts a program with nothing at a random place in its memory, and all that it starts."""
_BOOT_S = 300.0
_NOTES = (
    "a stand-in: {version}, not Windows",
    "the network is not cut off on this machine",
)


class WineProvider:
    """Makes hosts of copies of one prefix."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return what a copy of the prefix says of itself, kept by what the prefix is."""
        source = _source(host, progress)
        named = hashlib.sha256((source / "system.reg").read_bytes())
        named.update(f"{version()} {host.persona}".encode())
        kept = cache_folder() / "facts" / f"wine-{named.hexdigest()}.json"
        found = facts.kept(kept)
        if found is None:
            connection = self.start(host, run, [], progress)
            try:
                asks_s = patient(shells.START_S)
                said = connection.run(facts.WINDOWS_PROBE, timeout_s=asks_s).stdout
            finally:
                connection.close()
            notes = tuple(note.format(version=version()) for note in _NOTES)
            found = replace(facts.parse_windows(said), notes=notes)
            facts.keep(kept, found)
        return found

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in a folder that is the same in each run: they are linked once."""
        del host, run
        folder = f"{ROOT}\\{package_sha256[:8]}"
        return Placement(root=folder, folder=folder, in_place=False)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> BatchConnection:
        """Copy the prefix, and the environments into it."""
        source = _source(host, progress)
        run.expect("wine", host=host.name)
        machine = _WineMachine(host, run)
        try:
            progress("copying the prefix")
            machine.begin(source)
            with during("delivering"):
                for one in environments:
                    progress("copying the environment")
                    machine.deliver(one)
                if how := machine.lost():
                    raise HostLost(
                        f"{host.name}: the host was lost: {how}.",
                        remedy="Look at the host and run again; this says nothing about the"
                        " package.",
                    )
        except BaseException:
            machine.close()
            raise
        return BatchConnection(machine, host=host.name, folder=f"{ROOT}\\s")

    def sweep(self, run: Run) -> list[str]:
        """Kill what is left of a run's processes; its folders go with its record."""
        return kill_marked(f"{run.run_id}/", "MANUALBUILD_WINE") if run.made("wine") else []


class _WineMachine:
    """One copy of the prefix with its server."""

    def __init__(self, host: Host, run: Run) -> None:
        self._host = host
        self._marked = f"{run.run_id}/{host.name}"
        self._own = run.folder / f"{host.name}-{os.urandom(4).hex()}"
        self._prefix = self._own / "prefix"
        self._environment = environment(self._own, self._marked)
        self._server: subprocess.Popen[bytes] | None = None

    def begin(self, source: Path) -> None:
        """Copy the prefix and start its server and services; HostUnavailable if that fails."""
        try:
            self._own.mkdir(parents=True)
            subprocess.run(
                ["/bin/cp", "-a", "--reflink=auto", str(source), str(self._prefix)],
                check=True,
                capture_output=True,
                timeout=patient(_BOOT_S),
            )
            # Tests have no business in the folders of this machine.
            for drive in (self._prefix / "dosdevices").iterdir():
                if drive.name != "c:":
                    drive.unlink()
            self._server = serve(self._environment)
            _wine(["winecfg", "-v", self._host.persona], self._environment, self.drive)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or b""
            raise HostUnavailable(
                f"{self._host.name}: the prefix cannot be copied and started:"
                f" {said.decode(errors='replace').strip() or error}.",
                remedy="Is the disk full? Remove the cache's folder `wine` to have it made anew.",
            ) from error

    @property
    def drive(self) -> Path:
        """The folder that is drive C."""
        return self._prefix / "drive_c"

    def _path(self, path: str) -> Path:
        return self.drive.joinpath(*path.split("\\")[1:])

    def deliver(self, one: LinkedEnvironment) -> None:
        """Copy an environment to its prefix; EnvironmentBroken if that fails."""
        try:
            shutil.copytree(one.path, self._path(one.prefix), symlinks=True)
        except (OSError, shutil.Error) as error:
            raise EnvironmentBroken(
                f"{self._host.name}: the environment cannot be copied: {error}.",
                remedy="Is the disk full?",
            ) from error
        if not (self._path(one.prefix) / "conda-meta").is_dir():
            raise EnvironmentBroken(
                f"{self._host.name}: the environment did not arrive whole.",
                remedy="Run again; was a part of the cache removed meanwhile?",
            )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files; see ``batch.Machine``."""
        try:
            for path, data in files.items():
                target = self._path(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        except OSError as error:
            raise HostLost(
                f"{self._host.name}: files cannot be written on it: {error.strerror}.",
                remedy="Is the disk full?",
            ) from error

    def call(self, path: str) -> PipedProcess:
        """Run a batch file; see ``batch.Machine``."""
        marked = {**self._environment, "MANUALBUILD_RUN_ID": self._marked}
        return PipedProcess([*loader(), CMD, "/d", "/c", path], marked, str(self.drive))

    def kill(self) -> tuple[str, ...]:
        """Kill all processes of scripts; see ``batch.Machine``."""
        return tuple(kill_marked(self._marked))

    def lost(self) -> str:
        """Say whether the server is gone: without it no process of the prefix lives."""
        if self._server is None or self._server.poll() is not None:
            return "its wineserver ended"
        return ""

    def close(self) -> None:
        """End all processes of the prefix, and remove it."""
        kill_marked(self._marked)
        kill_marked(self._marked, "MANUALBUILD_WINE")
        if self._server is not None:
            self._server.wait()
            self._server = None
        shutil.rmtree(self._own, ignore_errors=True)


def environment(own: Path, mark: str) -> dict[str, str]:
    """Return the variables that wine gets for the prefix in a folder: nothing of the caller's."""
    return {
        "PATH": PROGRAMS,
        "HOME": str(own),  # what wine calls a user's documents are links to it
        "LANG": "C.UTF-8",
        "WINEPREFIX": str(own / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        # No debugger that waits for a user, no offers to fetch other programs, no menus.
        "WINEDLLOVERRIDES": "winedbg.exe,winemenubuilder.exe,mscoree,mshtml=",
        "MANUALBUILD_WINE": mark,
    }


@functools.cache
def loader() -> tuple[str, ...]:
    """Return the words before the name of a program of Windows, which start it.

    Each process has a page at 0x7ffe0000, as on Windows. Linux may put the heap of wine's loader
    there, which is anywhere in a GB behind it: one process of 2000 did not start, for which a
    script then took the exit status 9009.
    """
    try:
        tried = subprocess.run(
            [*_FIXED, "true"],
            env={"PATH": PROGRAMS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=shells.START_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return (WINE,)
    # Containers may forbid it, where wine runs none the less.
    return (*_FIXED, WINE) if tried.returncode == 0 else (WINE,)


def _source(host: Host, progress: Progress) -> Path:
    """Return the prefix to copy; HostUnavailable where there is none, or no wine."""
    if not shutil.which("wine", path=PROGRAMS):
        raise HostUnavailable(
            f"{host.name}: wine is not installed.",
            remedy="Install it (Debian: wine and wine64), or leave the host out with --on.",
        )
    if host.subdir != SUBDIR:
        raise HostUnavailable(
            f"{host.name}: hosts of kind wine are {SUBDIR}, not {host.subdir}.",
            remedy="Correct its subdir, or leave it out with --on.",
        )
    source = Path(host.root).expanduser() if host.root else _base(progress)
    if not ((source / "drive_c/windows").is_dir() and (source / "system.reg").is_file()):
        raise HostUnavailable(
            f"{host.name}: {source} is no prefix of wine.",
            remedy="Name one that `wineboot` made as `root` in the matrix, or name none.",
        )
    return source


def _base(progress: Progress) -> Path:
    """Return the prefix in the cache, made when it is not there yet for this version of wine."""
    target = cache_folder() / "wine" / version()
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            progress("making a prefix of wine")
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                make_prefix(Path(folder))
                (Path(folder) / "prefix").rename(target)
    return target


def serve(variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the server of a prefix, wait until it answers, and return what ends when it does.

    A first program that finds none yet starts one of its own, before which this one would yield.
    """

    def call(option: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [WINESERVER, option],
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    with call("-p") as starts:
        try:
            if starts.wait(patient(_BOOT_S)) != 0:
                raise OSError(None, "its server does not start")
        except subprocess.TimeoutExpired:
            starts.kill()
            raise
    return call("-w")


def make_prefix(folder: Path) -> None:
    """Make a prefix as ``prefix`` in a folder; HostUnavailable if that fails."""
    variables = environment(folder, folder.name)
    try:
        _wine(["wineboot", "-i"], variables, folder)
        subprocess.run([WINESERVER, "-w"], env=variables, timeout=patient(_BOOT_S), check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostUnavailable(
            f"wine cannot make a prefix: {error}.",
            remedy="Try `wineboot -i` by hand; hosts of kind wine can be left out with --on.",
        ) from error
    finally:
        kill_marked(folder.name, "MANUALBUILD_WINE")


def _wine(words: list[str], variables: Mapping[str, str], folder: Path) -> None:
    """Run one of wine's programs; its words go nowhere, since its services keep the pipes open."""
    subprocess.run(
        [*loader(), *words],
        env=dict(variables),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=patient(_BOOT_S),
        check=True,
    )


def version() -> str:
    """Return such as ``wine-8.0``."""
    done = subprocess.run(
        [WINE, "--version"],
        env={"PATH": PROGRAMS, "WINEDEBUG": "-all"},
        capture_output=True,
        text=True,
        timeout=shells.START_S,
        check=False,
    )
    return (done.stdout.split() or ["wine"])[0]


PROVIDER = WineProvider()
