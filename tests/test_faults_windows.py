"""Windows over ssh and by WinRM that breaks before its tests run, or while they are collected."""

from __future__ import annotations

import os

import faults
import pytest
import windows_winrm
from faults import BREAKS, Case, broken
from windows_faults import NOISE, results, strike
from windows_ssh import WindowsSsh
from windows_winrm import WindowsWinrm

from conftest import small_disk
from pytest_manualbuild.hosts import far_windows as far_windows_module
from pytest_manualbuild.hosts import winrm, winrm_client
from pytest_manualbuild.hosts.far_windows import FarConnection

pytestmark = pytest.mark.usefixtures("impatient")

# -- provisioning


@pytest.mark.parametrize(
    ("far_windows", "fault"),
    [
        ("ssh", "away"),
        ("ssh", "changed-key"),
        ("ssh", "unknown-key"),
        ("ssh", "wrong-credentials"),
        ("winrm", "away"),
        ("winrm", "changed-certificate"),
        ("winrm", "wrong-credentials"),
    ],
    indirect=["far_windows"],
)
def test_provisioning_a_machine_that_cannot_be_reached(
    odd: Case, far_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ""
    if fault == "away":
        far_windows.stop()
    elif not isinstance(far_windows, WindowsWinrm):
        far_windows.turn_away(fault)
    elif fault == "wrong-credentials":
        monkeypatch.setenv("WINDOWS_PASSWORD", "another")
    else:
        windows_winrm.make_certificate(far_windows.folder, "tls")
        other = windows_winrm.make_certificate(far_windows.folder, "other")
        more = f'ca_file = "{other}"\n'
        far_windows.scheme = "https"
        far_windows.cut()

    broken(results(odd, far_windows, more=more), "provisioning", "host-unavailable")


@pytest.mark.parametrize("fault", BREAKS)
def test_provisioning_a_machine_that_breaks_while_it_is_asked_what_it_is(
    odd: Case, far_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.before(monkeypatch, FarConnection, "run", lambda: strike(far_windows, fault))

    broken(results(odd, far_windows), "provisioning", "host-lost")


@pytest.mark.parametrize("far_windows", ["winrm"], indirect=True)
@pytest.mark.parametrize("fault", BREAKS)
def test_provisioning_a_machine_that_breaks_after_its_answer(
    odd: Case, far_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.before(monkeypatch, winrm_client.Command, "release", lambda: strike(far_windows, fault))

    broken(results(odd, far_windows), "provisioning", "host-lost")


# -- delivering


@pytest.mark.parametrize("fault", [*BREAKS, "shut-down"])
def test_delivering_to_a_machine_that_breaks(
    odd: Case, known_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_windows_module, "_KILL_S", 1.0)
    faults.before(monkeypatch, FarConnection, "deliver", lambda: strike(known_windows, fault))

    broken(results(odd, known_windows), "delivering", "host-lost")


@pytest.mark.parametrize("far_windows", ["winrm"], indirect=True)
def test_delivering_to_a_machine_that_shuts_down_before_the_first_file(
    odd: Case, known_windows: WindowsSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_windows_module, "_KILL_S", 1.0)
    act = known_windows.shuts_down.touch
    faults.before(monkeypatch, winrm._WinrmMachine, "send", act)

    broken(results(odd, known_windows), "delivering", "host-lost")


def test_delivering_where_the_controllers_disk_is_full(
    odd: Case, known_windows: WindowsSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To a machine that has a `tar`, as it then seems, what is packed here first.
    monkeypatch.setattr(far_windows_module, "_TAR", far_windows_module._CMD)
    with small_disk(odd.folder / "disk", "64k") as disk:
        (disk / "run").mkdir()
        monkeypatch.setattr(odd.run, "folder", disk / "run")
        found = results(odd, known_windows, staged={"share/big": os.urandom(100_000).hex()})

    broken(found, "delivering", "environment")


# -- collecting


def test_collecting_where_the_disk_is_full(odd: Case, known_windows: WindowsSsh) -> None:
    noise = os.urandom(100_000).hex()
    with small_disk(odd.folder / "report", "64k"):
        found = results(odd, known_windows, tests=NOISE, staged={"share/big": noise})

    broken(found, "collecting", "environment", passed=1)
