"""Runs that are cut, or lose a host, an engine or their disk: an error, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import (
    ROOT,
    command,
    manualbuild,
    results,
    run_local,
    write_package,
)
from pytest_manualbuild.hosts.runs import cache_folder

# Its own name: other runs on this engine are not ours to look at.
HOST = f"sleeper-{os.getpid()}"


def containers() -> set[str]:
    done = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=io.pytest-manualbuild.host={HOST}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def run_of(container: str) -> str:
    """Return the id of the run that a container belongs to."""
    wanted = '{{index .Config.Labels "io.pytest-manualbuild.run"}}'
    done = subprocess.run(
        ["docker", "inspect", "-f", wanted, container], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def remains(run_id: str) -> list[str]:
    """Return what is left of a run: containers, volumes, mounts, folders."""
    label = f"label=io.pytest-manualbuild.run={run_id}"
    found = []
    for words in (("ps", "-aq"), ("volume", "ls", "-q")):
        done = subprocess.run(
            ["docker", *words, "--filter", label], capture_output=True, text=True, check=True
        )
        found += [f"{words[0]} {line}" for line in done.stdout.split()]
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [line for line in mounts if run_id in line]
    return found + [str(path) for path in (cache_folder() / "runs").glob(run_id)]


def gone_in_time(run_id: str) -> None:
    """Wait until nothing is left: the engine removes the container of a dead shell by itself."""
    deadline = time.monotonic() + 20
    while (left := remains(run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_sleeping(engine: None, tmp_path: Path) -> Iterator[Start]:
    """Start a run on a container whose test sleeps; return when it sleeps."""
    del engine
    started = []

    def start(*words: str, engine_url: str = "") -> subprocess.Popen[bytes]:
        write_package(tmp_path, "test:\n  commands:\n    - sleep 60\n")
        text = f'[hosts.{HOST}]\nkind = "docker"\nsubdir = "linux-64"\n'
        text += 'image = "manualbuild/debian-12:test"\n'
        text += f'engine = "{engine_url}"\n' if engine_url else ""
        (tmp_path / "far.toml").write_text(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "far.toml", *words],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            # What a shell puts in the background is deaf to SIGINT, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 # no threads
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for one in containers():
                top = command("docker", "top", one, cwd=tmp_path)
                if "sleep 60" in top.out:
                    return process
        pytest.fail("the test never slept")

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.docker
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_host_that_goes_away_is_an_error_not_a_failure(
    start_sleeping: Start, tmp_path: Path, how: str
) -> None:
    # One that is paused is silent: that is waited for.
    process = start_sleeping("-p", "impatience")
    (container,) = containers()
    run_id = run_of(container)
    subprocess.run(["docker", how, container], check=True, capture_output=True)

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "host-lost")
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0
    gone_in_time(run_id)


@pytest.mark.docker
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_pass_and_no_container(
    start_sleeping: Start, tmp_path: Path, how: signal.Signals
) -> None:
    process = start_sleeping()
    (container,) = containers()
    run_id = run_of(container)
    process.send_signal(how)
    process.wait(timeout=60)

    assert process.returncode not in (0, 1)
    manualbuild("hosts", "sweep", cwd=tmp_path)
    gone_in_time(run_id)
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0


@pytest.mark.docker
def test_an_engine_that_goes_away_is_an_error_and_its_remains_are_swept(
    start_sleeping: Start, tmp_path: Path
) -> None:
    relay = f"{tmp_path}/engine.sock"
    # Stands between us and the real engine, so that the connection to it can be cut.
    script = [sys.executable, str(ROOT / "tests" / "relay.py"), relay]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        between.stdout.readline()
        process = start_sleeping(engine_url=f"unix://{relay}")
        (container,) = containers()
        run_id = run_of(container)
        between.kill()

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "host-lost")
    with subprocess.Popen(script, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        between.stdout.readline()
        manualbuild("hosts", "sweep", cwd=tmp_path)
        between.kill()
    gone_in_time(run_id)


@pytest.mark.docker
def test_a_killed_worker_is_an_error_and_the_gate_refuses(
    start_sleeping: Start, tmp_path: Path
) -> None:
    process = start_sleeping("-n", "1")
    (container,) = containers()
    run_id = run_of(container)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    for pid in Path(children).read_text().split():
        if b"sys.stdin.readline" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "interrupted")
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "a worker crashed" in verdict.out) == (1, True), verdict.out
    gone_in_time(run_id)


def test_an_old_report_does_not_outlive_the_start_of_a_run(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    write_package(tmp_path, f"test:\n  commands:\n    - test ! -e {slow} || sleep 5\n")
    assert run_local(tmp_path, "--junitxml", "junit.xml").status == 0
    slow.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--junitxml", "junit.xml",
         "--matrix", "local.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    stale = [tmp_path / "junit.xml"]
    stale += [tmp_path / "manualbuild-report" / name for name in ("evidence.json", "junit.xml")]
    while any(path.exists() for path in stale) and process.poll() is None:
        assert time.monotonic() < deadline
    still_running = process.poll() is None
    process.kill()
    process.wait()

    assert still_running
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_an_error_and_leaves_no_report(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - head -c 500000 /dev/zero\n")
    (tmp_path / "small").mkdir()
    mounted = command(
        "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "small"), cwd=tmp_path
    )
    if mounted.status != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.out}")
    try:
        ran = run_local(tmp_path, "--evidence", "small/report")
        left = {path.name for path in (tmp_path / "small/report").iterdir()}
    finally:
        command("umount", str(tmp_path / "small"), cwd=tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (16, False), ran.out
    assert "the report cannot be written: No space left on device" in ran.out
    assert "evidence.json" not in left
    assert "junit.xml" not in left
