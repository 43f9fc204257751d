"""Whole runs through pytest: what passes, what fails, what is an error, and what the gate says."""

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
from defusedxml import ElementTree

from conftest import LOCAL, ROOT, Ran, manualbuild, recipe, run_pytest

CI = str(ROOT / "tests" / "ci.toml")
DEBIANS = "debian-1?"


def write_package(tmp_path: Path, test: str, files: dict[str, str] | None = None) -> Path:
    """Write a recipe of a noarch package with this test section, and build it."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "meta.yaml").write_text(
        "package:\n  name: odd\n  version: '1'\nbuild:\n  noarch: generic\n" + test
    )
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    (tmp_path / "local.toml").write_text(LOCAL)
    staged = {"share/odd.txt": builder.Staged(data=b"odd\n")}
    built = builder.Built(recipe=folder, files=staged, subdir="noarch")
    builder.write(built, tmp_path / "build_artifacts", ".conda")
    return folder


def run_local(tmp_path: Path, *words: str) -> Ran:
    return run_pytest("--recipe", "recipe", "--matrix", "local.toml", *words, cwd=tmp_path)


def results(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (outcome, cause) by (host, check) of a report."""
    stored = json.loads((folder / "evidence.json").read_text())["predicate"]["results"]
    return {(r["host"], r["check"]): (r["outcome"], r["cause"]) for r in stored}


def test_each_command_has_a_result_and_what_did_not_run_is_not_passed(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - export A=1\n    - test $A = 1\n"
        "    - echo out; echo err >&2; exit 3\n    - echo never\n",
    )

    ran = run_local(tmp_path)

    assert ran.status == 1, ran.out
    assert results(tmp_path / "manualbuild-report") == {
        ("here", "install"): ("passed", "ok"),
        ("here", "commands[0]: export A=1"): ("passed", "ok"),
        ("here", "commands[1]: test $A = 1"): ("passed", "ok"),
        ("here", "commands[2]: echo out; echo err >&2; exit 3"): ("failed", "exit-status"),
        ("here", "commands[3]: echo never"): ("skipped", "not-reached"),
    }
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 1


def test_exit_0_in_the_middle_does_not_pass_what_follows(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - exit 0\n    - 'false'\n")

    assert run_local(tmp_path).status == 8
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[1]: false"] == ("skipped", "not-reached")
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "a skip never satisfies" in verdict.out) == (8, True)


def test_commands_that_make_a_statement_together(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - if true; then\n    - echo yes\n    - fi\n"
        "    - cat <<EOF\n    - text\n    - EOF\n    - 'true'\n",
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_a_recipe_without_tests_proves_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "about:\n  summary: none\n")

    assert run_local(tmp_path).status == 8
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_a_test_that_hangs_is_killed_in_time(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - sleep 600\n    - echo never\n")

    began = time.monotonic()
    ran = run_local(tmp_path, "--check-timeout", "1")

    assert (ran.status, time.monotonic() - began < 30) == (1, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[0]: sleep 600"] == ("failed", "timeout")
    assert found["here", "commands[1]: echo never"] == ("skipped", "not-reached")


def test_standard_input_is_empty_and_the_caller_is_not_seen(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        'test:\n  commands:\n    - test -z "$(cat)"\n    - test -z "$ANACONDA_API_TOKEN"\n'
        '    - test -z "$MANUALBUILD_CACHE"\n    - test -f $PREFIX/share/odd.txt\n',
    )
    os.environ["ANACONDA_API_TOKEN"] = "canary"
    try:
        ran = run_local(tmp_path)
    finally:
        del os.environ["ANACONDA_API_TOKEN"]

    assert ran.status == 0, ran.out


def test_no_file_of_the_recipe_runs_on_the_controller(tmp_path: Path) -> None:
    bad = "import pathlib\npathlib.Path(__file__).with_name('acted').touch()\n"
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", {"conftest.py": bad})

    ran = run_pytest("--recipe", ".", "--matrix", "../local.toml", cwd=folder)

    assert not (folder / "acted").exists()
    assert ran.status == 0, ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "nowhere"), "no such folder"),
        (("--recipe", "recipe", "--matrix", "typo.toml"), "cannot be read"),
        (("--recipe", "recipe", "--matrix", "local.toml", "--on", "x*"), "no host has such a name"),
        (("--recipe", "recipe", "--artifacts", "none"), "no package to test"),
        (("--recipe", "recipe", "--evidence", "recipe"), "not a report of this tool"),
        (("--recipe", "recipe", "recipe"), "collects only the recipe"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_pytest(*words, cwd=tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (4, False), ran.out
    assert says in ran.out
    assert (tmp_path / "recipe" / "meta.yaml").is_file()


def test_narrowed_runs_are_refused_with_that_reason(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n    - 'true'\n")

    assert run_local(tmp_path, "-k", "install").status in {0, 8}
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "not selected (-k" in verdict.out) == (1, True), verdict.out

    assert run_local(tmp_path, "-x").status == 1
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "(-x)" in verdict.out) == (1, True), verdict.out


def test_collect_only_touches_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_local(tmp_path, "--collect-only", "-q")

    assert (ran.status, "recipe::here::odd::commands-0" in ran.out) == (0, True), ran.out
    assert not (tmp_path / "manualbuild-report").exists()


def test_the_default_matrix_is_not_enough_for_the_gate(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_pytest("--recipe", "recipe", cwd=tmp_path)

    assert (ran.status, "not sufficient for upload" in ran.out) == (0, True), ran.out
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_python_imports_go_on_after_a_failure(tmp_path: Path, python_channel: str) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - python\ntest:\n  imports:\n    - json\n    - no_such_module\n"
        "    - os\n    - dies\n    - zipfile\n  files:\n    - dies.py\n",
        {"dies.py": "import os\nos._exit(0)\n"},
    )

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 1, ran.out
    outcomes = {
        check: said[0] for (_, check), said in results(tmp_path / "manualbuild-report").items()
    }
    assert outcomes == {
        "install": "passed",
        "imports: dies": "failed",
        "imports: json": "passed",
        "imports: no_such_module": "failed",
        "imports: os": "passed",
        "imports: zipfile": "passed",
    }


def examples(built: Path, name: str, cwd: Path, *words: str) -> Ran:
    return run_pytest(
        "--recipe", str(recipe(name)), "--artifacts", str(built / name), "--matrix", CI,
        "--on", DEBIANS, *words, cwd=cwd,
    )  # fmt: skip


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_greet_passes_on_three_debians_with_and_without_workers(
    built: Path, tmp_path: Path
) -> None:
    reports = []
    for words in ((), ("-n", "3")):
        ran = examples(built, "greet", tmp_path, "--junitxml", "copy.xml", *words)
        assert ran.status == 0, ran.out
        assert (tmp_path / "copy.xml").read_bytes() == (
            tmp_path / "manualbuild-report/junit.xml"
        ).read_bytes()
        root = ElementTree.fromstring((tmp_path / "copy.xml").read_text())
        reports.append(
            [(suite.get("name"), case.get("classname"), case.get("name"))
             for suite in root for case in suite.iter("testcase")]
        )  # fmt: skip
    assert reports[0] == reports[1]
    assert len(reports[0]) == 3 * 2 * 6


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_an_undeclared_glibc_fails_where_it_is_missing(built: Path, tmp_path: Path) -> None:
    ran = examples(built, "greet-undeclared", tmp_path)

    assert ran.status == 1, ran.out
    outcomes = {
        host: said[0]
        for (host, check), said in results(tmp_path / "manualbuild-report").items()
        if check != "install"
    }
    assert outcomes == {"debian-11": "failed", "debian-12": "failed", "debian-13": "passed"}
    assert "GLIBC_2.38" in (tmp_path / "manualbuild-report/junit.xml").read_text()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_declared_glibc_is_not_applicable_where_it_is_missing(
    built: Path, tmp_path: Path
) -> None:
    ran = examples(built, "greet-declared", tmp_path)

    assert ran.status == 8, ran.out
    causes = {host: said[1] for (host, _), said in results(tmp_path / "manualbuild-report").items()}
    assert causes == {
        "debian-11": "not-applicable", "debian-12": "not-applicable", "debian-13": "ok"
    }  # fmt: skip


@pytest.mark.docker
@pytest.mark.usefixtures("engine", "shared")
def test_a_python_package_passes_in_containers(
    built: Path, tmp_path: Path, python_channel: str
) -> None:
    ran = examples(built, "purehello", tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out


def containers() -> set[str]:
    done = subprocess.run(
        ["docker", "ps", "-aq", "--filter", "label=io.pytest-manualbuild.run"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def start_sleeping(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Start a run on a container whose test sleeps; return when it sleeps."""
    write_package(tmp_path, "test:\n  commands:\n    - sleep 60\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", CI, "--on", "debian-12"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        # A shell starts what it puts in the background deaf to SIGINT, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 # no threads
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for one in containers():
            top = subprocess.run(
                ["docker", "top", one], capture_output=True, text=True, check=False
            )
            if "sleep 60" in top.stdout:
                return process
    process.kill()
    pytest.fail("the test never slept")


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_host_that_goes_away_is_an_error_not_a_failure(tmp_path: Path, how: str) -> None:
    process = start_sleeping(tmp_path)
    for one in containers():
        subprocess.run(["docker", how, one], check=True, capture_output=True)

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found["debian-12", "commands[0]: sleep 60"] == ("error", "host-lost")
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0
    assert containers() == set()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_pass_and_no_container(
    tmp_path: Path, how: signal.Signals
) -> None:
    process = start_sleeping(tmp_path)
    process.send_signal(how)
    process.wait(timeout=60)

    assert process.returncode not in (0, 1)
    manualbuild("hosts", "sweep", cwd=tmp_path)
    deadline = time.monotonic() + 20  # the engine removes the container of a dead shell by itself
    while containers() and time.monotonic() < deadline:
        pass
    assert containers() == set()
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0
