"""Runs of one plan on different hosts are one body of evidence, each signed by its runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import manualbuild, run_pytest, signer, write_package
from pytest_manualbuild.errors import EvidenceError
from pytest_manualbuild.gate import approvals, verify
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.verdict import Decision, Verdict

TEST = "test:\n  commands:\n    - 'true'\n    - test -f $PREFIX/share/odd.txt\n"
MATRIX = '[hosts.here]\nkind = "local"\n\n[hosts.there]\nkind = "local"\n'
POLICY = """
[gate]
matrix = "two.toml"
approvals = 1

[signers]
allowed_signers = "signers"

[[enabled]]
package = "odd"
builders = ["alice"]
"""


def run(folder: Path, name: str, *words: str) -> None:
    report = f"both/runs/{name}"
    ran = run_pytest("--recipe", "recipe", "--matrix", "two.toml", "--evidence", report, *words,
                     cwd=folder)  # fmt: skip
    assert ran.status == 0, ran.out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """Two runs: alice's on one host, carol's on the other."""
    folder = tmp_path_factory.mktemp("two")
    write_package(folder, TEST)
    (folder / "two.toml").write_text(MATRIX)
    (folder / "signers").write_text(
        signer(keys, "alice", "report", "approve") + signer(keys, "bob", "approve")
        + signer(keys, "carol", "report", "approve")
    )  # fmt: skip
    (folder / "policy.toml").write_text(POLICY)
    policy = policies.load(folder / "policy.toml")
    for who, host in (("alice", "here"), ("carol", "there")):
        run(folder, who, "--on", host)
        approvals.sign_report(folder / "both/runs" / who, keys / who, policy)
    return folder


@pytest.fixture
def two(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "two")
    return tmp_path / "two"


def judged(folder: Path) -> Verdict:
    policy = policies.load(folder / "policy.toml")
    return verify.verify(folder / "both", folder / "build_artifacts", policy).verdict


def approve(folder: Path, keys: Path, who: str) -> None:
    approvals.approve(folder / "both", keys / who, policies.load(folder / "policy.toml"),
                      ("run",), "")  # fmt: skip


def test_two_runs_cover_the_matrix_together(two: Path, keys: Path) -> None:
    alone = verify.verify(two / "both/runs/alice", two / "build_artifacts", policies.Policy())
    assert alone.verdict.decision is Decision.REJECT
    approve(two, keys, "bob")

    verdict = judged(two)

    assert verdict.decision is Decision.ACCEPT, verdict.text()
    assert "runs/alice/evidence.json: run and signed by alice" in verdict.text()
    assert "runs/carol/evidence.json: run and signed by carol" in verdict.text()
    ran = manualbuild("upload", "both", "--artifacts", "build_artifacts", "--policy", "policy.toml",
                      "--to", "channel", cwd=two)  # fmt: skip
    assert ran.status == 0, ran.out
    assert json.loads((two / "both/receipt.json").read_text())["packages"]
    ran = manualbuild("verify-channel", ".", "--of", "channel", "--policy", "policy.toml", cwd=two)
    assert (ran.status, "proven by both" in ran.out) == (0, True), ran.out


def test_whoever_ran_a_part_approves_nothing_of_it(two: Path, keys: Path) -> None:
    approve(two, keys, "carol")
    assert "carol ran the tests, and approves" in judged(two).text()


def test_every_run_is_signed_and_one_of_them_by_a_builder(two: Path, keys: Path) -> None:
    approve(two, keys, "bob")
    (two / "both/runs/carol/evidence.json.sig").unlink()
    verdict = judged(two)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "runs/carol/evidence.json: the report is not signed" in verdict.text()
    approvals.sign_report(two / "both/runs/carol", keys / "carol",
                          policies.load(two / "policy.toml"))  # fmt: skip
    approvals.sign_report(two / "both/runs/alice", keys / "carol",
                          policies.load(two / "policy.toml"))  # fmt: skip
    assert "does not let carol build it" in judged(two).text()


@pytest.mark.parametrize("lost", ["alice", "carol"])
def test_a_host_that_nobody_ran_is_missing(two: Path, keys: Path, lost: str) -> None:
    approve(two, keys, "bob")
    shutil.rmtree(two / "both/runs" / lost)
    verdict = judged(two)
    assert verdict.decision is Decision.REJECT
    assert "0 results, 1 needed" in verdict.text()


def test_a_host_that_two_ran_is_refused(two: Path, keys: Path) -> None:
    shutil.copytree(two / "both/runs/alice", two / "both/runs/again")
    approve(two, keys, "bob")
    verdict = judged(two)
    assert verdict.decision is Decision.REJECT
    assert "2 results, 1 needed" in verdict.text()


def test_a_run_that_left_out_checks_is_refused(two: Path, keys: Path) -> None:
    shutil.rmtree(two / "both/runs/carol")
    run(two, "carol", "--on", "there", "-k", "not test-f and not 1")
    approvals.sign_report(two / "both/runs/carol", keys / "carol",
                          policies.load(two / "policy.toml"))  # fmt: skip
    approve(two, keys, "bob")
    verdict = judged(two)
    assert verdict.decision is Decision.REJECT
    assert "checks were not selected" in verdict.text()


@pytest.mark.parametrize(
    "sentence",
    [
        "--on there was cut short.",
        "--on here left out hosts of the matrix.",
        "--on nowhere left out hosts of the matrix.",
        "--on there left out hosts of the matrix. It was interrupted.",
    ],
)
def test_a_sentence_that_only_looks_like_that_of_on_counts(
    two: Path, keys: Path, sentence: str
) -> None:
    path = two / "both/runs/carol/evidence.json"
    text = path.read_text()
    assert '"--on there left out hosts of the matrix."' in text
    path.write_text(text.replace("--on there left out hosts of the matrix.", sentence))
    approvals.sign_report(path.parent, keys / "carol", policies.load(two / "policy.toml"))
    approve(two, keys, "bob")

    verdict = judged(two)

    assert verdict.decision is Decision.REJECT
    assert f"did not cover the plan: {sentence}" in verdict.text()


def test_the_id_of_each_run_is_one(two: Path, keys: Path) -> None:
    path = two / "both/runs/carol/evidence.json"
    statement = json.loads(path.read_text())
    statement["predicate"]["run_id"] = ""
    path.write_text(json.dumps(statement))
    approvals.sign_report(path.parent, keys / "carol", policies.load(two / "policy.toml"))
    approve(two, keys, "bob")
    assert "'' is not the id of a run" in judged(two).text()


def test_runs_of_other_plans_are_one_clear_error(two: Path) -> None:
    (two / "two.toml").write_text(MATRIX + "network = true\n")
    shutil.rmtree(two / "both/runs/carol")
    run(two, "carol", "--on", "there")
    with pytest.raises(EvidenceError, match="another plan"):
        judged(two)
    ran = manualbuild("verify", "both", "--artifacts", "build_artifacts", cwd=two)
    assert (ran.status, ran.out.count("\n")) == (4, 1), ran.out
    shutil.rmtree(two / "both/runs")
    (two / "both/runs").mkdir()
    with pytest.raises(EvidenceError, match="0 runs"):
        judged(two)


def test_a_log_of_a_part_is_checked(two: Path, keys: Path) -> None:
    approve(two, keys, "bob")
    log = next((two / "both/runs/carol/logs").rglob("*.txt"))
    log.write_text("other")
    assert "is not the one that the run wrote" in judged(two).text()


def test_results_of_a_host_that_another_ran_are_refused(two: Path, keys: Path) -> None:
    """Whoever signs a run says nothing of hosts to which it did not go."""
    approve(two, keys, "bob")
    files = {who: two / f"both/runs/{who}/evidence.json" for who in ("alice", "carol")}
    said = {who: json.loads(path.read_text()) for who, path in files.items()}
    moved = [one for one in said["carol"]["predicate"]["results"] if one["host"] == "there"]
    said["alice"]["predicate"]["results"] += moved
    said["carol"]["predicate"]["results"] = []
    for who, path in files.items():
        path.write_text(json.dumps(said[who]))
        approvals.sign_report(path.parent, keys / who, policies.load(two / "policy.toml"))
    verdict = judged(two)
    assert verdict.decision is Decision.REJECT
    assert "There are results of there, and the run's plan did not go there" in verdict.text()
