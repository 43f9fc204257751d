"""Hosts of the matrix are testinfra hosts: its modules work, and a lost host is an error."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra.backend

from pytest_manualbuild import hosts
from pytest_manualbuild.errors import HostLost
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.hosts.testinfra_backend import testinfra_host as as_testinfra
from pytest_manualbuild.model import Host

KINDS = [pytest.param("docker", marks=pytest.mark.docker), "rootfs", "ssh"]


@pytest.fixture(params=KINDS)
def connected(request: pytest.FixtureRequest) -> Iterator[tuple[str, Connection]]:
    """A kind, and a connection to a host of it."""
    kind = str(request.param)
    values: dict[str, Any] = {}
    if kind == "docker":
        request.getfixturevalue("engine")
        values = {"image": "manualbuild/debian-12:test"}
    elif kind == "rootfs":
        values = {"root": str(request.getfixturevalue("rootfs"))}
    else:
        server = request.getfixturevalue("ssh_server")
        values = {
            "address": "127.0.0.1", "port": server.port, "ssh_config": str(server.ssh_config)
        }  # fmt: skip
    run = Run.begin()
    host = Host(name="asked", kind=kind, subdir="linux-64", **values)
    connection = hosts.provider(kind).start(host, run, [], lambda _: None)
    yield kind, connection
    connection.close()
    hosts.sweep(run)


def test_the_modules_of_testinfra_work(connected: tuple[str, Connection]) -> None:
    kind, connection = connected

    host = as_testinfra("asked", connection)

    assert repr(host) == "<testinfra.host.Host manualbuild://asked>"
    assert host.system_info.type == "linux"
    assert host.system_info.arch == os.uname().machine
    release = host.file("/etc/os-release")
    assert (release.exists, release.is_file) == (True, True)
    assert release.user == "root"
    assert host.user("root").uid == 0
    assert host.group("root").exists
    assert host.find_command("sh").endswith("/sh")
    assert not host.exists("no-such-program")
    assert host.mount_point("/proc").filesystem == "proc"
    assert host.environment()["LANG"] == "C.UTF-8"
    assert host.run("printf %s; exit 255", "a b'c").rc == 255
    assert host.check_output("echo %s", "ä $HOME 'x'") == "ä $HOME 'x'"
    assert host.run("printf '\\377x'").stdout == "\\xffx"
    if kind != "ssh":
        assert host.system_info.distribution == "debian"
        assert host.system_info.release.startswith("12")
        assert host.package("bash").is_installed
        assert not host.package("openssh-server").is_installed
    else:
        assert host.user().name == pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.usefixtures("impatient")
def test_a_host_that_is_gone_is_lost_and_not_a_failed_command(
    connected: tuple[str, Connection],
) -> None:
    _, connection = connected
    host = as_testinfra("asked", connection)

    with pytest.raises(HostLost):
        host.run("read -r _ _ _ shell _ </proc/$PPID/stat; kill -9 $shell; sleep 60")


def test_the_table_of_testinfra_is_left_alone() -> None:
    assert "manualbuild" not in testinfra.backend.BACKENDS
