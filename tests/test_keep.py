"""Hosts that stay after a run: a shell on them is what the tests had, until they are swept."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from conftest import Ran, command, manualbuild, run_local, run_pytest, write_package
from pytest_manualbuild import hosts

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
    lines = {
        "local": [],
        "rootfs": lambda: [f'root = "{request.getfixturevalue("rootfs")}"'],
        "docker": lambda: ['image = "manualbuild/debian-12:test"'],
        "ssh": lambda: _ssh_lines(request),
    }[request.param]
    if request.param == "docker":
        request.getfixturevalue("engine")
    more = "\n".join(lines() if callable(lines) else lines)
    (tmp_path / "one.toml").write_text(
        f'[hosts.one-{os.getpid()}]\nkind = "{request.param}"\nsubdir = "linux-64"\n{more}\n'
    )
    yield str(request.param)
    hosts.sweep_kept()


def _ssh_lines(request: pytest.FixtureRequest) -> list[str]:
    server: sshd.Sshd = request.getfixturevalue("ssh_server")
    return ['address = "127.0.0.1"', f"port = {server.port}", f'ssh_config = "{server.ssh_config}"']


def run(tmp_path: Path, *words: str) -> Ran:
    return run_pytest("--recipe", "recipe", "--matrix", "one.toml", *words, cwd=tmp_path)


def shell(tmp_path: Path, command_: str, *words: str) -> Ran:
    return manualbuild("hosts", "shell", f"one-{os.getpid()}", *words, "-c", command_, cwd=tmp_path)


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

    swept = manualbuild("hosts", "sweep", cwd=tmp_path)

    assert (swept.status, swept.out.count("removed ")) == (0, 1), swept.out
    gone = shell(tmp_path, "true")
    assert (gone.status, gone.out.count("\n")) == (4, 1), gone.out
    assert "Run the tests with --keep failed." in gone.out
    assert manualbuild("hosts", "sweep", cwd=tmp_path).out == "Nothing was left behind.\n"
