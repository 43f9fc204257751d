"""This machine as a host, and what links environments on it, when they break."""

from __future__ import annotations

import os
import signal

import faults
import pytest
from faults import BREAKS, ONE_COMMAND_PASSED, Case, broken, children, matrix_entry

from conftest import small_disk
from pytest_manualbuild.environment import environments as environments_module
from pytest_manualbuild.environment import solver
from pytest_manualbuild.hosts import facts, local

pytestmark = pytest.mark.usefixtures("impatient")
LOCAL = 'kind = "local"'


def test_provisioning_this_machine_where_it_is_of_another_subdir(odd: Case) -> None:
    found = odd.results(LOCAL, subdir="linux-s390x")

    broken(found, "provisioning", "host-unavailable")


@pytest.mark.parametrize("fault", BREAKS)
def test_provisioning_where_what_asks_breaks(
    odd: Case, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "PROBE", "exec sleep 30" if fault == "hang" else "kill -9 $$")

    broken(odd.results(LOCAL), "provisioning", "host-unavailable")


def test_delivering_on_this_machine_where_the_disk_is_full(
    odd: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "600k") as disk:
        monkeypatch.setattr(odd.run, "folder", disk)
        noise = os.urandom(1_000_000).hex()
        found = odd.results(LOCAL, staged={"share/big": noise})

    broken(found, "delivering", "environment")


@pytest.mark.parametrize("fault", BREAKS)
def test_delivering_where_what_links_environments_breaks(
    odd: Case, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments_module, "LINK_S", 2.0)
    ask = solver.Solver.ask

    def broken_ask(self: solver.Solver, verb: str, timeout_s: float, **what: object) -> object:
        if verb == "link":
            self.start()
            hit = [pid for pid, words in children().items() if "_solver" in words]
            os.kill(hit[-1], signal.SIGSTOP if fault == "hang" else signal.SIGKILL)
        return ask(self, verb, timeout_s, **what)

    monkeypatch.setattr(solver.Solver, "ask", broken_ask)

    broken(odd.results(LOCAL), "delivering", "environment")


def test_a_fault_of_ours_says_when_it_came_up(odd: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(local.LocalProvider, "start", fails)

    for result in odd.results(LOCAL):
        assert (result.outcome.value, result.cause.value) == ("error", "internal")
        assert result.message.startswith(
            "While provisioning: Internal error: ZeroDivisionError: ours."
        )


# -- running


@pytest.mark.parametrize("fault", BREAKS)
def test_running_on_a_host_that_breaks(
    odd: Case, request: pytest.FixtureRequest, fault: str
) -> None:
    found = faults.struck_while_running(odd, "local", matrix_entry("local", request, odd), fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_host_that_ends_the_tests_and_then_goes_is_an_error(
    odd: Case, request: pytest.FixtureRequest, name: str, fault: str
) -> None:
    entry = matrix_entry("local", request, odd)

    found = faults.ends_the_tests_and_goes(odd, "local", entry, name, fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


def test_running_on_this_machine_where_the_disk_is_full(
    odd: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "600k") as disk:
        monkeypatch.setattr(odd.run, "folder", disk)
        found = faults.has_no_room_for_the_tests(odd, LOCAL, disk, monkeypatch)

    broken(found, "running", "host-lost")


# -- collecting


def test_collecting_where_the_disk_is_full(odd: Case, request: pytest.FixtureRequest) -> None:
    found = faults.fills_the_controllers_disk(odd, matrix_entry("local", request, odd))

    broken(found, "collecting", "environment", passed=1)
