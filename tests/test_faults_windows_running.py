"""Windows over ssh and by WinRM that breaks while tests run, or whose disk is full."""

from __future__ import annotations

import os

import faults
import pytest
from faults import BREAKS, ONE_COMMAND_PASSED, Case, broken
from windows_faults import results, strike
from windows_ssh import WindowsSsh

from conftest import small_disk
from pytest_manualbuild.batch import BatchConnection

pytestmark = pytest.mark.usefixtures("impatient")
HANGS = "Library/bin/hangs.exe"
SMALL = 'root = "C:\\\\small"\n'

# -- running


@pytest.mark.parametrize("fault", [*BREAKS, "power"])
def test_running_on_a_machine_that_breaks(
    odd: Case, known_windows: WindowsSsh, windows_programs: dict[str, bytes], fault: str
) -> None:
    def act() -> None:
        strike(known_windows, fault)

    found = results(odd, known_windows, act, staged={HANGS: windows_programs[HANGS]})

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


# -- full disks


@pytest.mark.parametrize("phase", ["provisioning", "delivering", "running"])
def test_where_the_machines_disk_is_full(
    odd: Case, known_windows: WindowsSsh, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = "4k" if phase == "provisioning" else "2m"
    with small_disk(known_windows.drive / "small", size) as disk:
        if phase == "provisioning":
            faults.fill(disk)
        elif phase == "running":
            faults.before(monkeypatch, BatchConnection, "put", lambda: faults.fill(disk))
        noise = os.urandom(1_000_000 if phase == "delivering" else 1000).hex()
        found = results(odd, known_windows, more=SMALL, staged={"share/big": noise})
        assert list(disk.glob("mb-*")) == []

    cause = {"provisioning": "host-unavailable", "delivering": "environment"}
    broken(found, phase, cause.get(phase, "host-lost"))
