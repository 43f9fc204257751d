"""Hosts that stay after their run, for people to look at: the record of each, on disk.

A kept host is a file in the folder of its run. While somebody uses one, the run's lock is
shared and the host's own is taken, so that nothing sweeps it and nobody else changes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from pytest_manualbuild.errors import HostUnavailable, ManualBuildError
from pytest_manualbuild.hosts.base import Connection, Progress
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

_RECORDS = "kept"
_SETTLED = "settled"
ENTER = "enter.sh"
"""What makes a shell as the tests had it, in the folder of a section on the host."""


class KeptSection(msgspec.Struct, frozen=True, kw_only=True):
    """One test section whose environment is there to look at."""

    package: str
    """The label of the package, and that of the section if it is not the only one."""
    folder: str
    """Where its files are on the host: ``enter.sh``, and ``work`` with those of the tests."""
    failed: bool


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One host that was kept."""

    run_id: str
    name: str
    """Of its record."""
    host: Host
    image_digest: str | None
    at: str
    """When it was kept: UTC, in ISO 8601."""
    clean: bool
    """Whether the tests left it as a next run may use it."""
    environment: dict[str, str]
    """The variables that scripts on it begin with."""
    what: dict[str, str]
    """What its provider wrote down to find it again; ``place`` names it among those of the run."""
    sections: tuple[KeptSection, ...]

    @property
    def record(self) -> Path:
        """The file that says that it is there."""
        return cache_folder() / "runs" / self.run_id / _RECORDS / f"{self.name}.json"

    def section(self, package: str | None) -> KeptSection:
        """Return the section of a package; by default the first that failed, or just the first."""
        named = [
            one for one in self.sections if package in (None, one.package, one.package.split()[0])
        ]
        if not named:
            there = ", ".join(one.package for one in self.sections)
            raise ManualBuildError(
                f"{self.host.name}: no environment of {package!r} was kept there.",
                remedy=f"Name one of these with --package: {there}.",
            )
        return next((one for one in named if one.failed), named[0])


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A command of this machine that runs one on a kept host."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


@runtime_checkable
class Keepable(Protocol):
    """A connection whose host can stay when it ends."""

    def keep(self) -> dict[str, str]:
        """Leave the host there and let go of it; return what finds it again, with a ``place``.

        Whoever calls writes it down. HostLost where the host does not answer any more.
        """
        ...


@runtime_checkable
class Keeper(Protocol):
    """A provider whose hosts can stay."""

    def call(
        self, one: Kept, run: Run, words: Sequence[str], *, terminal: bool
    ) -> contextlib.AbstractContextManager[Call]:
        """Give what runs these words on the kept host, with a terminal of their own or not.

        ``run`` is that of who asks. Raises HostUnavailable where the host is not there any more.
        """
        ...

    def remove(self, one: Kept, run: Run) -> list[str]:
        """Remove the kept host; say what was removed. HostUnavailable where its machine is away."""
        ...


@runtime_checkable
class Resumer(Protocol):
    """A provider that can make a kept host a host again; where it is a machine, that is no gain."""

    def resume(
        self,
        one: Kept,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> Connection:
        """Connect to the kept host, with fresh copies of these environments at their prefixes.

        What tests left is removed, what people did elsewhere on it stays. The connection's
        ``close`` removes the host. Raises HostUnavailable or EnvironmentBroken.
        """
        ...


def new_name(host: Host) -> str:
    """Return the name of a record that is about to be written."""
    return f"{host.name}-{secrets.token_hex(3)}"


def write(kept: Kept) -> None:
    """Write the record of a kept host, whole or not at all."""
    path = kept.record
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(kept))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def of_run(run_id: str) -> list[Kept]:
    """Return the kept hosts of a run; a record that cannot be read stands for none."""
    found = []
    for path in sorted((cache_folder() / "runs" / run_id / _RECORDS).glob("*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Kept))
    return found


def every() -> list[Kept]:
    """Return all kept hosts of this cache, the latest first."""
    runs = (cache_folder() / "runs").glob("*")
    found = [kept for folder in runs for kept in of_run(folder.name)]
    return sorted(found, key=lambda kept: kept.at, reverse=True)


def places(run_id: str) -> frozenset[str]:
    """Return what names the kept hosts of a run among the things that it made."""
    return frozenset(kept.what["place"] for kept in of_run(run_id))


def find(name: str, run_id: str | None, package: str | None) -> Kept:
    """Return the host of that name that was kept last: where that package, or anything, failed.

    A part of the run's id, from its beginning, is enough.
    """
    here = every()
    named = [k for k in here if k.host.name == name and k.run_id.startswith(run_id or "")]
    if not named:
        there = ", ".join(f"{kept.host.name} (run {kept.run_id[:12]})" for kept in here)
        raise ManualBuildError(
            f"No host {name!r} was kept{f' by a run {run_id}' if run_id else ''}.",
            remedy=f"Kept are: {there}." if there else "Run the tests with --keep failed.",
        )
    named = [kept for kept in named if kept.run_id == named[0].run_id]
    for kept in named:
        with contextlib.suppress(ManualBuildError):
            if kept.section(package).failed:
                return kept
    for kept in named:
        with contextlib.suppress(ManualBuildError):
            kept.section(package)
            return kept
    named[0].section(package)
    return named[0]


def bash(section: KeptSection, command: str | None, *, terminal: bool) -> list[str]:
    """Return the words of a bash on the host that has what the tests of a section had."""
    enter = f"{section.folder}/{ENTER}"
    if command is not None:
        return ["bash", "--noprofile", "--norc", "-c", f". {shlex.quote(enter)}\n{command}\n"]
    # Without a terminal, bash reads commands from its input, and no file before that by itself.
    if terminal:
        return ["bash", "--noprofile", "--rcfile", enter, "-i"]
    return ["bash", "--noprofile", "--norc", "-c", f". {shlex.quote(enter)}; exec bash -s"]


@contextlib.contextmanager
def held(kept: Kept) -> Iterator[None]:
    """Hold a kept host: nothing sweeps it, and nobody else uses it, meanwhile."""
    with contextlib.ExitStack() as stack:
        run_lock = kept.record.parents[1] / "lock"
        for path, mode, why in (
            (run_lock, fcntl.LOCK_SH, "its run still goes on"),
            (kept.record, fcntl.LOCK_EX, "somebody else uses it"),
        ):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except OSError as error:
                gone = isinstance(error, FileNotFoundError)
                raise HostUnavailable(
                    f"{kept.host.name}: {'it was removed' if gone else why}.",
                    remedy="See `manualbuild hosts list`." if gone else "Try again later.",
                ) from error
        yield


def settled(run: Run) -> bool:
    """Say whether nothing is left of a run but the hosts that it kept."""
    return (run.folder / _SETTLED).exists() and bool(of_run(run.run_id))


def settle(run: Run) -> None:
    """Remove everything in the folder of a run that no kept host needs."""
    needed = {Path(kept.what["folder"]) for kept in of_run(run.run_id) if kept.what.get("folder")}
    mine = {run.folder / name for name in ("lock", _RECORDS, _SETTLED, "made.jsonl")}
    for child in set(run.folder.iterdir()) - mine - needed:
        if any(child in one.parents for one in needed):
            for below in set(child.iterdir()) - needed:
                shutil.rmtree(below, ignore_errors=True)
        elif child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
    (run.folder / _SETTLED).touch()


def there(kept: Kept) -> None:
    """Raise HostUnavailable where the folder of a kept host is gone from this machine."""
    if not Path(kept.what["folder"]).is_dir():
        raise HostUnavailable(
            f"{kept.host.name}: its folder {kept.what['folder']} is gone.",
            remedy="Run the tests again with --keep failed.",
        )
