"""Machines of Vagrant that break: an error that names the phase, and nothing is left."""

from __future__ import annotations

import faults
import pytest
import vagrantfiles
from faults import BREAKS, ONE_COMMAND_PASSED, Case, broken, matrix_entry

from conftest import command
from pytest_manualbuild import hosts
from pytest_manualbuild.hosts import vagrant as vagrant_kind
from pytest_manualbuild.hosts.ssh import SshConnection

pytestmark = [pytest.mark.usefixtures("impatient"), pytest.mark.docker]

# -- provisioning


@pytest.mark.parametrize("fault", ["changed-key", "wrong-credentials", "hang", "kill"])
def test_provisioning_by_vagrant(
    odd: Case, box: vagrantfiles.Box, request: pytest.FixtureRequest, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if fault == "changed-key":
        entry = matrix_entry("vagrant", request, odd)
        monkeypatch.setattr(vagrant_kind._Machine, "revert", lambda *_: other_key(odd, "other"))
        found = odd.results(entry)
        other_key(odd, "host")
    else:
        if fault == "hang":
            monkeypatch.setattr(vagrant_kind, "UP_S", 1.5)
        key = box.key.with_name("other_key" if fault == "wrong-credentials" else "key")
        root = box.vagrantfile(
            odd.folder / "machine", key=key, boot_s=3, cmd='["/bin/false"]' * (fault == "kill")
        )
        found = odd.results(f'kind = "vagrant"\nroot = "{root}"')
        hosts.sweep(odd.run)
        assert "not created" in vagrantfiles.vagrant(root, "status")

    broken(found, "provisioning", "host-unavailable")


def other_key(odd: Case, name: str) -> None:
    """Give the machine's server another key."""
    assert odd.vagrant is not None
    swap = f"cp -p /etc/ssh/{name}_key.kept /etc/ssh/host_key && kill -HUP 1"
    machine = vagrantfiles.container(odd.vagrant)
    assert command("docker", "exec", machine, "sh", "-c", swap, cwd=odd.folder).status == 0


# -- delivering


@pytest.mark.parametrize("fault", BREAKS)
def test_delivering_to_a_machine_that_breaks(
    odd: Case, request: pytest.FixtureRequest, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = matrix_entry("vagrant", request, odd)

    faults.before(
        monkeypatch, SshConnection, "deliver", lambda: faults.strike(odd, "vagrant", fault)
    )

    found = odd.results(entry)

    odd.recover()
    broken(found, "delivering", "host-lost")


# -- running


@pytest.mark.parametrize("fault", BREAKS)
def test_running_on_a_host_that_breaks(
    odd: Case, request: pytest.FixtureRequest, fault: str
) -> None:
    found = faults.struck_while_running(
        odd, "vagrant", matrix_entry("vagrant", request, odd), fault
    )

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


# -- collecting


def test_collecting_where_the_disk_is_full(odd: Case, request: pytest.FixtureRequest) -> None:
    found = faults.fills_the_controllers_disk(odd, matrix_entry("vagrant", request, odd))

    broken(found, "collecting", "environment", passed=1)
