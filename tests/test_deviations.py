"""What conda-build passes and we do not: a policy may accept it, and nothing beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import manualbuild, run_local, write_package
from pytest_manualbuild.errors import PolicyError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate import verify
from pytest_manualbuild.gate.verdict import Decision, Verdict

EXIT_0 = "test:\n  commands:\n    - 'true'\n    - exit 0\n    - echo a\n    - echo b\n"
Change = Callable[[dict[str, object]], None]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which an ``exit 0`` hid two commands."""
    folder = tmp_path_factory.mktemp("hidden")
    write_package(folder, EXIT_0)
    assert run_local(folder).status == 8
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a package without tests."""
    folder = tmp_path_factory.mktemp("bare")
    write_package(folder, "")
    assert run_local(folder).status == 8
    return folder


def accepting(kind: str, package: str = "odd", more: str = "") -> str:
    return (
        f'[[gate.accepted_deviations]]\nkind = "{kind}"\npackage = "{package}"\n'
        f'reason = "so it is upstream"\n{more}'
    )


def judged(folder: Path, text: str) -> Verdict:
    file = folder / "policy.toml"
    file.write_text(text)
    return verify.verify(
        folder / "manualbuild-report", folder / "build_artifacts", policies.load(file)
    ).verdict


def test_what_an_exit_0_hid_is_accepted_by_name_and_told(hidden: Path) -> None:
    assert judged(hidden, "[gate]\n").decision is Decision.INCONCLUSIVE
    (hidden / "policy.toml").write_text(accepting("exit-0"))

    said = manualbuild("verify", "manualbuild-report", "--policy", "policy.toml", cwd=hidden)
    ran = manualbuild(
        "verify", "manualbuild-report", "--policy", "policy.toml", "--json", cwd=hidden
    )

    assert (said.status, ran.status) == (0, 0), said.out
    wanted = (
        "accepted by policy (exit-0): noarch/odd-1-0.conda on here (commands[2]: echo a;"
        " commands[3]: echo b): 2 commands never ran"
    )
    assert wanted in said.out
    value = json.loads(ran.out)
    assert [note for note in value["notes"] if wanted in note and "so it is upstream" in note]
    told = manualbuild("policy", "check", "policy.toml", cwd=hidden)
    assert "For odd, it counts as passed when a command ended its shell with exit" in told.out


def test_a_package_without_tests_is_accepted_by_name_and_told(bare: Path) -> None:
    assert judged(bare, "[gate]\n").decision is Decision.INCONCLUSIVE

    verdict = judged(bare, accepting("nothing-ran"))

    assert verdict.decision is Decision.ACCEPT, verdict.text()
    assert "accepted by policy (nothing-ran): noarch/odd-1-0.conda on here" in verdict.text()


@pytest.mark.parametrize(
    "text",
    [
        accepting("nothing-ran"),
        accepting("exit-0", "even"),
        accepting("exit-0", more="until = 2020-01-01\n"),
    ],
)
def test_it_is_accepted_for_that_kind_package_and_time_only(hidden: Path, text: str) -> None:
    assert judged(hidden, text).decision is Decision.INCONCLUSIVE


def outcome(check: int, outcome: str, cause: str) -> Change:
    def change(result: dict[str, object]) -> None:
        if str(result["check"]).startswith(f"commands[{check}]"):
            result["outcome"], result["cause"] = outcome, cause

    return change


def installed_by_exit_0(result: dict[str, object]) -> None:
    if result["check"] == "install":
        result["outcome"], result["cause"] = "skipped", "exit-0"


def everything(result: dict[str, object]) -> None:
    if result["check"] != "install":
        result["outcome"], result["cause"] = "skipped", "exit-0"


@pytest.mark.parametrize(
    "change",
    [
        outcome(0, "failed", "exit-status"),
        outcome(0, "error", "host-lost"),
        outcome(0, "skipped", "not-reached"),
        outcome(0, "skipped", "exit-0"),  # before anything that could have ended the shell
        outcome(2, "failed", "exit-0"),
        outcome(2, "error", "exit-0"),
        outcome(2, "skipped", "not-reached"),
        outcome(2, "skipped", "not-applicable"),
        outcome(3, "failed", "timeout"),
        outcome(3, "error", "interrupted"),
        installed_by_exit_0,
        everything,
    ],
)
def test_nothing_but_what_was_hidden_is_excused(
    hidden: Path, tmp_path: Path, change: Change
) -> None:
    folder = tmp_path / "case"
    shutil.copytree(hidden, folder)
    path = folder / "manualbuild-report/evidence.json"
    value = json.loads(path.read_text())
    for result in value["predicate"]["results"]:
        change(result)
    path.write_text(json.dumps(value))

    verdict = judged(folder, accepting("exit-0") + accepting("nothing-ran"))

    results = [one.text for one in verdict.reasons if " on here" in one.text]
    # The results themselves are reasons, beside those about the report that no longer fits.
    assert [text for text in results if "junit.xml" not in text], verdict.text()
    assert verdict.decision is not Decision.ACCEPT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (accepting("exit-1"), "exit-1"),
        (accepting("exit-0").replace("so it is upstream", " "), "wants a reason"),
        (accepting("exit-0").replace("package", "pkg"), "gate.accepted_deviations.pkg"),
        ('[gate]\naccepted_deviations = ["exit-0"]\n', "must be a table"),
        (accepting("exit-0", more='until = "soon"\n'), "until"),
    ],
)
def test_a_table_of_another_form_is_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=says):
        policies.load(file)
