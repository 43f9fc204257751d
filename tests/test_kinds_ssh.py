"""Hosts of kind ssh, with a real server: whom we trust, what we leave, and who is to blame."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sshd
from msgspec.structs import replace

from conftest import (
    command,
    manualbuild,
    quiet,
    recipe,
    results,
    run_pytest,
    tiny_root,
    write_package,
)
from pytest_manualbuild import hosts, shells
from pytest_manualbuild.errors import EnvironmentBroken, HostLost, HostUnavailable
from pytest_manualbuild.hosts import openssh
from pytest_manualbuild.hosts.base import Exit, Mark, Running
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.hosts.ssh import SshConnection
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

SHORT_S = 30.0


def host(server: sshd.Sshd, **more: object) -> Host:
    values = {"port": server.port, "ssh_config": str(server.ssh_config), "address": "127.0.0.1"}
    return Host(name="far", kind="ssh", subdir="linux-64", **{**values, **more})  # type: ignore[arg-type]


def start(host: Host, run: Run, *environments: LinkedEnvironment) -> SshConnection:
    made = hosts.provider("ssh").start(host, run, environments, quiet)
    assert isinstance(made, SshConnection)
    return made


def promised(folder: Path) -> list[Path]:
    """Return the folders, here and there, that a run wrote down before it made them."""
    made = folder / "made.jsonl"
    lines = made.read_text().splitlines() if made.exists() else []
    return [Path(json.loads(line)[key]) for line in lines for key in ("folder", "socket")]


@pytest.fixture
def run() -> Iterator[Run]:
    """A run that leaves nothing behind, here or there."""
    begun = Run.begin()
    yield begun
    folders = promised(begun.folder)
    hosts.sweep(begun)
    assert not begun.folder.exists(), "the sweep could not reach the host"
    assert [folder for folder in folders if folder.exists()] == []


def wait_for_up(running: Running) -> None:
    deadline = time.monotonic() + SHORT_S
    while running.next_event(1) != Mark(text="up"):
        assert time.monotonic() < deadline


def matrix(server: sshd.Sshd, folder: Path, more: str = "") -> None:
    (folder / "far.toml").write_text(
        '[hosts.far]\nkind = "ssh"\nsubdir = "linux-64"\naddress = "127.0.0.1"\n'
        f'port = {server.port}\nssh_config = "{server.ssh_config}"\n{more}'
    )


def test_it_says_what_it_is_and_which_key_it_proved_to_have(
    ssh_server: sshd.Sshd, run: Run
) -> None:
    facts = hosts.provider("ssh").probe(host(ssh_server), run, quiet)

    shown = command("ssh-keygen", "-lf", str(ssh_server.folder / "host_key.pub"), cwd=run.folder)
    assert facts.host_key == f"ssh-ed25519 {shown.out.split()[1]}"
    assert facts.kernel == os.uname().release
    assert facts.user == sshd.USER
    assert "the network is not cut off on that machine" in facts.notes


def test_programs_are_found_whatever_people_have_for_a_path(
    sshd_program: None, run: Run, tmp_path: Path
) -> None:
    del sshd_program
    environment = LinkedEnvironment(
        prefix=f"{tmp_path}/there", path=f"{tmp_path}/here", packages=()
    )
    (tmp_path / "here/conda-meta").mkdir(parents=True)
    server = sshd.make(tmp_path / "sshd", "SetEnv PATH=/nowhere")
    server.start()
    try:
        connection = start(host(server), run, environment)
        said = connection.run("echo $PATH", timeout_s=SHORT_S)
        connection.close()
    finally:
        server.stop()

    assert said.stdout.decode().strip() == shells.SYSTEM_PATH


@pytest.mark.parametrize("change", ["unknown", "changed"])
def test_a_key_that_is_not_known_is_never_accepted(
    ssh_server: sshd.Sshd, run: Run, change: str
) -> None:
    # The client's own configuration says `StrictHostKeyChecking no`.
    known = ssh_server.folder / "known_hosts"
    if change == "unknown":
        known.write_text("")
        says = "is not known. Ask its owner"
    else:
        port, kind, _ = known.read_text().split()
        other = (ssh_server.folder / "other_key.pub").read_text().split()[1]
        known.write_text(f"{port} {kind} {other}\n")
        says = "is not the one that is known"
    before = known.read_text()

    with pytest.raises(HostUnavailable, match=says) as caught:
        start(host(ssh_server), run)

    assert "\n" not in str(caught.value)
    assert known.read_text() == before


def test_a_wrong_key_of_ours_is_said_with_what_to_do(ssh_server: sshd.Sshd, run: Run) -> None:
    plain = ssh_server.folder / "plain_config"
    text = ssh_server.ssh_config.read_text()
    plain.write_text(
        "".join(line for line in text.splitlines(keepends=True) if "Ident" not in line)
    )
    one = host(ssh_server, ssh_config=str(plain), identity_file=str(ssh_server.key))
    start(one, run).close()

    wrong = host(
        ssh_server, ssh_config=str(plain), identity_file=str(ssh_server.folder / "other_key")
    )
    with pytest.raises(HostUnavailable, match=r"does not let us in.*authorized_keys"):
        start(wrong, run)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"port": 1}, "no ssh server answers. Start its ssh server, or correct `port`"),
        ({"address": "no-such-name.invalid"}, "its name is not known"),
        ({"ssh_config": "/none"}, "ssh_config /none cannot be read"),
        ({"identity_file": "/none"}, "identity_file /none cannot be read"),
        ({"address": "-oProxyCommand=touch /tmp/manualbuild-taken"}, "cannot be"),
    ],
)
def test_what_cannot_be_reached_is_said_in_one_line(
    ssh_server: sshd.Sshd, run: Run, values: dict[str, object], says: str
) -> None:
    with pytest.raises(HostUnavailable) as caught:
        start(host(ssh_server, **values), run)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_jump_hosts_are_used_and_bound_to_the_same_rules(
    ssh_server: sshd.Sshd, run: Run, tmp_path: Path
) -> None:
    jump = sshd.make(tmp_path / "jump")
    jump.start()
    try:
        (tmp_path / "known").write_text(
            (jump.folder / "known_hosts").read_text()
            + (ssh_server.folder / "known_hosts").read_text()
        )
        config = tmp_path / "config"
        config.write_text(
            f"Host far\n  HostName 127.0.0.1\n  Port {ssh_server.port}\n  ProxyJump jump\n"
            f"  IdentityFile {ssh_server.key}\n"
            f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  IdentityFile {jump.key}\n"
            f"Host *\n  User {sshd.USER}\n  UserKnownHostsFile {tmp_path}/known\n"
            "  StrictHostKeyChecking no\n"
        )
        far = host(ssh_server, address="far", port=None, ssh_config=str(config))
        connection = start(far, run)
        said = connection.run("echo $((6*7))", timeout_s=SHORT_S)
        connection.close()
        passed_on = (jump.folder / "sshd.log").read_text()

        (tmp_path / "known").write_text((ssh_server.folder / "known_hosts").read_text())
        with pytest.raises(HostUnavailable, match="is not known"):
            start(far, run)
    finally:
        jump.stop()
    assert said.stdout == b"42\n"
    assert "Accepted publickey" in passed_on


def test_nothing_of_the_caller_is_sent(
    ssh_server: sshd.Sshd, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client's configuration says `SendEnv *`, and the server takes all.
    monkeypatch.setenv("LC_CANARY", "canary")
    connection = start(host(ssh_server), run)

    said = connection.run("env; read -r _ _ _ s _ </proc/$PPID/stat; cat /proc/$s/environ",
                          timeout_s=SHORT_S)  # fmt: skip
    # The shell drops whatever it is given. What it was given any program can say.
    call = connection._client.further("env")
    given = subprocess.run(call, env=openssh.environment(), capture_output=True, check=True)
    connection.close()

    assert b"HOME=" in said.stdout
    assert b"SSH_CONNECTION=" in given.stdout
    assert b"SSH_CONNECTION=" not in said.stdout
    assert b"canary" not in said.stdout + given.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A folder like an environment: with links, modes and a file of some size."""
    folder = tmp_path / "linked"
    (folder / "conda-meta").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/tool").write_bytes(os.urandom(2_000_000))
    (folder / "bin/tool").chmod(0o755)
    (folder / "bin/hard").hardlink_to(folder / "bin/tool")
    (folder / "lib").symlink_to("bin")
    (folder / "ä ü").write_text("name")
    return folder


def placed(environment: Path, host: Host, run: Run) -> LinkedEnvironment:
    root = hosts.provider("ssh").placement(host, run, "0" * 64).root
    return LinkedEnvironment(
        path=str(environment), prefix=f"{root}/{'_placehold' * 20}", packages=()
    )


@pytest.mark.parametrize("unpacker", ["zstd", "gzip"])
def test_an_environment_arrives_as_it_is_in_one_archive(
    ssh_server: sshd.Sshd, run: Run, environment: Path, unpacker: str
) -> None:
    if unpacker == "zstd" and not shutil.which("zstd"):
        pytest.skip("zstd is missing")
    one = host(ssh_server)
    connection = start(one, run)
    if unpacker == "gzip":  # as on a host that lacks it
        connection.run = hide_zstd(connection.run)  # type: ignore[assignment,method-assign]
    linked = placed(environment, one, run)

    connection.deliver(linked)

    done = connection.run(
        f"cd {linked.prefix} && sha256sum < bin/tool && readlink lib && cat ä* && ls -A"
        " && test -x bin/hard && test bin/hard -ef bin/tool",
        timeout_s=SHORT_S,
    )
    connection.close()
    assert done.exit_status == 0, done.stderr
    lines = done.stdout.decode().split()
    assert lines[0] == hashlib.sha256((environment / "bin/tool").read_bytes()).hexdigest()
    assert lines[2:] == ["bin", "namebin", "conda-meta", "lib", "ä", "ü"]


def hide_zstd(run: Callable[..., object]) -> Callable[..., object]:
    return lambda script, **more: run(script.replace("command -v zstd", "false"), **more)


def test_half_an_archive_is_no_environment(
    ssh_server: sshd.Sshd, run: Run, environment: Path
) -> None:
    one = host(ssh_server)
    (environment / "zz").symlink_to("x")
    (environment / "bin/tool").unlink()
    (environment / "bin/hard").chmod(0)
    linked = replace(placed(environment, one, run), path=str(environment / "none"))

    with pytest.raises(EnvironmentBroken, match="did not arrive whole"):
        start(one, run, linked)


def test_a_folder_of_another_run_is_left_alone(ssh_server: sshd.Sshd, run: Run) -> None:
    one = host(ssh_server)
    first = start(one, run)
    other = Run.begin()

    with pytest.raises(HostUnavailable, match="is there already, of another run"):
        start(one, other)
    hosts.sweep(other)

    assert first.run("echo still here", timeout_s=SHORT_S).stdout == b"still here\n"
    first.close()


def test_the_record_is_there_before_the_folder_and_gone_after_it(
    ssh_server: sshd.Sshd, run: Run
) -> None:
    connection = start(host(ssh_server), run)
    (entry,) = run.made("ssh")
    folder = Path(entry["folder"])
    assert folder.stat().st_mode & 0o777 == 0o700
    connection.close()

    assert run.made("ssh") == []
    assert not folder.exists()


def test_a_line_that_is_cut_is_a_lost_host_and_its_folder_is_swept(
    ssh_server: sshd.Sshd, run: Run
) -> None:
    connection = start(host(ssh_server), run)
    folder = Path(run.made("ssh")[0]["folder"])
    running = connection.start("mark up; setsid sleep 619 & sleep 619")
    wait_for_up(running)

    ssh_server.signal("KILL")

    with pytest.raises(HostLost, match="the connection to it ended"):
        running.next_event(SHORT_S)
    connection.close()
    removed = hosts.sweep(run)
    assert not folder.exists()
    assert command("pgrep", "-f", "^sleep 619", cwd=Path("/")).out == ""
    assert all("folder" in line for line in removed)


def test_a_sweep_waits_for_a_host_that_is_away(ssh_server: sshd.Sshd, run: Run) -> None:
    connection = start(host(ssh_server), run)
    folder = Path(run.made("ssh")[0]["folder"])
    owner = (folder / "owner").read_text()
    ssh_server.stop()
    connection.close()
    deadline = time.monotonic() + SHORT_S
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    # As if the machine had lost its power, too: nobody over there cleaned up.
    folder.mkdir(exist_ok=True)
    (folder / "owner").write_text(owner)

    assert hosts.sweep(run) == []
    assert run.folder.is_dir()
    ssh_server.start()
    assert hosts.sweep(run) == [f"folder {folder} on 127.0.0.1"]
    assert not folder.exists()


def test_a_test_that_ends_with_255_is_a_failed_test(ssh_server: sshd.Sshd, tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - exit 255\n")
    matrix(ssh_server, tmp_path)

    ran = run_pytest("--recipe", "recipe", "--matrix", "far.toml", cwd=tmp_path)

    assert ran.status == 1, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["far", "commands[0]: exit 255"] == ("failed", "exit-status")


def test_a_compiled_package_passes_and_the_report_names_the_key(
    ssh_server: sshd.Sshd, built: Path, tmp_path: Path
) -> None:
    matrix(ssh_server, tmp_path)

    ran = run_pytest(
        "--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"),
        "--matrix", "far.toml", cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {outcome for outcome, _ in found.values()} == {"passed"}
    assert '"host_key":"ssh-ed25519 SHA256:' in (
        tmp_path / "manualbuild-report/evidence.json"
    ).read_text().replace(": ", ":")


def test_nothing_is_left_of_a_controller_that_was_killed(
    ssh_server: sshd.Sshd, tmp_path: Path
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - setsid sleep 620 & sleep 621\n")
    matrix(ssh_server, tmp_path)
    cache = str(tmp_path / "cache")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "far.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MANUALBUILD_CACHE": cache},
    )  # fmt: skip

    def asleep() -> int:
        return command("pgrep", "-f", "^sleep 62[01]", cwd=tmp_path).out.count("\n")

    deadline = time.monotonic() + 60
    while asleep() != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asleep() == 2
    (record,) = (tmp_path / "cache/runs").iterdir()
    folders = promised(record)
    process.send_signal(signal.SIGKILL)
    process.wait()

    # The shell over there sees the end of its input.
    deadline = time.monotonic() + SHORT_S
    while asleep() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asleep() == 0
    swept = manualbuild("hosts", "sweep", cwd=tmp_path, MANUALBUILD_CACHE=cache)
    assert swept.status == 0, swept.out
    assert [folder for folder in folders if folder.exists()] == []
    assert not any((tmp_path / "cache/runs").iterdir())


@pytest.fixture
def busybox(sshd_program: None, tmp_path: Path) -> Iterator[sshd.Sshd]:
    """A server whose sessions see busybox and bash: no GNU tools, no setsid, no /proc."""
    del sshd_program
    if os.geteuid() != 0:
        pytest.skip("only root can change the root")
    root = tmp_path / "busybox"
    tiny_root(root)
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    (root / "dev/null").chmod(0o666)
    force = f'ForceCommand chroot {root} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    server = sshd.make(tmp_path / "sshd", force)
    server.start()
    yield server
    server.stop()


def test_a_host_without_gnu_tools_setsid_and_proc_is_enough(
    busybox: sshd.Sshd, built: Path, environment: Path, tmp_path: Path
) -> None:
    one = host(busybox)
    run = Run.begin()
    facts = hosts.provider("ssh").probe(one, run, quiet)
    connection = start(one, run, placed(environment, one, run))
    data = bytes(range(256))
    echoed = connection.run(
        "printf '" + "".join(f"\\{byte:03o}" for byte in data) + "'; exit 255", timeout_s=SHORT_S
    )
    running = connection.start("sleep 622 & mark up; sleep 622")
    wait_for_up(running)
    running.kill()
    while not isinstance(event := running.next_event(SHORT_S), Exit):
        assert event is not None
    connection.close()
    hosts.sweep(run)

    assert "a process that leaves its group survives the end of its check" in facts.notes
    assert (echoed.exit_status, echoed.stdout) == (255, data)
    assert command("pgrep", "-f", "^sleep 622", cwd=tmp_path).out == ""
    assert list((tmp_path / "busybox/tmp").iterdir()) == []
    matrix(busybox, tmp_path)
    write_package(
        tmp_path,
        "test:\n  commands:\n    - test -f $PREFIX/share/odd.txt\n    - export A=1\n"
        "    - test $A = 1\n    - exit 9\n",
    )
    ran = run_pytest("--recipe", "recipe", "--matrix", "far.toml", cwd=tmp_path)
    found = results(tmp_path / "manualbuild-report")
    assert ran.status == 1, ran.out
    assert [outcome for outcome, _ in found.values()] == ["passed"] * 4 + ["failed"]
    del built
