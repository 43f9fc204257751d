"""What a run writes, and where: nothing of the user's is lost, and no two runs share a report."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import (
    command,
    manualbuild,
    manualbuild_without_rights,
    results,
    run_local,
    run_pytest,
    write_package,
)

TESTS = "test:\n  commands:\n    - 'true'\n    - 'false'\n"


@pytest.mark.parametrize(
    ("place", "make", "why"),
    [
        ("build_artifacts/noarch/odd-1-0.conda", None, "there is another file already"),
        ("local.toml", None, "there is another file already"),
        ("link", lambda path: path.symlink_to("local.toml"), "it is no plain file"),
        ("pipe", os.mkfifo, "it is no plain file"),
        ("", None, "it is no plain file"),
    ],
)
def test_a_junit_report_takes_nobody_s_place(
    tmp_path: Path, place: str, make: Callable[[Path], None] | None, why: str
) -> None:
    write_package(tmp_path, TESTS)
    if make is not None:
        make(tmp_path / place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    ran = run_local(tmp_path, f"--junitxml={place}")

    assert (ran.status, f"--junitxml {tmp_path / place}: {why}" in ran.out) == (4, True), ran.out
    assert {path: path.read_bytes() for path in before} == before


def test_a_junit_report_that_cannot_be_written_is_told_before_the_tests(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    (tmp_path / "file").write_text("")

    ran = run_local(tmp_path, "--junitxml=file/below/report.xml")

    where = f"nothing can be written in {tmp_path / 'file'}"
    assert (ran.status, where in ran.out) == (4, True), ran.out
    assert not (tmp_path / "manualbuild-report").exists()


def test_a_folder_of_packages_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    folder = tmp_path / "build_artifacts/linux-64"
    folder.mkdir(mode=0o000)

    ran = manualbuild_without_rights("plan", "--recipe", "recipe", cwd=tmp_path)

    folder.chmod(0o755)
    assert (ran.status, f"{folder}: Permission denied" in ran.out) == (4, True), ran.out


def test_a_list_of_findings_takes_nobody_s_place(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    package = tmp_path / "build_artifacts/noarch/odd-1-0.conda"
    before = package.read_bytes()

    ran = manualbuild("audit", str(package), "--sarif", str(package), cwd=tmp_path)

    assert (ran.status, "would be lost" in ran.out, package.read_bytes()) == (4, True, before)
    for _ in range(2):
        manualbuild("audit", str(package), "--sarif", "found.json", cwd=tmp_path)
    assert "sarif" in json.loads((tmp_path / "found.json").read_text())["$schema"]


def test_a_selection_of_nothing_leaves_the_report_alone(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    run_local(tmp_path)
    before = (tmp_path / "manualbuild-report/evidence.json").read_bytes()

    assert run_local(tmp_path, "-k", "typo").status == 5
    assert (tmp_path / "manualbuild-report/evidence.json").read_bytes() == before


def test_two_runs_do_not_write_one_report(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    run_local(tmp_path)
    folder = tmp_path / "manualbuild-report"
    before = (folder / "evidence.json").read_bytes()
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    ran = run_local(tmp_path)
    os.close(held)

    assert (ran.status, "another run is writing its report there" in ran.out) == (4, True), ran.out
    assert (folder / "evidence.json").read_bytes() == before
    assert run_local(tmp_path).status == 1


FINISH = """\
import fcntl, os
from pytest_manualbuild import evidence

finish = evidence.finish

def watched(folder, *args, **kwargs):
    looks = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(looks, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("the folder was free")
    except BlockingIOError:
        print("the folder was held")
    os.close(looks)
    return finish(folder, *args, **kwargs)

evidence.finish = watched
"""


@pytest.mark.parametrize("words", [(), ("-x",)])
def test_a_report_is_held_until_it_is_written(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Also that of a run that was cut short, whose hosts go before."""
    write_package(tmp_path, TESTS + "    - echo\n")
    (tmp_path / "looking.py").write_text(FINISH)

    assert "the folder was held" in run_local(tmp_path, "-p", "looking", "-s", *words).out


def test_a_run_that_looks_for_changes_is_refused_in_one_line(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)

    ran = run_local(tmp_path, "-f")

    assert (ran.status, "leave out -f" in ran.out, "Traceback" in ran.out) == (4, True, False)


def test_the_first_failure_ends_a_run_with_one_status_however_it_is_run(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)

    assert [run_local(tmp_path, "-x", *words).status for words in ((), ("-n", "2"))] == [1, 1]


def test_a_trap_hides_no_failure(tmp_path: Path) -> None:
    """conda-build passes it, as the shell ends with 0."""
    write_package(tmp_path, "test:\n  commands:\n    - trap 'exit 0' EXIT\n    - 'false'\n")

    assert run_local(tmp_path).status == 1
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[1]: false"] == ("failed", "exit-status")


@pytest.mark.parametrize(
    ("name", "first"),
    [("run_test.sh", ""), ("setup.sh", "    - . ./setup.sh\n")],
)
def test_a_trap_that_no_command_spells_out_hides_no_failure_either(
    tmp_path: Path, name: str, first: str
) -> None:
    test = f"test:\n  files:\n    - {name}\n  commands:\n{first}    - 'false'\n"
    write_package(tmp_path, test, {name: "trap 'exit 0' EXIT\n"})

    assert run_local(tmp_path).status == 1
    last = f"commands[{first.count('-')}]: false"
    assert results(tmp_path / "manualbuild-report")["here", last] == ("failed", "exit-status")


@pytest.mark.parametrize(
    "last",
    ["test -e exit-code", "bash -c 'exit 4'", "false || exit 3", "test $((1<<3)) = 9"],
)
def test_a_word_in_a_command_is_no_end_of_its_shell(tmp_path: Path, last: str) -> None:
    test = f"test:\n  files:\n    - setup.sh\n  commands:\n    - . ./setup.sh\n    - {last}\n"
    write_package(tmp_path, test, {"setup.sh": "trap 'exit 0' EXIT\n"})

    assert run_local(tmp_path).status == 1
    found = results(tmp_path / "manualbuild-report")
    assert found["here", f"commands[1]: {last}"] == ("failed", "exit-status")


@pytest.mark.parametrize("first", ["'true'", "trap 'rm -f left' EXIT", "leave() { exit 0; }"])
def test_a_shell_may_still_end_itself_well(tmp_path: Path, first: str) -> None:
    last = "leave" if "leave" in first else "exit 0"
    write_package(tmp_path, f"test:\n  commands:\n    - {first}\n    - {last}\n")

    assert run_local(tmp_path).status == 0


def test_an_activation_that_never_ends_fails_nothing_else(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS, staged={"etc/conda/activate.d/slow.sh": "sleep 60\n"})

    assert run_local(tmp_path, "--check-timeout", "1").status == 1
    assert results(tmp_path / "manualbuild-report") == {
        ("here", "install"): ("failed", "timeout"),
        ("here", "commands[0]: true"): ("skipped", "not-reached"),
        ("here", "commands[1]: false"): ("skipped", "not-reached"),
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "loop"), "ERROR: loop: there is no such folder"),
        (("--recipe", "a" * 300), "File name too long"),
        (("--recipe", "recipe", "--evidence", "loop"), "loop: the report cannot be written"),
        (("--recipe", "recipe", "--matrix", ""), "--matrix is empty"),
    ],
)
def test_a_place_that_leads_nowhere_is_a_mistake_of_the_call(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    write_package(tmp_path, TESTS)
    (tmp_path / "loop").symlink_to("loop")

    ran = run_pytest(*words, cwd=tmp_path)

    assert (ran.status, says in ran.out, "Traceback" in ran.out) == (4, True, False), ran.out


def test_a_verb_takes_closed_streams_and_shows_control_characters(tmp_path: Path) -> None:
    write_package(tmp_path, TESTS)
    call = f"{sys.executable} -m pytest_manualbuild.cli plan --recipe recipe"

    for streams in (">&-", ">&- 2>&- <&-"):
        ran = command("sh", "-c", f"{call} {streams}", cwd=tmp_path)
        assert (ran.status, ran.out) == (0, "")
    (tmp_path / "recipe/meta.yaml").rename(tmp_path / "recipe/away")
    head = 'package:\n  name: "o\\edd"\n  version: 1\n'
    (tmp_path / "recipe/recipe.yaml").write_text(head)
    ran = command("sh", "-c", call, cwd=tmp_path)
    assert (ran.status, "o\\x1bdd" in ran.out, "\x1b" in ran.out) == (1, True, False), ran.out


@pytest.mark.parametrize("verb", ["verify", "request", "build"])
def test_an_empty_place_is_not_the_current_folder(tmp_path: Path, verb: str) -> None:
    ran = manualbuild(verb, "", cwd=tmp_path)

    assert (ran.status, "it is empty; give a folder" in ran.out) == (2, True), ran.out


def test_what_a_recipe_says_sends_nothing_to_the_terminal(tmp_path: Path) -> None:
    write_package(tmp_path, 'test:\n  commands:\n    - "false\\e[31m"\n')

    ran = run_local(tmp_path)

    assert ran.status == 1
    assert ("$ false\\x1b[31m" in ran.out, "\x1b" in ran.out) == (True, False), ran.out
