"""Whole runs through pytest: what passes, what fails, what is an error, and what the gate says."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

import builder
import pytest

from conftest import (
    LOCAL,
    command,
    manualbuild,
    results,
    run_local,
    run_pytest,
    write_package,
)
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.recipe.idle import idle_file


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

    ran = run_local(tmp_path)

    assert (ran.status, "not as in conda-build (exit-0)" in ran.out) == (8, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[1]: false"] == ("skipped", "exit-0")
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

    ran = run_local(tmp_path)

    assert (ran.status, "not as in conda-build (nothing-ran)" in ran.out) == (8, True), ran.out
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


def test_a_failure_says_how_exactly_this_check_is_repeated(tmp_path: Path) -> None:
    commands = "    - 'true'\n" * 10 + "    - 'false'\n"
    write_package(tmp_path, f"test:\n  commands:\n{commands}")

    ran = run_local(tmp_path, "-k", "install or commands")
    again = re.search(r"To repeat this check: pytest (.*)", ran.out)

    assert again is not None, ran.out
    words = shlex.split(again[1])
    ran = run_pytest(*words, cwd=tmp_path)
    assert (ran.status, "1 failed, 11 deselected" in ran.out) == (1, True), ran.out
    words[words.index("-k") + 1] = words[-1].replace("commands-10", "commands-1")
    assert "1 passed, 11 deselected" in run_pytest(*words, cwd=tmp_path).out
    said = results(tmp_path / "manualbuild-report")
    assert said["here", "commands[10]: false"] == ("failed", "exit-status")


def test_narrowed_runs_are_refused_with_that_reason(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n    - 'true'\n")

    assert run_local(tmp_path, "-k", "install").status in {0, 8}
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "not selected (-k" in verdict.out) == (1, True), verdict.out

    assert run_local(tmp_path, "-x").status == 1
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "(-x)" in verdict.out) == (1, True), verdict.out


def test_what_nobody_selected_writes_nothing_after_the_report(tmp_path: Path) -> None:
    """Commands share a shell, and so the next ones run as well: they are stopped first."""
    loop = "while true; do echo more; done"
    write_package(tmp_path, f"test:\n  commands:\n    - 'true'\n    - {loop}\n")

    assert run_local(tmp_path, "-k", "commands-0").status in {0, 8}

    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "is not the one that the run wrote" in verdict.out) == (1, False)


def test_collect_only_touches_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_local(tmp_path, "--collect-only", "-q")

    assert (ran.status, "recipe::here::odd::commands-0" in ran.out) == (0, True), ran.out
    assert not (tmp_path / "manualbuild-report").exists()


def test_hosts_that_work_side_by_side_are_reported_side_by_side(tmp_path: Path) -> None:
    outputs = "outputs:\n" + "".join(
        f"  - name: {name}\n    build:\n      noarch: generic\n    test:\n      commands:\n"
        "        - echo one\n        - echo two\n"
        for name in ("odd", "even")
    )
    write_package(tmp_path, outputs, name="both")
    for name in ("odd", "even"):
        built = builder.Built(
            recipe=None,
            files={f"share/{name}": builder.Staged(data=b"x")},
            subdir="noarch",
            name=name,
            version="1",
        )
        builder.write(built, tmp_path / "built", ".conda")
    (tmp_path / "local.toml").write_text("[hosts.a]\nkind = 'local'\n[hosts.b]\nkind = 'local'\n")

    ran = run_local(tmp_path, "--artifacts", "built", "-v")

    assert ran.status == 0, ran.out
    said = re.findall(r"^recipe::(\w)::(\w+)::(\w+)-?\d* PASSED", ran.out, re.MULTILINE)
    order = [(package, host) for host, package, _ in said]
    assert list(dict.fromkeys(order)) == [
        ("even", "a"), ("even", "b"), ("odd", "a"), ("odd", "b")
    ]  # fmt: skip
    assert order == sorted(order)


def test_the_default_matrix_is_not_enough_for_the_gate(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_pytest("--recipe", "recipe", cwd=tmp_path)

    assert (ran.status, "not sufficient for upload" in ran.out) == (0, True), ran.out
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_outputs_are_tested_with_each_other_and_not_with_what_a_channel_calls_so(
    tmp_path: Path,
) -> None:
    import builder

    recipe = tmp_path / "recipe"
    recipe.mkdir()
    outputs = [
        {
            "name": name,
            "build": {"noarch": "generic"},
            "requirements": {"run": needs},
            "test": {"commands": ["test -f $PREFIX/share/a.txt"]},
        }
        for name, needs in (("liba", []), ("libb", ["liba"]))
    ]
    meta = {"package": {"name": "both", "version": "1"}, "outputs": outputs}
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    (tmp_path / "local.toml").write_text(LOCAL)

    def built(name: str, file: str, into: str, *depends: str) -> None:
        files = {f"share/{file}": builder.Staged(data=into.encode())}
        one = builder.Built(
            recipe=None, files=files, subdir="noarch", name=name, version="1", depends=depends
        )
        builder.write(one, tmp_path / into, ".conda")

    built("liba", "a.txt", "old")  # other bytes under the same name, version and build
    index_channel(tmp_path / "old")
    built("liba", "lost.txt", "build_artifacts")
    built("libb", "b.txt", "build_artifacts", "liba")

    ran = run_local(tmp_path, "--channel", (tmp_path / "old").as_uri())

    assert ran.status == 1, ran.out
    report = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())["predicate"]
    planned = [one["artifact"] for one in report["plan"]["packages"]]
    used = {
        (package["name"], package["sha256"])
        for host in report["hosts"]
        for environment in host["environments"].values()
        for package in environment["packages"]
    }
    assert used == {(one["name"], one["sha256"]) for one in planned}
    failed = [r["package"] for r in report["results"] if r["outcome"] == "failed"]
    assert failed == ["noarch/liba-1-0.conda", "noarch/libb-1-0.conda"]


WATCHER = """\
import pytest

def pytest_runtest_setup(item):
    item.watched = True

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    assert item.watched
    return report

def pytest_exception_interact(node):
    print("saw", node.name)
"""


@pytest.mark.parametrize("hooks", [WATCHER, WATCHER[WATCHER.index("def pytest_exc") :]])
def test_a_plugin_that_watches_items_sees_checks_as_well(tmp_path: Path, hooks: str) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n")
    (tmp_path / "watcher.py").write_text(hooks)

    ran = run_local(tmp_path, "-p", "watcher", "-s")

    assert (ran.status, ran.out.count("saw ")) == (1, 1), ran.out
    assert "saw commands-1" in ran.out


def test_durations_are_those_of_the_checks(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - sleep 0.3\n    - 'true'\n")

    out = run_local(tmp_path, "--durations=0", "--durations-min=0.2").out

    slowest = [line.split()[1:] for line in out.splitlines() if re.match(r"0\.\d\ds ", line)]
    assert slowest == [["call", "recipe::here::odd::commands-0"]], out


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


FORGETFUL = "import sys\nsys.modules['traceback'].print_exc\n"


def test_an_import_finds_nothing_loaded_that_python_did_not_load(
    tmp_path: Path, python_channel: str
) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - python\ntest:\n  imports:\n    - forgetful\n    - json\n"
        "    - broken\n    - again\n"
        "  files:\n    - forgetful.py\n    - broken.py\n    - again.py\n",
        {
            "forgetful.py": FORGETFUL,
            "broken.py": "raise ImportError\n",
            "again.py": FORGETFUL,
        },
    )

    assert run_local(tmp_path, "--channel", python_channel).status == 1
    outcomes = results(tmp_path / "manualbuild-report")
    assert {check: said[0] for (_, check), said in outcomes.items()} == {
        "install": "passed",
        "imports: forgetful": "failed",
        "imports: json": "passed",
        "imports: broken": "failed",
        "imports: again": "failed",
    }


def test_only_what_failed_is_run_again(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n")
    words = ("-p", "cacheprovider", "--recipe", "recipe", "--matrix", "local.toml")

    assert command(sys.executable, "-m", "pytest", *words, "-n", "0", cwd=tmp_path).status == 1
    ran = command(sys.executable, "-m", "pytest", *words, "--lf", cwd=tmp_path)

    assert (ran.status, "1 failed, 2 deselected" in ran.out) == (1, True), ran.out
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "2 of 3 checks were not selected" in verdict.out) == (1, True)


@pytest.mark.parametrize("commands", ["''", "'# only a comment'"])
def test_commands_that_do_nothing_prove_nothing(tmp_path: Path, commands: str) -> None:
    write_package(tmp_path, f"test:\n  commands:\n    - {commands}\n")

    assert run_local(tmp_path).status == 8
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "tests nothing" in verdict.out) == (8, True), verdict.out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run_test.sh", "#!/bin/bash\n# TODO: write tests\nset -euo pipefail\nset +x\n"),
        ("run_test.py", '#!/usr/bin/env python\n"""Tests."""\n\npass  # later\n'),
    ],
)
def test_a_script_that_holds_nothing_proves_nothing(
    tmp_path: Path, python_channel: str, name: str, text: str
) -> None:
    write_package(tmp_path, "", {name: text})

    assert run_local(tmp_path, "--channel", python_channel).status == 8
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status != 0, "tests nothing" in verdict.out) == (True, True), verdict.out


@pytest.mark.parametrize(
    ("extension", "text", "nothing"),
    [
        (".sh", "", True),
        (".sh", "\ufeff# a\n\n  # b \\\n", True),
        (".sh", "set -e; false\n", False),
        (".sh", "set -e -o pipefail\n", True),
        (".sh", "set -- $(false)\n", False),
        (".sh", "set -e \\\n  && false\n", False),
        (".sh", "true\n", False),
        (".sh", "\n\nset -ex\n\n\n\nexit 0\n", True),
        (".sh", "exit 1\n", False),
        (".py", "'''a\n\"b\" '''; pass\n# c", True),
        (".py", '"""a""" + x', False),
        (".py", "passed()", False),
        (".py", "import a", False),
        (".py", '"" "open', False),
        (".pl", "# a\n", True),
        (".pl", "1;\n", False),
        (".lua", "-- a\n", True),
        (".lua", "--[[ a\n]] error()\n", False),
        (".bat", "@echo off\r\nREM a\r\n:: b\r\n", True),
        (".bat", "@echo off & exit 1\r\n", False),
        (".bat", "\r\n@echo on\r\nexit /B 0\r\n", True),
        (".bat", "exit /B 1\r\n", False),
        (".r", "# a\n", True),
        (".unknown", "# a\nb\n", False),
    ],
)
def test_what_a_script_that_does_nothing_holds(extension: str, text: str, *, nothing: bool) -> None:
    assert idle_file(extension, text.encode()) is nothing
