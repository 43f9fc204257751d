"""Mistakes of users, and files that would steer the run: each is one line, and loses nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from conftest import (
    command,
    manualbuild,
    results,
    run_local,
    run_pytest,
    write_package,
)


def test_no_file_of_the_recipe_runs_on_the_controller(tmp_path: Path) -> None:
    bad = "import pathlib\npathlib.Path(__file__).with_name('acted').touch()\n"
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", {"conftest.py": bad})

    ran = run_pytest("--recipe", ".", "--matrix", "../local.toml", "--evidence", "../report",
                     cwd=folder)  # fmt: skip

    assert not (folder / "acted").exists()
    assert ran.status == 0, ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "nowhere"), "no such folder"),
        (("--recipe", "recipe", "--matrix", "typo.toml"), "cannot be read"),
        (("--recipe", "recipe", "--matrix", "local.toml", "--on", "x*"), "no host has such a name"),
        (("--recipe", "recipe", "--artifacts", "none"), "no package to test"),
        (("--recipe", "recipe", "--evidence", "build_artifacts"), "not a report of this tool"),
        (("--recipe", "recipe", "--evidence", "recipe"), "lies in the recipe's folder"),
        (("--recipe", "recipe/meta.yaml", "--evidence", "recipe/a/b"), "in the recipe's folder"),
        (("--recipe", "recipe", "--junitxml", "recipe/junit.xml"), "lies in the recipe's folder"),
        (("--recipe", "x/recipe", "--evidence", "x"), "it is the copy in the"),
        (("--recipe", "recipe", "--channel", " "), "--channel is empty"),
        (("--recipe", ""), "--recipe is empty"),
        (("--recipe", "recipe", "--artifacts", ""), "--artifacts is empty"),
        (("--recipe", "recipe", "--evidence", ""), "--evidence is empty"),
        (("--recipe", "recipe", "--artifacts", "recipe/meta.yaml"), "it is no folder"),
        (("--recipe", "recipe", "recipe"), "collects only the recipe"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    shutil.copytree(tmp_path / "recipe", tmp_path / "x/recipe")

    ran = run_pytest(*words, cwd=tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (4, False), ran.out
    assert says in ran.out
    assert (tmp_path / "recipe" / "meta.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "--recipe", ""), "--recipe: it is empty"),
        (("plan", "--recipe", "x", "--artifacts", ""), "--artifacts: it is empty"),
        (("hosts", "list", "--timeout", "0"), "--timeout: 0 must be a number above 0"),
        (("hosts", "probe", "--timeout", "nan"), "--timeout: nan must be a number above 0"),
    ],
)
def test_a_value_that_means_nothing_is_refused(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    ran = manualbuild(*words, cwd=tmp_path)

    assert (ran.status, says in ran.out) == (2, True), ran.out


def test_a_recipe_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    (folder / "meta.yaml").rename(tmp_path / "elsewhere.yaml")
    (folder / "meta.yaml").symlink_to("../elsewhere.yaml")

    ran = run_local(tmp_path)

    assert (ran.status, "None" in ran.out) == (4, False), ran.out
    assert "a recipe may not read files outside of its folder" in ran.out


@pytest.mark.parametrize("program", ["pytest", "plan"])
def test_a_pipe_among_the_packages_is_not_waited_for(tmp_path: Path, program: str) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    os.mkfifo(tmp_path / "build_artifacts/noarch/pipe-1-0.conda")

    words = ("plan", "--recipe", "recipe", "--matrix", "local.toml")
    ran = run_local(tmp_path) if program == "pytest" else manualbuild(*words, cwd=tmp_path)

    assert (ran.status, "pipe-1-0.conda: cannot be read: it is no file" in ran.out) == (4, True)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = [sys.executable, "-m", "pytest_manualbuild.cli", "verify", "report"]
    script = f"rmdir {shlex.quote(str(gone))}; exec {shlex.join(program)}"

    ran = command("sh", "-c", script, cwd=gone)

    assert (ran.status, ran.out.count("\n")) == (4, 1), ran.out
    assert "current folder is not there" in ran.out


def test_files_of_a_recipe_cannot_steer_this_process(tmp_path: Path) -> None:
    acts = "import pathlib\npathlib.Path(__file__).with_name('acted').touch()\n"
    libraries = dict.fromkeys(("docker.py", "jinja2.py", "msgspec.py", "rich.py"), acts)
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", libraries)

    ran = run_pytest("--recipe", ".", "--matrix", "../local.toml", "--evidence", "../report",
                     cwd=folder)  # fmt: skip
    assert ran.status == 0, ran.out
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = -k install\n")
    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", cwd=tmp_path)

    assert (ran.status, "own settings of pytest are not used" in ran.out) == (4, True), ran.out
    assert not (folder / "acted").exists()


def test_what_cannot_be_solved_is_the_package_s_failure_with_the_reason(
    tmp_path: Path, python_channel: str
) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - no-such-package >=2\ntest:\n  commands:\n    - 'true'\n",
    )

    ran = run_local(tmp_path, "--channel", python_channel)

    assert (ran.status, "no-such-package >=2" in ran.out, "__glibc" in ran.out) == (1, True, True)
    assert results(tmp_path / "manualbuild-report") == {
        ("here", "install"): ("failed", "unsolvable"),
        ("here", "commands[0]: true"): ("skipped", "not-reached"),
    }


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ("file:///no/such/channel", "is no folder"),
        ("http://127.0.0.1:1/channel", "A channel cannot be read"),
    ],
)
def test_a_channel_that_cannot_be_read_is_an_error(tmp_path: Path, channel: str, says: str) -> None:
    write_package(
        tmp_path, "requirements:\n  run:\n    - python\ntest:\n  commands:\n    - 'true'\n"
    )

    ran = run_local(tmp_path, "--channel", channel)

    assert (ran.status, says in " ".join(ran.out.split())) == (16, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert set(found.values()) == {("error", "channel")}


def test_a_key_that_nobody_knows_in_the_test_section_is_refused(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  comands:\n    - 'false'\n  commands:\n    - 'true'\n")

    ran = run_local(tmp_path)

    assert (ran.status, "unknown key 'comands'" in ran.out) == (4, True), ran.out


def test_a_matrix_without_a_host_for_the_packages_proves_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", subdir="linux-aarch64")

    assert run_local(tmp_path).status == 8
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_a_list_of_files_that_cannot_be_read_is_the_package_s_failure(tmp_path: Path) -> None:
    write_package(
        tmp_path, "test:\n  commands:\n    - 'true'\n", info={"info/paths.json": "nothing"}
    )

    assert run_local(tmp_path).status == 1
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "install"] == ("failed", "uninstallable")


def test_a_prefix_that_scripts_would_have_to_quote_is_the_host_s_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - test -f $PREFIX/share/odd.txt\n")
    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path / "a cache"))

    ran = run_local(tmp_path)

    assert (ran.status, "MANUALBUILD_CACHE" in ran.out) == (16, True), ran.out


def test_what_the_system_says_of_a_path_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    long = "x" * 300
    for words in (("plan", "--recipe", long), ("verify", "report", "--policy", long),
                  ("hosts", "list", "--matrix", f"{long}.toml")):  # fmt: skip
        said = manualbuild(*words, cwd=tmp_path)
        assert (said.status, "Traceback" in said.out) == (4, False), said.out
    monkeypatch.setenv("MANUALBUILD_CACHE", "/proc/self/none")
    ran = run_local(tmp_path)
    assert (ran.status, "Traceback" in ran.out, "INTERNAL" in ran.out) == (4, False, False), ran.out
    monkeypatch.undo()
    (tmp_path / "recipe" / os.fsdecode(b"b\xff.txt")).touch()
    ran = run_local(tmp_path)
    assert (ran.status, "is not UTF-8" in ran.out) == (4, True), ran.out
