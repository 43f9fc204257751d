"""Several engines: one of our own beside the machine's, one over ssh, and turns on each."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import dockerd
import pytest
import sshd

from conftest import quiet, recipe, results, run_pytest, small_disk, tiny_root, write_package
from pytest_manualbuild import hosts
from pytest_manualbuild.errors import EnvironmentBroken, HostError, HostUnavailable, Interrupted
from pytest_manualbuild.hosts import engines, limits
from pytest_manualbuild.hosts.base import ENVIRONMENTS
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

TINY = "manualbuild/tiny:test"
DEBIAN = "manualbuild/debian-12:test"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerd.Engine]:
    """A second engine with one small image; skip where none can be started."""
    if os.geteuid() != 0 or not dockerd.PROGRAM or not shutil.which("docker"):
        pytest.skip("only root can start a second engine, with dockerd and docker")
    root = tmp_path_factory.mktemp("root") / "tiny"
    tiny_root(root)
    engine = dockerd.Engine(tmp_path_factory.mktemp("engine") / "e")
    if problem := engine.start():
        engine.stop()
        pytest.skip(f"a second engine does not start: {problem}")
    engine.take_root(root, TINY)
    yield engine
    engine.stop()


def over_ssh(server: sshd.Sshd, engine: dockerd.Engine, **more: str) -> Host:
    return Host(
        name="tiny", kind="docker", subdir="linux-64", image=TINY,
        engine=f"ssh://{sshd.USER}@127.0.0.1:{server.port}{engine.socket}",
        **{"ssh_config": str(server.ssh_config), **more},  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_two_engines_share_the_hosts_of_a_matrix(
    second: dockerd.Engine, ssh_server: sshd.Sshd, built: Path, tmp_path: Path
) -> None:
    far = over_ssh(ssh_server, second)
    (tmp_path / "two.toml").write_text(
        '[defaults]\nkind = "docker"\nsubdir = "linux-64"\n'
        f'[hosts.here]\nimage = "{DEBIAN}"\n'
        f'[hosts.beside]\nimage = "{TINY}"\nengine = "{second.url}"\n'
        f'[hosts.far]\nimage = "{TINY}"\nengine = "{far.engine}"\nat_once = 1\n'
        f'ssh_config = "{far.ssh_config}"\n'
        f'[hosts.far-too]\nimage = "{TINY}"\nengine = "{far.engine}"\nat_once = 1\n'
        f'ssh_config = "{far.ssh_config}"\n'
    )

    ran = run_pytest(
        "--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"),
        "--matrix", "two.toml", cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {host for host, _ in found} == {"here", "beside", "far", "far-too"}
    assert {outcome for outcome, _ in found.values()} == {"passed"}
    assert second.docker("ps", "-aq").stdout == ""


def test_an_engine_over_ssh_must_have_a_known_key(
    second: dockerd.Engine, ssh_server: sshd.Sshd, run: Run
) -> None:
    known = ssh_server.folder / "known_hosts"
    key = known.read_text()
    known.write_text("")

    with pytest.raises(HostUnavailable, match="the key of its server is not known"):
        hosts.provider("docker").probe(over_ssh(ssh_server, second), run, quiet)
    hosts.sweep(run)

    assert run.folder.exists()  # nobody could look what is there
    known.write_text(key)


def test_nothing_is_left_of_a_tunnel(
    second: dockerd.Engine, ssh_server: sshd.Sshd, tmp_path: Path
) -> None:
    far = over_ssh(ssh_server, second)
    (tmp_path / "far.toml").write_text(
        f'[hosts.far]\nkind = "docker"\nsubdir = "linux-64"\nimage = "{TINY}"\n'
        f'engine = "{far.engine}"\nssh_config = "{far.ssh_config}"\n'
    )
    before = set(Path("/tmp").glob("mb-*"))

    done = subprocess.run(
        [sys.executable, "-m", "pytest_manualbuild.cli", "hosts", "probe", "--matrix", "far.toml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 20
    # Other runs on this machine have tunnels, which a process of theirs names.
    while left := [one for one in set(Path("/tmp").glob("mb-*")) - before if not named(one)]:
        assert time.monotonic() < deadline, left


def named(path: Path) -> bool:
    """Say whether the command line of a process has this path."""
    words = ["pgrep", "-f", str(path)]
    return subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("way", ["socket", "ssh"])
def test_an_engine_that_is_stopped_in_the_middle_is_an_error(
    second: dockerd.Engine, ssh_server: sshd.Sshd, tmp_path: Path, way: str
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - sleep 60\n    - 'true'\n")
    url = second.url if way == "socket" else over_ssh(ssh_server, second).engine
    (tmp_path / "second.toml").write_text(
        f'[hosts.tiny]\nkind = "docker"\nsubdir = "linux-64"\nimage = "{TINY}"\n'
        f'engine = "{url}"\nssh_config = "{ssh_server.ssh_config}"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "second.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MANUALBUILD_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = second.docker("ps", "-q").stdout.split()
        if names and "sleep 60" in second.docker("top", names[0]).stdout:
            break

    second.stop()
    try:
        status = process.wait(timeout=90)
    finally:
        process.kill()
        assert second.start() == ""

    found = results(tmp_path / "manualbuild-report")
    assert status == 16
    assert found["tiny", "commands[0]: true"] == ("passed", "ok")
    assert found["tiny", "commands[1]: sleep 60"] == ("error", "host-lost")
    assert found["tiny", "commands[2]: true"] == ("error", "host-lost")
    # The engine was away when the run ended: the next sweep follows that up.
    swept = subprocess.run(
        [sys.executable, "-m", "pytest_manualbuild.cli", "hosts", "sweep"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "MANUALBUILD_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    assert second.docker("ps", "-aq").stdout == ""
    assert second.docker("volume", "ls", "-q").stdout == ""
    assert list((tmp_path / "cache/runs").iterdir()) == []


def test_environments_go_to_another_machine_once_for_all_containers_there(
    second: dockerd.Engine, ssh_server: sshd.Sshd, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    far = over_ssh(ssh_server, second)
    linked = []
    for name in ("one", "two"):
        (tmp_path / name / "conda-meta").mkdir(parents=True)
        (tmp_path / name / "file").write_text("as linked")
        prefix = f"{ENVIRONMENTS}/{name}/e"
        linked.append(LinkedEnvironment(path=str(tmp_path / name), prefix=prefix, packages=()))
    sent: list[str] = []
    put = docker.APIClient.put_archive

    def counted(client: docker.APIClient, container: str, path: str, data: object) -> object:
        sent.append(path)
        return put(client, container, path, data)

    monkeypatch.setattr(docker.APIClient, "put_archive", counted)
    prefix = linked[0].prefix
    look = f"cd {ENVIRONMENTS}/one/e && cat file && echo * && cd ../../two/e && echo *"

    with ThreadPoolExecutor() as pool:
        starts = [
            pool.submit(hosts.provider("docker").start, far, run, linked, quiet) for _ in range(3)
        ]
        first, *others = (start.result(60) for start in starts)
    second.docker("volume", "prune", "-f")  # as somebody's timer may do
    try:
        first.run(f"echo changed >{prefix}/file; touch {prefix}/more", timeout_s=20)
        seen = [one.run(look, timeout_s=20).stdout for one in others]
    finally:
        for one in (first, *others):
            one.close()
    fresh = hosts.provider("docker").start(far, run, linked, quiet)
    seen.append(fresh.run(look, timeout_s=20).stdout)
    fresh.close()
    hosts.sweep(run)

    assert len(sent) == 2
    assert seen == [b"as linkedconda-meta file\nconda-meta file\n"] * 3
    assert second.docker("ps", "-aq").stdout == ""
    assert second.docker("volume", "ls", "-q").stdout == ""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", ["cut", "stopped", "hang"])
def test_a_delivery_that_is_broken_off_is_an_error_of_that_phase(
    second: dockerd.Engine, ssh_server: sshd.Sshd, run: Run, tmp_path: Path, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engines, "_API_S", 3)
    (tmp_path / "linked/conda-meta").mkdir(parents=True)
    (tmp_path / "linked/big").write_bytes(os.urandom(20_000_000))
    linked = LinkedEnvironment(
        path=str(tmp_path / "linked"), prefix="/opt/manualbuild/e", packages=()
    )

    def strike(doing: str) -> None:
        if "copying" in doing:
            if fault == "stopped":
                second.stop()
            else:
                ssh_server.signal("STOP" if fault == "hang" else "KILL")

    with pytest.raises(HostError) as caught:
        hosts.provider("docker").start(over_ssh(ssh_server, second), run, [linked], strike)

    said = str(caught.value)
    del caught
    gc.collect()
    assert said.startswith("While delivering: ")
    if fault == "stopped":
        assert second.start() == ""
    ssh_server.signal("CONT")
    hosts.sweep(run)
    assert not run.folder.exists()
    assert second.docker("ps", "-aq").stdout == ""


def test_a_sweep_waits_for_a_removal_that_another_has_begun(
    second: dockerd.Engine, run: Run
) -> None:
    host = Host(name="tiny", kind="docker", subdir="linux-64", image=TINY, engine=second.url)
    with contextlib.closing(hosts.provider("docker").start(host, run, [], quiet)):
        (container,) = second.docker("ps", "-q", "--no-trunc").stdout.split()
        (shim,) = subprocess.check_output(["pgrep", "-f", f"shim.*{container}"]).split()
        os.kill(int(shim), signal.SIGSTOP)  # the engine waits for it
        first = threading.Thread(target=second.docker, args=("rm", "-f", container))
        first.start()
        resume = threading.Timer(2.0, os.kill, (int(shim), signal.SIGCONT))
        time.sleep(0.5)
        resume.start()

        hosts.sweep(run)

        assert second.docker("ps", "-aq").stdout == ""
        first.join(60)
        resume.join(60)


@pytest.fixture(scope="module")
def far_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dockerd.Engine, Host]]:
    """An engine over TLS whose disk has 30 MB, and a host on it."""
    if os.geteuid() != 0 or not dockerd.PROGRAM or not shutil.which("docker"):
        pytest.skip("only root can start a second engine, with dockerd and docker")
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder)
    root = folder / "tiny"
    tiny_root(root)
    port = sshd.free_port()
    with small_disk(folder / "disk", "30m") as disk:
        engine = dockerd.Engine(
            disk / "e", "--tlsverify", "--tlscacert", f"{folder}/ca.pem",
            "--tlscert", f"{folder}/cert.pem", "--tlskey", f"{folder}/key.pem", port=port,
        )  # fmt: skip
        try:
            if problem := engine.start():
                pytest.skip(f"an engine over TLS does not start: {problem}")
            engine.take_root(root, TINY)
            url = f"tcp://127.0.0.1:{port}"
            host = Host(name="far", kind="docker", subdir="linux-64", image=TINY, engine=url)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOCKER_TLS_VERIFY", "1")
                patch.setenv("DOCKER_CERT_PATH", str(folder))
                yield engine, host
        finally:
            engine.stop()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_hosts_that_ask_an_engine_what_it_is_at_once_ask_it_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_versions", {})
    host = Host(name="a", kind="docker", subdir="linux-64", image=DEBIAN)
    asked: list[str | None] = []
    real = engines._ask

    def ask(url: str | None) -> dict[str, object]:
        asked.append(url)
        if len(asked) == 1:
            raise KeyboardInterrupt
        time.sleep(0.5)  # until all of them have come
        return real(url)

    monkeypatch.setattr(engines, "_ask", ask)
    with pytest.raises(KeyboardInterrupt):
        engines.version(host, run)
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: engines.version(host, run), range(4), timeout=30))

    assert len(asked) == 2
    assert said[0]["KernelVersion"]
    assert said[1:] == said[:1] * 3


def certificates(folder: Path) -> None:
    """Make an authority, and a certificate of it that serves both sides."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("openssl is missing")
    new = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
           "-nodes", "-days", "2"]  # fmt: skip
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext",
            "extendedKeyUsage=serverAuth,clientAuth"]  # fmt: skip
    for words in (
        [*new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem", *name,
         "-subj", "/CN=engine", "-addext", "basicConstraints=critical,CA:FALSE"],
    ):  # fmt: skip
        subprocess.run(words, cwd=folder, check=True, capture_output=True)


def test_an_engine_over_tls_takes_the_certificate_that_its_authority_signed(
    far_engine: tuple[dockerd.Engine, Host], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, host = far_engine
    provider = hosts.provider("docker")
    connection = provider.start(host, run, [], quiet)
    assert connection.run("echo there", timeout_s=20).stdout == b"there\n"
    connection.close()
    engines._versions.clear()
    monkeypatch.delenv("DOCKER_TLS_VERIFY")
    monkeypatch.delenv("DOCKER_CERT_PATH")

    with pytest.raises(HostUnavailable, match="set DOCKER_TLS_VERIFY"):
        provider.start(host, run, [], quiet)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_whose_disk_is_full_is_an_error_of_the_phase(
    far_engine: tuple[dockerd.Engine, Host], run: Run, tmp_path: Path
) -> None:
    engine, host = far_engine
    (tmp_path / "linked/conda-meta").mkdir(parents=True)
    (tmp_path / "linked/big").write_bytes(os.urandom(40_000_000))
    path, prefix = str(tmp_path / "linked"), "/opt/manualbuild/e"
    linked = LinkedEnvironment(path=path, prefix=prefix, packages=())
    provider = hosts.provider("docker")

    with pytest.raises(EnvironmentBroken, match="While delivering") as delivering:
        provider.start(host, run, [linked], quiet)
    with contextlib.suppress(OSError):
        (engine.folder.parent / "full").write_bytes(b"x" * 40_000_000)
    with pytest.raises(HostUnavailable, match="cannot start a container") as provisioning:
        provider.start(host, run, [], quiet)

    (engine.folder.parent / "full").unlink()
    assert "no space left" in str(delivering.value)
    assert "no space left" in str(provisioning.value)


def test_no_more_hosts_than_allowed_have_a_turn_at_once() -> None:
    host = Host(name="a", kind="docker", subdir="linux-64", engine="unix:///x", at_once=2)
    holding, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal holding, most
        with limits.turn(host, lambda: False, quiet):
            with lock:
                holding += 1
                most = max(most, holding)
            time.sleep(0.02)
            with lock:
                holding -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 2


def test_waiting_for_a_turn_ends_when_the_run_is_stopped() -> None:
    host = Host(name="a", kind="ssh", subdir="linux-64", address="me@there", at_once=1)
    other = Host(name="b", kind="ssh", subdir="linux-64", address="you@there", at_once=1)

    with (
        limits.turn(host, lambda: False, quiet),
        pytest.raises(Interrupted),
        limits.turn(other, lambda: True, quiet),
    ):
        pytest.fail("two hosts of one machine had its only turn")
