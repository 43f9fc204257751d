"""The matrices that come with the tool, and what `hosts list` says of hosts there and not there."""

from __future__ import annotations

import json
import time
import tomllib
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import sshd

from conftest import LOCAL, manualbuild, recipe, results, run_pytest, write_package
from pytest_manualbuild import matrix

SHIPPED = ("cfep03-2016", "current")
# A server that takes connections and says nothing would be as slow as the time limit.
NOWHERE = "unix:///nowhere.sock"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_matrix_is_valid_for_us_and_for_editors(name: str) -> None:
    loaded = matrix.load(name)

    described = json.loads(json.dumps(tomllib.loads(loaded.text), default=str))
    stored = json.loads((matrix.shipped_folder() / "matrix.schema.json").read_text())
    jsonschema.validate(described, stored)
    assert all(host.eol is None or date.fromisoformat(host.eol) for host in loaded.hosts)
    assert not any(host.standin for host in loaded.hosts)


def test_the_proposal_s_hosts_are_all_there_and_all_out_of_support() -> None:
    hosts = matrix.load("cfep03-2016").hosts

    assert {host.name for host in hosts} == {
        "debian-8", "fedora-24", "centos-6", "centos-7", "windows-7", "windows-10",
        "osx-10-9", "osx-10-11",
    }  # fmt: skip
    assert all(host.required and host.eol and host.eol < "2026" for host in hosts)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_matrix_plans_for_a_real_recipe(name: str, built: Path, tmp_path: Path) -> None:
    words = ("--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"))

    ran = manualbuild("plan", *words, "--matrix", name, "--json", cwd=tmp_path)

    assert ran.status == 0, ran.out
    cells = {cell["host"] for cell in json.loads(ran.out)["cells"]}
    linux = {host.name for host in matrix.load(name).hosts if host.subdir == "linux-64"}
    assert cells == linux


@pytest.mark.parametrize("name", SHIPPED)
def test_where_none_of_the_hosts_is_there_each_is_refused_with_its_reason(
    name: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)

    ran = run_pytest(
        "--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"), "--matrix", name,
        cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 16, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert set(found.values()) == {("error", "host-unavailable")}
    listed = manualbuild("hosts", "list", "--matrix", name, "--timeout", "30", cwd=tmp_path)
    assert listed.status == 0, listed.out
    lines = listed.out.splitlines()
    names = [host.name for host in matrix.load(name).hosts]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == names
    assert listed.out.count("    not usable (") == len(names)
    assert f"The Docker engine ({NOWHERE}) does not answer" in listed.out
    assert "windows-10 cannot be used: its name is not known" in listed.out
    if name == "cfep03-2016":
        assert "end of life 2020-11-30" in listed.out


def test_hosts_that_answer_are_listed_with_time_and_facts_beside_those_that_do_not(
    ssh_server: sshd.Sshd, tmp_path: Path
) -> None:
    (tmp_path / "hosts.toml").write_text(
        LOCAL + '[hosts.far]\nkind = "ssh"\nsubdir = "linux-64"\naddress = "127.0.0.1"\n'
        f'port = {ssh_server.port}\nssh_config = "{ssh_server.ssh_config}"\n'
        '[hosts.away]\nkind = "ssh"\nsubdir = "linux-64"\naddress = "127.0.0.1"\nport = 1\n'
        '[hosts.later]\nkind = "winrm"\nsubdir = "win-64"\naddress = "x"\npassword_from = "env:X"\n'
    )

    listed = manualbuild("hosts", "list", "--matrix", "hosts.toml", cwd=tmp_path)
    probed = manualbuild("hosts", "probe", "--matrix", "hosts.toml", cwd=tmp_path)
    fine = manualbuild("hosts", "probe", "--matrix", "hosts.toml", "--on", "far", cwd=tmp_path)

    assert (listed.status, probed.status, fine.status) == (0, 16, 0), listed.out
    assert listed.out.count("    reachable in ") == 2
    assert "host key ssh-ed25519 SHA256:" in listed.out
    assert "no ssh server answers. Start its ssh server" in listed.out
    assert "x names no user" in listed.out


def test_a_host_that_hangs_does_not_keep_the_others_waiting(
    ssh_server: sshd.Sshd, tmp_path: Path
) -> None:
    assert ssh_server.process is not None
    text = "".join(
        f'[hosts.far-{number}]\nkind = "ssh"\nsubdir = "linux-64"\naddress = "127.0.0.1"\n'
        f'port = {ssh_server.port}\nssh_config = "{ssh_server.ssh_config}"\n'
        for number in range(5)
    )
    (tmp_path / "hosts.toml").write_text(LOCAL + text)
    ssh_server.process.send_signal(19)  # it takes connections, and answers none
    began_s = time.monotonic()
    try:
        listed = manualbuild(
            "hosts", "list", "--matrix", "hosts.toml", "--timeout", "2", cwd=tmp_path,
            MANUALBUILD_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
    finally:
        ssh_server.process.send_signal(18)

    assert listed.out.count("no answer within 2 s (connecting)") == 5, listed.out
    assert listed.out.count("    reachable in ") == 1
    assert time.monotonic() - began_s < 60
    assert not any((tmp_path / "cache/runs").iterdir())


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("subdir", ["linux-aarch64", "osx-64", "win-64"])
def test_a_host_that_is_not_what_the_matrix_says_proves_nothing_for_that(
    tmp_path: Path, subdir: str
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    (tmp_path / "matrix.toml").write_text(
        f'[hosts.else]\nkind = "docker"\nsubdir = "{subdir}"\n'
        'image = "manualbuild/debian-12:test"\n'
    )

    ran = run_pytest("--recipe", "recipe", "--matrix", "matrix.toml", cwd=tmp_path)
    probed = manualbuild("hosts", "probe", "--matrix", "matrix.toml", cwd=tmp_path)

    assert ran.status == 16, ran.out
    assert set(results(tmp_path / "manualbuild-report").values()) == {("error", "host-unavailable")}
    assert probed.status == 16
    for said in (ran, probed):
        assert f"else: the matrix says {subdir}, and it said that it is" in said.out
