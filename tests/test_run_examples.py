"""The examples on three Debians and here: greet, with an undeclared glibc, and Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from defusedxml import ElementTree

from conftest import (
    LOCAL,
    ROOT,
    Ran,
    recipe,
    results,
    run_pytest,
)

CI = str(ROOT / "tests" / "ci.toml")
DEBIANS = "debian-1?"


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


def test_a_python_package_passes_with_a_python_made_from_the_one_that_runs(
    built: Path, tmp_path: Path
) -> None:
    import packages

    channel = packages.python_channel(tmp_path / "channel")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_pytest(
        "--recipe", str(recipe("purehello")), "--artifacts", str(built / "purehello"),
        "--matrix", "local.toml", "--channel", channel, cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out


@pytest.mark.docker
@pytest.mark.usefixtures("engine", "shared")
def test_a_python_package_passes_in_containers(
    built: Path, tmp_path: Path, python_channel: str
) -> None:
    ran = examples(built, "purehello", tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out
