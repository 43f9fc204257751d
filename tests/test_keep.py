"""Hosts that stay after a run: a shell on them is what the tests had, until they are swept."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import recipe_v1
import sshd

from conftest import Ran, command, manualbuild, run_pytest, write_package
from pytest_manualbuild import hosts
from pytest_manualbuild.hosts.runs import Run

FAILING = """
test:
  files:
    - data.txt
  commands:
    - env | sort >seen.txt
    - echo written >$PREFIX/share/written.txt
    - test -f nowhere
"""
ACTIVATE = {"etc/conda/activate.d/odd.sh": "export ODD=active\nodd() { echo called; }\n"}
# What bash counts or notes for itself.
SAME = "own() { grep -v -e ^_= -e ^SHLVL=; }; env | sort | own | diff - <(own <seen.txt)"


@pytest.fixture(params=["local", "rootfs", "ssh", pytest.param("docker", marks=pytest.mark.docker)])
def matrix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The table of a host of each kind that can be kept, in ``one.toml``; its kind."""
    lines: dict[str, Callable[[], list[str]]] = {
        "local": list,
        "rootfs": lambda: [f'root = "{request.getfixturevalue("rootfs")}"'],
        "docker": lambda: ['image = "manualbuild/debian-12:test"'],
        "ssh": lambda: _ssh_lines(request),
    }
    kind = str(request.param)
    if kind == "docker":
        request.getfixturevalue("engine")
    more = "\n".join(lines[kind]())
    (tmp_path / "one.toml").write_text(
        f'[hosts.one-{os.getpid()}]\nkind = "{kind}"\nsubdir = "linux-64"\n{more}\n'
    )
    yield kind
    hosts.sweep_kept()


def _ssh_lines(request: pytest.FixtureRequest) -> list[str]:
    server: sshd.Sshd = request.getfixturevalue("ssh_server")
    return ['address = "127.0.0.1"', f"port = {server.port}", f'ssh_config = "{server.ssh_config}"']


def run(tmp_path: Path, *words: str) -> Ran:
    return run_pytest("--recipe", "recipe", "--matrix", "one.toml", *words, cwd=tmp_path)


def shell(tmp_path: Path, text: str, *words: str) -> Ran:
    return manualbuild("hosts", "shell", f"one-{os.getpid()}", *words, "-c", text, cwd=tmp_path)


def on_a_terminal(tmp_path: Path, *words: str) -> Ran:
    """Type a few lines into a shell on a terminal of its own."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "pytest_manualbuild.cli", *words])
    said = b""
    typed = b"echo cwd=${PWD##*/} odd=$(odd) tty=$([ -t 0 ] && echo yes); exit 5\n"
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
            said += data
            if typed and b"work" in said:
                os.write(terminal, typed)
                typed = b""
            if not data:
                break
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGHUP)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ran(status=status, out=said.decode(errors="replace"))


def test_a_shell_on_a_kept_host_is_what_the_tests_had(tmp_path: Path, matrix: str) -> None:
    write_package(tmp_path, FAILING, {"data.txt": "data\n"}, staged=ACTIVATE)
    name = f"one-{os.getpid()}"

    ran = run(tmp_path, "--keep", "failed")

    assert ran.status == 1, ran.out
    assert f"kept: manualbuild hosts shell {name}  (odd)" in ran.out
    assert hosts.sweep_dead() == []  # as every run begins
    same = shell(tmp_path, f"{SAME}; cat data.txt $PREFIX/share/written.txt; odd; exit 7")
    said = same.out.splitlines()
    assert same.status == 7, same.out
    assert "the environment of odd, whose tests failed" in said[0]
    assert said[1:] == ["data", "written", "called"]
    assert shell(tmp_path, "[ ${PATH%%:*} = $PREFIX/bin ] && [ $PWD = $SRC_DIR ]").status == 0
    listed = manualbuild("hosts", "list", "--matrix", "one.toml", cwd=tmp_path)
    assert f"kept: {name} {matrix} since" in listed.out, listed.out

    if matrix != "ssh" or os.geteuid() == 0:  # only root's server gives terminals away
        typed = on_a_terminal(tmp_path, "hosts", "shell", name)
        assert typed.status == 5, typed.out
        assert "cwd=work odd=called tty=yes" in typed.out
        assert f"(odd) {name}:work" in typed.out

    swept = manualbuild("hosts", "sweep", cwd=tmp_path)

    assert (swept.status, swept.out.count("removed ")) == (0, 1), swept.out
    gone = shell(tmp_path, "true")
    assert (gone.status, gone.out.count("\n")) == (4, 1), gone.out
    assert "Run the tests with --keep failed." in gone.out
    assert manualbuild("hosts", "sweep", cwd=tmp_path).out == "Nothing was left behind.\n"


@pytest.mark.usefixtures("matrix")
def test_every_environment_of_a_run_can_be_kept(tmp_path: Path) -> None:
    recipe = recipe_v1.write(
        tmp_path / "recipe",
        "package: {name: p, version: '1'}\nbuild:\n  noarch: generic\n"
        "  script: [mkdir -p $PREFIX/share, echo 1 >$PREFIX/share/p]\n"
        "tests:\n- script: [sleep 300]\n- script: [test -f $PREFIX/share/p]\n",
    )
    recipe_v1.build(recipe, tmp_path / "build_artifacts")
    slow = ("--check-timeout", "1", "-q")

    failed = run(tmp_path, "--keep", "failed", *slow)

    assert failed.status == 1, failed.out
    assert failed.out.count("kept: ") == 1
    assert shell(tmp_path, "test -f $PREFIX/share/p").status == 0
    only = shell(tmp_path, "true", "--package", "p tests[1]")
    assert (only.status, only.out.count("\n")) == (4, 1), only.out
    # The host was left dirty, and its place does not stand in the way of another run.
    again = run(tmp_path, "--keep", "always", *slow)
    assert again.status == 1, again.out
    assert again.out.count("kept: ") == 2, again.out
    assert shell(tmp_path, "test -f $PREFIX/share/p", "--package", "p tests[1]").status == 0
    assert len({one.run_id for one in hosts.kept.every()}) == 2
    first = hosts.kept.every()[-1].run_id[:8]
    assert shell(tmp_path, "test -f $PREFIX/share/p", "--run", first).status == 0

    swept = manualbuild("hosts", "sweep", cwd=tmp_path)

    assert swept.status == 0, swept.out
    assert hosts.kept.every() == []
    assert shell(tmp_path, "true").status == 4


def test_a_kept_host_on_which_checks_did_not_run_is_not_said_to_have_passed(
    tmp_path: Path,
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - exit 0\n    - test -f nowhere\n")
    (tmp_path / "one.toml").write_text(f'[hosts.one-{os.getpid()}]\nkind = "local"\n')

    ran = run(tmp_path, "--keep", "always")

    assert ran.status == 8
    said = [*ran.out.splitlines(), *manualbuild("hosts", "list", cwd=tmp_path).out.splitlines()]
    kept = [line for line in said if line.startswith("kept: ")]
    assert len(kept) == 2
    assert not any("passed" in line for line in kept)
    hosts.sweep_kept()


@pytest.mark.parametrize(
    "matrix", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True
)
@pytest.mark.usefixtures("matrix")
def test_a_host_in_use_is_not_removed_and_one_of_a_killed_run_is(tmp_path: Path) -> None:
    write_package(tmp_path, FAILING, {"data.txt": "data\n"}, staged=ACTIVATE)
    assert run(tmp_path, "--keep", "failed").status == 1
    (one,) = hosts.kept.every()
    with hosts.kept.held(one):
        swept = manualbuild("hosts", "sweep", cwd=tmp_path)
        assert swept.status == 16, swept.out
        assert "is in use and stays" in swept.out
        assert "somebody else uses it" in shell(tmp_path, "true").out
    killed = Run.begin(keeps=True)
    lost = hosts.provider("docker").start(one.host, killed, (), lambda _: None)

    killed.unlock()  # as when its process is gone

    assert [line.split()[0] for line in hosts.sweep_dead()] == ["container"]
    lost.close()
    assert shell(tmp_path, "true").status == 0


@pytest.fixture(params=["rootfs", pytest.param("docker", marks=pytest.mark.docker)])
def own_root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A matrix of one host whose root is its own, and known by a digest."""
    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path / "cache"))
    if request.param == "docker":
        request.getfixturevalue("engine")
        line = 'image = "manualbuild/debian-12:test"'
    else:
        request.getfixturevalue("rootfs")
        line = f'root = "{request.getfixturevalue("tarball")}"'
    path = tmp_path / "one.toml"
    path.write_text(
        f'[hosts.one-{os.getpid()}]\nkind = "{request.param}"\nsubdir = "linux-64"\n{line}\n'
    )
    yield path
    hosts.sweep_kept()


def test_failures_are_run_again_on_the_kept_host_in_a_fresh_environment(
    tmp_path: Path, own_root: Path
) -> None:
    commands = (
        "test ! -e $PREFIX/share/left && test ! -e left && test ! -e $HOME/left",
        "touch $PREFIX/share/left left $HOME/left && rm $PREFIX/share/odd.txt",
        "test -f /repaired",
    )
    lines = "".join(f"    - {one}\n" for one in commands)
    write_package(tmp_path, f"test:\n  commands:\n    - test -f $PREFIX/share/odd.txt\n{lines}")
    name = f"one-{os.getpid()}"
    words = ("-m", "pytest", "--recipe", "recipe", "--matrix", "one.toml", "--keep", "failed")
    assert command(sys.executable, *words, cwd=tmp_path).status == 1
    assert shell(tmp_path, "touch /repaired").status == 0

    # Nothing failed, as far as this cache knows: all of it is selected.
    again = command(sys.executable, *words, "--lf", "--cache-clear", cwd=tmp_path)

    assert again.status == 0, again.out
    assert hosts.kept.every() == []
    assert f"not sufficient for upload: {name} was not a fresh host: run" in again.out
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert verdict.status != 0, verdict.out
    assert "was not a fresh host" in verdict.out

    # What is not the same host any more is not taken for it; nor is it lost.
    own_root.write_text(own_root.read_text() + "pids = 500\n")
    assert command(sys.executable, *words, cwd=tmp_path).status == 1
    assert shell(tmp_path, "touch /repaired").status == 0
    own_root.write_text(own_root.read_text().replace("500", "501"))
    changed = command(sys.executable, *words, "--lf", cwd=tmp_path)
    assert changed.status == 1, changed.out
    said = "a new host was started, though one was kept: its entry in the matrix was changed"
    assert said in changed.out
    assert len(hosts.kept.every()) == 2
