"""Prefixes of wine that break: an error that names the phase, and nothing is left.

They have no network, no credentials and no keys; what bears one is its server (``wineserver``).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import faults
import pytest
import windows_hosts
from faults import BREAKS, ONE_COMMAND_PASSED, Case, broken
from msgspec.structs import replace

from conftest import small_disk
from pytest_manualbuild import batch
from pytest_manualbuild.execution.section import Limits
from pytest_manualbuild.hosts import facts, wine
from pytest_manualbuild.model import Facts

pytestmark = pytest.mark.usefixtures("impatient")
TESTS = "test:\n  commands:\n    - ver\n    - hangs.exe\n    - ver\n"
NOISE = 'test:\n  commands:\n    - type "%PREFIX%\\share\\big"\n'
Machine = wine._WineMachine


@pytest.fixture(scope="module")
def entry() -> str:
    """The entry of a host that works."""
    if not shutil.which("wine"):
        pytest.skip("wine is missing")
    return f'kind = "wine"\nroot = "{windows_hosts.prefix()}"\n'


@pytest.fixture
def known(entry: str, known_facts: list[Facts], monkeypatch: pytest.MonkeyPatch) -> str:
    """The entry of a host that is asked only once what it is."""
    faults.ask_once("wine", known_facts, monkeypatch)
    return entry


def strike(odd: Case, fault: str) -> None:
    """Kill the server of the prefix, or make it stop."""
    hit = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text().startswith("wineserver") and faults.marked(
                process, odd.run.run_id
            ):
                hit.append(int(process.name))
    assert hit
    for pid in hit:
        with suppress(ProcessLookupError):  # those that wait for it go with it
            os.kill(pid, signal.SIGSTOP if fault == "hang" else signal.SIGKILL)
    deadline = time.monotonic() + 10
    while fault == "kill" and any(map(lives, hit)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Say whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


# -- provisioning


def no_prefix(odd: Case, patch: pytest.MonkeyPatch) -> str:
    del patch
    return f'kind = "wine"\nroot = "{odd.folder}"\n'


def no_wine(odd: Case, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(wine, "PROGRAMS", str(odd.folder))
    return 'kind = "wine"\n'


def server_that(does: str) -> Callable[[Case, pytest.MonkeyPatch], str]:
    """Return what puts a program in the place of the server."""

    def put(odd: Case, patch: pytest.MonkeyPatch) -> str:
        program = odd.folder / "wineserver"
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
        patch.setattr(wine, "WINESERVER", str(program))
        patch.setattr(wine, "_BOOT_S", 5.0)
        return f'kind = "wine"\nroot = "{tiny_prefix(odd)}"\n'

    return put


def tiny_prefix(odd: Case) -> Path:
    """Return a folder that is taken for a prefix, and copied sooner than one."""
    folder = odd.folder / "tiny"
    (folder / "drive_c/windows").mkdir(parents=True)
    (folder / "dosdevices").mkdir()
    (folder / "system.reg").write_text(odd.run.run_id)
    return folder


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(no_prefix, id="no-prefix"),
        pytest.param(no_wine, id="no-wine"),
        pytest.param(server_that("exit 1"), id="server-does-not-start"),
        pytest.param(server_that("exec sleep 60"), id="server-hangs"),
    ],
)
def test_provisioning_where_there_is_no_such_host(
    odd: Case, entry: str, fault: Callable[[Case, pytest.MonkeyPatch], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    del entry  # which skips where wine is missing

    found = odd.results(fault(odd, monkeypatch), tests=TESTS, subdir="win-64")

    broken(found, "provisioning", "host-unavailable")


def test_provisioning_where_the_disk_is_full(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "4m") as disk:
        monkeypatch.setattr(odd.run, "folder", disk)
        found = odd.results(known, tests=TESTS, subdir="win-64")
        assert list(disk.glob("odd-*")) == []

    broken(found, "provisioning", "host-unavailable")


@pytest.mark.parametrize("fault", BREAKS)
def test_provisioning_a_host_that_breaks_while_it_is_asked_what_it_is(
    odd: Case, entry: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "kept", lambda _: None)
    faults.before(monkeypatch, batch.BatchConnection, "run", lambda: strike(odd, fault))

    found = odd.results(entry, tests=TESTS, subdir="win-64")

    broken(found, "provisioning", "host-lost")


# -- delivering


def test_delivering_what_is_gone_from_the_cache(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = faults.lost_from_the_cache(odd, known, monkeypatch, tests=TESTS, subdir="win-64")

    broken(found, "delivering", "environment")


def test_delivering_where_the_disk_is_full(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_small_disk(monkeypatch, "deliver", odd.folder / "trial")

    found = odd.results(
        known, tests=TESTS, staged={"share/big": os.urandom(400_000).hex()}, subdir="win-64"
    )

    broken(found, "delivering", "environment")


def on_a_small_disk(patch: pytest.MonkeyPatch, name: str, trial: Path) -> None:
    """Have no room in our folder on the host while a method of the machine is called."""
    with small_disk(trial, "64k"):  # else it would skip in a thread of the engine
        pass
    method = getattr(Machine, name)

    def cramped(self: wine._WineMachine, *args: object) -> object:
        with small_disk(self.drive / "mb", "64k") as disk:
            with suppress(OSError):
                (disk / "full").write_bytes(b"x" * 65536)
            return method(self, *args)

    patch.setattr(Machine, name, cramped)


def test_delivering_to_a_host_that_is_killed(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.before(monkeypatch, Machine, "deliver", lambda: strike(odd, "kill"))

    broken(odd.results(known, tests=TESTS, subdir="win-64"), "delivering", "host-lost")


# -- running


@pytest.mark.parametrize("fault", BREAKS)
def test_running_on_a_host_that_breaks(
    odd: Case, known: str, windows_programs: dict[str, bytes], fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notice_soon(odd, monkeypatch)

    found = odd.results(
        known, lambda: strike(odd, fault), tests=TESTS, staged=windows_programs, subdir="win-64"
    )

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


def notice_soon(odd: Case, patch: pytest.MonkeyPatch) -> None:
    """Have a server that hangs show: that does what takes too long, and is not killed in time."""
    patch.setattr(batch, "SILENCE_S", 3.0)
    odd.settings = replace(odd.settings, limits=Limits(check_s=3))


def test_running_on_a_host_that_hangs_since_files_were_delivered(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice_soon(odd, monkeypatch)
    # Files are copied past the server: nothing is asked of it before the tests run.
    faults.before(monkeypatch, Machine, "deliver", lambda: strike(odd, "hang"))

    broken(odd.results(known, tests=TESTS, subdir="win-64"), "running", "host-lost")


def test_running_where_the_disk_is_full(
    odd: Case, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_small_disk(monkeypatch, "write", odd.folder / "trial")

    broken(odd.results(known, tests=TESTS, subdir="win-64"), "running", "host-lost")


# -- collecting


def test_collecting_where_the_disk_is_full(odd: Case, known: str) -> None:
    with small_disk(odd.folder / "report", "64k"):
        found = odd.results(
            known, tests=NOISE, staged={"share/big": os.urandom(100_000).hex()}, subdir="win-64"
        )

    broken(found, "collecting", "environment", passed=1)
