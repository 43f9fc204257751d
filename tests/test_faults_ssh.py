"""Machines reached by ssh that break: an error that names the phase, and nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import faults
import pytest
import sshd
from faults import BREAKS, ONE_COMMAND_PASSED, Case, broken, far, matrix_entry

from conftest import small_disk
from pytest_manualbuild import hosts

pytestmark = pytest.mark.usefixtures("impatient")

# -- provisioning


def test_provisioning_where_no_server_answers(odd: Case) -> None:
    found = odd.results('kind = "ssh"\naddress = "127.0.0.1"\nport = 1')

    broken(found, "provisioning", "host-unavailable")


@pytest.mark.parametrize(
    "fault", ["changed-key", "unknown-key", "wrong-credentials", "kill", "hang"]
)
def test_provisioning_over_ssh(odd: Case, sshd_program: None, tmp_path: Path, fault: str) -> None:
    del sshd_program
    force = {"kill": ["ForceCommand kill -9 $PPID"], "hang": ["ForceCommand sleep 30"]}
    server = sshd.make(tmp_path / "sshd", *force.get(fault, []))
    server.start()
    server.turn_away(fault)
    try:
        broken(odd.results(far(server)), "provisioning", "host-unavailable")
        hosts.sweep(odd.run)
    finally:
        server.stop()


def test_provisioning_over_ssh_where_the_disk_is_full(odd: Case, ssh_server: sshd.Sshd) -> None:
    with small_disk(odd.folder / "disk", "4k") as disk:
        (disk / "full").write_bytes(b"x" * 4096)
        found = odd.results(far(ssh_server, f'root = "{disk}"'))
        hosts.sweep(odd.run)

    broken(found, "provisioning", "host-unavailable")


# -- delivering


@pytest.mark.parametrize(
    ("fault", "act"),
    [
        ("kill", "kill -9 $PPID"),
        ("hang", "exec sleep 30"),
        ("half", "head -c 100 >/dev/null; exit 0"),
        ("refused", "exit 1"),
    ],
)
def test_delivering_over_ssh(
    odd: Case, sshd_program: None, tmp_path: Path, fault: str, act: str
) -> None:
    del sshd_program, fault
    script = tmp_path / "force"
    script.write_text(
        f'case "$SSH_ORIGINAL_COMMAND" in *unpack*) {act} ;; esac\n'
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    server = sshd.make(tmp_path / "sshd", f"ForceCommand /bin/sh {script}")
    server.start()
    try:
        found = odd.results(far(server))
        hosts.sweep(odd.run)
    finally:
        server.stop()

    assert {result.cause.value for result in found} <= {"environment", "host-lost"}
    broken(found, "delivering", found[0].cause.value)


def test_delivering_what_is_gone_from_the_cache(
    odd: Case, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = faults.lost_from_the_cache(odd, matrix_entry("ssh", request, odd), monkeypatch)

    broken(found, "delivering", "environment")


def test_delivering_over_ssh_where_the_disk_is_full(odd: Case, ssh_server: sshd.Sshd) -> None:
    with small_disk(odd.folder / "disk", "600k") as disk:
        noise = os.urandom(1_000_000).hex()
        found = odd.results(far(ssh_server, f'root = "{disk}"'), staged={"share/big": noise})
        hosts.sweep(odd.run)
        assert list(disk.iterdir()) == []

    broken(found, "delivering", "environment")


# -- running


@pytest.mark.parametrize("fault", BREAKS)
def test_running_on_a_host_that_breaks(
    odd: Case, request: pytest.FixtureRequest, fault: str
) -> None:
    found = faults.struck_while_running(odd, "ssh", matrix_entry("ssh", request, odd), fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_host_that_ends_the_tests_and_then_goes_is_an_error(
    odd: Case, request: pytest.FixtureRequest, name: str, fault: str
) -> None:
    entry = matrix_entry("ssh", request, odd)

    found = faults.ends_the_tests_and_goes(odd, "ssh", entry, name, fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


def test_running_over_ssh_where_the_disk_is_full(
    odd: Case, ssh_server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "600k") as disk:
        entry = far(ssh_server, f'root = "{disk}"')
        found = faults.has_no_room_for_the_tests(odd, entry, disk, monkeypatch)
        hosts.sweep(odd.run)
        assert list(disk.iterdir()) == []

    broken(found, "running", "host-lost")


# -- collecting


def test_collecting_where_the_disk_is_full(odd: Case, request: pytest.FixtureRequest) -> None:
    found = faults.fills_the_controllers_disk(odd, matrix_entry("ssh", request, odd))

    broken(found, "collecting", "environment", passed=1)
