"""Windows over ssh (``shell = "cmd"``), on a stand-in (see windows_ssh.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import builder
import pytest
import sshd
import windows_hosts
import yaml
from windows_ssh import WindowsSsh

from conftest import command, manualbuild, quiet, run_pytest, write_package
from pytest_manualbuild import hosts
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.hosts.ssh_cmd import CmdConnection
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

SHORT_S = 30.0


def host(server: sshd.Sshd, **more: object) -> Host:
    values = {"port": server.port, "ssh_config": str(server.ssh_config), "address": "127.0.0.1"}
    values |= {"subdir": "win-64", "shell": "cmd", **more}
    return Host(name="far", kind="ssh", **values)  # type: ignore[arg-type] # as the matrix gives them


def matrix(server: sshd.Sshd, folder: Path, more: str = "") -> None:
    (folder / "far.toml").write_text(
        '[hosts.far]\nkind = "ssh"\nsubdir = "win-64"\nshell = "cmd"\naddress = "127.0.0.1"\n'
        f'port = {server.port}\nssh_config = "{server.ssh_config}"\n{more}'
    )


def start(server: sshd.Sshd, run: Run, *environments: LinkedEnvironment) -> CmdConnection:
    made = hosts.provider("ssh").start(host(server), run, environments, quiet)
    assert isinstance(made, CmdConnection)
    return made


PACKAGES: dict[str, tuple[list[str], list[str]]] = {
    "leaves": (["start /b hangs.exe", "if not %PKG_NAME%==leaves exit /B 1"], ["passed"] * 3),
    # OpenSSH passes on eight bits of a status: of this one 0.
    "fails": (["code.exe 256", "code.exe 0"], ["passed", "failed", "skipped"]),
    "hangs": (["hangs.exe", "code.exe 0"], ["passed", "failed", "skipped"]),
}
"""The commands of packages, and the outcomes of their checks, of which ``install`` is the first."""


def test_packages_are_tested_and_nothing_of_them_stays(
    tmp_path: Path, windows_server: WindowsSsh, windows_programs: dict[str, bytes]
) -> None:
    (tmp_path / "recipe").mkdir()
    described = []
    for name, (commands, _) in PACKAGES.items():
        described.append({"name": name, "version": "1", "test": {"commands": commands}})
        built = builder.Built(
            recipe=None, subdir="win-64", name=name, version="1", depends=(),
            files={path: builder.Staged(data=data) for path, data in windows_programs.items()},
        )  # fmt: skip
        builder.write(built, tmp_path / "build_artifacts", ".conda")
    meta = {"package": {"name": "several", "version": "1"}, "outputs": described}
    (tmp_path / "recipe/meta.yaml").write_text(yaml.safe_dump(meta, width=10**6))
    matrix(windows_server, tmp_path)

    ran = run_pytest(
        "--recipe", "recipe", "--matrix", "far.toml", "--check-timeout", "3", cwd=tmp_path
    )

    assert ran.status == 1, ran.out
    stored = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())["predicate"]
    found: dict[str, list[str]] = {}
    for one in stored["results"]:
        name = one["package"].rpartition("/")[2].partition("-")[0]
        found.setdefault(name, []).append(one["outcome"])
    assert found == {name: outcomes for name, (_, outcomes) in PACKAGES.items()}, ran.out
    assert "It ended with exit status 256." in ran.out
    assert "It ran longer than 3 s and was killed" in ran.out
    shown = command("ssh-keygen", "-lf", f"{windows_server.folder}/host_key.pub", cwd=tmp_path)
    (facts,) = (one["facts"] for one in stored["hosts"])
    assert facts["host_key"] == f"ssh-ed25519 {shown.out.split()[1]}"
    assert facts["os_version"].startswith("10.0.")


@pytest.mark.parametrize("tar", [True, False])
def test_an_environment_arrives_whole_as_one_archive_or_file_by_file(
    tmp_path: Path, windows_server: WindowsSsh, run: Run, *, tar: bool
) -> None:
    sent = tmp_path / "environment [1]"
    (sent / "conda-meta").mkdir(parents=True)
    (sent / "conda-meta/history").write_text("")
    (sent / "Lib/deep folder").mkdir(parents=True)
    (sent / "Lib/deep folder/a & b%.txt").write_bytes(bytes(range(256)) * 1000)
    (sent / "linked.txt").hardlink_to(sent / "Lib/deep folder/a & b%.txt")
    (sent / "empty").mkdir()
    prefix = hosts.provider("ssh").placement(host(windows_server), run, "1" * 64).root + "\\_env"
    one = LinkedEnvironment(path=str(sent), prefix=prefix, packages=(), post_link=())
    if tar:
        try:
            windows_hosts.install_tar(windows_server.drive, tmp_path)
        except OSError as error:
            pytest.skip(f"CPython for Windows cannot be had: {error}")
    try:
        connection = start(windows_server, run, one)
        arrived = windows_server.drive.joinpath(*prefix.split("\\")[1:])
        there = {
            str(path.relative_to(arrived)): path.read_bytes() if path.is_file() else None
            for path in arrived.rglob("*")
        }
        connection.close()
    finally:
        windows_hosts.remove_tar(windows_server.drive)

    assert there == {
        str(path.relative_to(sent)): path.read_bytes() if path.is_file() else None
        for path in sent.rglob("*")
    }


def test_an_archive_that_is_unpacked_in_part_is_an_error(
    tmp_path: Path, windows_server: WindowsSsh, run: Run
) -> None:
    (tmp_path / "sent/conda-meta").mkdir(parents=True)
    prefix = hosts.provider("ssh").placement(host(windows_server), run, "1" * 64).root + "\\_env"
    one = LinkedEnvironment(path=str(tmp_path / "sent"), prefix=prefix, packages=(), post_link=())
    try:
        windows_hosts.install_tar(windows_server.drive, tmp_path)
    except OSError as error:
        pytest.skip(f"CPython for Windows cannot be had: {error}")
    # As tar does when one of many files cannot be made.
    with (windows_server.drive / "standin/tar.py").open("a") as script:
        script.write("sys.exit(1)\n")
    try:
        with pytest.raises(EnvironmentBroken, match="did not arrive whole"):
            start(windows_server, run, one)
    finally:
        windows_hosts.remove_tar(windows_server.drive)


def test_a_machine_that_starts_no_programs_is_lost_and_its_folder_is_not_forgotten(
    tmp_path: Path, windows_server: WindowsSsh, run: Run
) -> None:
    one = LinkedEnvironment(path=str(tmp_path), prefix="C:\\_env", packages=(), post_link=())
    connection = start(windows_server, run)
    try:
        windows_server.shuts_down.touch()
        with pytest.raises(HostLost, match="it does not say whether"):
            connection.deliver(one)
        with pytest.raises(HostLost, match="it does not say whether"):
            hosts.provider("ssh").sweep(run)
        assert run.made("ssh") != []
    finally:
        windows_server.shuts_down.unlink()
        connection.close()


@pytest.mark.parametrize("name", ["..\\..\\up", "a:b", "../up"])
def test_no_file_goes_to_a_place_of_its_own_choice(
    windows_server: WindowsSsh, run: Run, name: str
) -> None:
    connection = start(windows_server, run)
    try:
        with pytest.raises(EnvironmentBroken, match="no file on Windows can be named"):
            connection.put(f"{connection.machine.path}\\work", {name: b""})
    finally:
        connection.close()


def test_a_server_without_jobs_is_found_out_and_said(
    windows_server: WindowsSsh, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_server, "job", False)
    windows_server.cut()

    facts = hosts.provider("ssh").probe(host(windows_server), run, quiet)

    assert "a process that a test leaves behind survives the end of its check" in facts.notes


def test_a_folder_of_another_run_is_left_alone(windows_server: WindowsSsh, run: Run) -> None:
    first = start(windows_server, run)
    other = Run.begin()
    try:
        with pytest.raises(HostUnavailable, match="is in use by another run"):
            start(windows_server, other)
        assert first.run("@echo on\n", timeout_s=SHORT_S).exit_status == 0
    finally:
        hosts.sweep(other)
        first.close()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"root": "C:\\Program Files"}, "its root C:\\Program Files cannot be used"),
        ({"root": "/tmp"}, "its root /tmp cannot be used"),
        ({"subdir": "linux-64"}, "is Windows, not linux-64"),
        ({"root": "C:\\nowhere"}, "there is no folder C:\\nowhere"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    windows_server: WindowsSsh, run: Run, more: dict[str, object], says: str
) -> None:
    with pytest.raises(HostUnavailable) as caught:
        hosts.provider("ssh").start(host(windows_server, **more), run, [], quiet)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_machine_that_is_not_windows_is_refused(ssh_server: sshd.Sshd, run: Run) -> None:
    with pytest.raises(HostUnavailable) as caught:
        start(ssh_server, run)

    assert "cmd" in str(caught.value)


def test_nothing_is_left_of_a_controller_that_was_killed(
    tmp_path: Path, windows_server: WindowsSsh, windows_programs: dict[str, bytes]
) -> None:
    write_package(
        tmp_path, "test:\n  commands:\n    - hangs.exe\n", staged=windows_programs, subdir="win-64"
    )
    matrix(windows_server, tmp_path)
    cache = str(tmp_path / "cache")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "far.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MANUALBUILD_CACHE": cache},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while "hangs.exe" not in windows_server.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "hangs.exe" in windows_server.left()

    swept = manualbuild("hosts", "sweep", cwd=tmp_path, MANUALBUILD_CACHE=cache)

    assert swept.status == 0, swept.out
    assert "folder C:\\mb-" in swept.out
    assert list((tmp_path / "cache/runs").iterdir()) == []
