"""A recipe's own pytest functions: run on every host and counted, and only when asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conftest import Ran, manualbuild, results, run_pytest, write_package
from pytest_manualbuild import plan as planning

TEST = "test:\n  commands:\n    - 'true'\n"
GOOD = """
import pytest
from pathlib import Path

(Path(__file__).parents[2] / "imported.txt").write_text("yes")

@pytest.fixture
def text(manual_host, prefix):
    return manual_host.file(f"{prefix}/share/odd.txt").content_string

def test_file(text, package):
    assert (text, package.name) == ("odd\\n", "odd")

@pytest.mark.parametrize("word", ["active", "odd"])
def test_environment(manual_host, prefix, word):
    assert manual_host.check_output("echo $ODD-$PKG_NAME-$PREFIX") == f"active-odd-{prefix}"

class TestMore:
    def test_nothing_of_a_host(self):
        assert 1 + 1 == 2
"""
BAD = """
import time
import pytest

def test_fails(manual_host):
    assert manual_host.run("exit 3").rc == 0

@pytest.mark.parametrize("number", [1, 2, 3])
def test_in_part(number):
    assert number != 2

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass

@pytest.fixture
def late():
    yield
    raise RuntimeError("too late")

def test_teardown(late):
    pass

def test_slow():
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass
"""
NAMES = ("test_file", "test_environment", "TestMore::test_nothing_of_a_host")


def write(tmp_path: Path, text: str, name: str = "test_odd.py") -> Path:
    folder = write_package(
        tmp_path, TEST, staged={"etc/conda/activate.d/odd.sh": "export ODD=active\n"}
    )
    (folder / "tests").mkdir()
    (folder / "tests" / name).write_text(text)
    (tmp_path / "two.toml").write_text(
        '[hosts.here]\nkind = "local"\n[hosts.there]\nkind = "local"\n'
    )
    return folder


def run(tmp_path: Path, *words: str, option: str = "--recipe-tests") -> Ran:
    return run_pytest("--recipe", "recipe", "--matrix", "two.toml", option, *words, cwd=tmp_path)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_functions_run_on_every_host_and_the_gate_counts_them(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    write(tmp_path, GOOD)

    ran = run(tmp_path, "-v", *workers)

    assert ran.status == 0, ran.out
    report = tmp_path / "manualbuild-report"
    functions = {f"tests/test_odd.py::{name}" for name in NAMES}
    wanted = {(host, name) for host in ("here", "there") for name in functions}
    found = results(report)
    assert {key: found[key] for key in wanted} == dict.fromkeys(wanted, ("passed", "ok"))
    assert "recipe test, runs on this machine: tests/test_odd.py  sha256 " in ran.out
    plan = json.loads((report / "evidence.json").read_text())["predicate"]["plan"]
    (module,) = plan["packages"][0]["sections"][-1]["modules"]
    assert (module["path"], len(module["sha256"])) == ("tests/test_odd.py", 64)
    junit = (report / "junit.xml").read_text()
    assert junit.count('name="tests/test_odd.py::test_environment"') == 2
    (tmp_path / "imported.txt").unlink()
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "accept" in verdict.out.lower()) == (0, True), verdict.out
    words = ("plan", "--recipe", "recipe", "--matrix", "two.toml", "--json")
    said = json.loads(manualbuild(*words, "--recipe-tests", cwd=tmp_path).out)
    assert said["digest"] == planning.digest(planning.from_json(plan))
    assert functions < {check["name"] for check in said["outputs"][0]["checks"]}
    without = json.loads(manualbuild(*words, cwd=tmp_path).out)
    assert without["digest"] != said["digest"]
    assert not (tmp_path / "imported.txt").exists()


def test_without_the_option_nothing_of_the_recipe_is_imported(tmp_path: Path) -> None:
    write(tmp_path, GOOD)

    assert run(tmp_path, option="-q").status == 0
    assert not (tmp_path / "imported.txt").exists()

    listed = run(tmp_path, "--collect-only", "-q", "-k", "test_file and there")

    assert "recipe::tests/test_odd.py::test_file[there/odd/]" in listed.out.splitlines()
    assert "[here/" not in listed.out


def test_only_a_function_that_passed_whole_is_passed(tmp_path: Path) -> None:
    write(tmp_path, BAD)

    ran = run(tmp_path, "--check-timeout", "1", "--on", "here")

    assert ran.status == 1, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {key[1].partition("::")[2]: said for key, said in found.items() if "::" in key[1]} == {
        "test_fails": ("failed", "function"),
        "test_in_part": ("failed", "function"),
        "test_skipped": ("skipped", "recipe"),
        "test_teardown": ("failed", "function"),
        "test_slow": ("failed", "timeout"),
    }
    assert "Warning" not in ran.out
    part = run(tmp_path, "--on", "here", "-k", "test_in_part and not -2")
    assert "checks were not selected" in part.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "tests/test_odd.py::test_in_part"] == ("skipped", "not-selected")


def test_words_that_no_file_can_hold_end_no_run(tmp_path: Path) -> None:
    said = "print('o\\ud800')\n    raise ValueError('x \\ud800 y')"
    write(tmp_path, f"def test_odd():\n    {said}\n\ndef test_next():\n    pass\n")

    ran = run(tmp_path, "--on", "here")

    assert ran.status == 1, ran.out
    report = tmp_path / "manualbuild-report"
    found = results(report)
    assert found["here", "tests/test_odd.py::test_odd"] == ("failed", "function")
    assert found["here", "tests/test_odd.py::test_next"] == ("passed", "ok")
    assert "x \\\\ud800 y" in (report / "results.jsonl").read_text()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("import nowhere_to_be_found\n\ndef test_a():\n    pass\n", 2, "nowhere_to_be_found"),
        ("def test_a():\n    pass\n\nglobals()['test_b'] = test_a\n", 4, "it is in no plan"),
        ("def test_a():\n    pass\n\ndel test_a\n", 4, "pytest does not take it for a test"),
        ("def test_a(:\n", 4, "test_odd.py:1: "),
        ("def helper():\n    pass\n", 4, "there is no test function in tests/test_*.py"),
    ],
)
def test_what_the_plan_cannot_name_is_not_run(
    tmp_path: Path, text: str, status: int, said: str
) -> None:
    write(tmp_path, text)

    ran = run(tmp_path)

    assert (ran.status, "INTERNALERROR" in ran.out) == (status, False), ran.out
    assert said in " ".join(ran.out.split()).replace("so it is in", "it is in")
    if (tmp_path / "manualbuild-report/evidence.json").exists():
        found = results(tmp_path / "manualbuild-report").values()
        assert {outcome for outcome, _ in found} <= {"error", "skipped"}


def test_where_the_environment_cannot_be_made_no_function_passes(tmp_path: Path) -> None:
    write_package(tmp_path, TEST, staged={"etc/conda/activate.d/odd.sh": "false\n"})
    (tmp_path / "recipe/tests").mkdir()
    (tmp_path / "recipe/tests/test_odd.py").write_text("def test_a():\n    pass\n")
    (tmp_path / "two.toml").write_text('[hosts.here]\nkind = "local"\n')

    ran = run(tmp_path)

    assert ran.status == 1, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "tests/test_odd.py::test_a"] == ("failed", "exit-status")


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_host_that_a_function_loses_is_an_error(tmp_path: Path) -> None:
    write(
        tmp_path,
        "def test_first(manual_host, prefix):\n"
        "    assert manual_host.check_output('echo $ODD $PREFIX') == f'active {prefix}'\n\n"
        "def test_killer(manual_host):\n    manual_host.run('kill -9 -1')\n\n"
        "def test_late(manual_host):\n    assert manual_host.run('true').rc == 0\n",
    )
    (tmp_path / "two.toml").write_text(
        f'[hosts.lost-{os.getpid()}]\nkind = "docker"\nsubdir = "linux-64"\n'
        'image = "manualbuild/debian-12:test"\n'
    )

    ran = run(tmp_path, "--keep", "failed")

    assert ran.status == 16, ran.out
    found = {key[1]: said for key, said in results(tmp_path / "manualbuild-report").items()}
    assert found["tests/test_odd.py::test_first"] == ("passed", "ok")
    assert found["tests/test_odd.py::test_killer"] == ("error", "host-lost")
    assert found["tests/test_odd.py::test_late"] == ("error", "host-lost")
    assert "it could not be kept" in ran.out
