"""A run counts once: for one report, at one target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from conftest import manualbuild, manualbuild_without_rights, small_disk
from pytest_manualbuild.errors import PolicyError, UploadError
from pytest_manualbuild.gate import ledger as ledgers
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.ledger import Use

LEDGER = '[gate]\nledger = "ledger.jsonl"\n'
WORDS = ("--artifacts", "build_artifacts", "--policy", "policy.toml")


@pytest.fixture
def ledger(case: Path) -> Path:
    """An empty ledger that a policy names, beside a good report."""
    (case / "policy.toml").write_text(LEDGER)
    (case / "ledger.jsonl").touch()
    return case / "ledger.jsonl"


def upload(case: Path, report: str, to: str, *words: str) -> tuple[int, str]:
    ran = manualbuild("upload", report, *WORDS, "--to", to, *words, cwd=case)
    assert "Traceback" not in ran.out, ran.out
    return ran.status, ran.out


def test_a_run_is_noted_once_and_counts_for_one_target(case: Path, ledger: Path) -> None:
    assert upload(case, "report", "one", "--dry-run")[0] == 0
    assert ledger.read_text() == ""

    assert upload(case, "report", "one")[0] == 0

    (line,) = map(json.loads, ledger.read_text().splitlines())
    stored = json.loads((case / "report/evidence.json").read_text())
    assert line["run_id"] == stored["predicate"]["run_id"]
    assert line["packages"] == {one["name"]: one["digest"]["sha256"] for one in stored["subject"]}
    # Again is no harm: an upload that was killed is gone on with like that.
    assert upload(case, "report", "one")[0] == 0
    assert len(ledger.read_text().splitlines()) == 1
    status, out = upload(case, "report", "two")
    assert (status, "was used already, for" in out) == (1, True), out
    assert not (case / "two").exists()


def test_another_report_of_a_run_that_was_used_is_refused(case: Path, ledger: Path) -> None:
    assert upload(case, "report", "one")[0] == 0
    shutil.copytree(case / "report", case / "again")
    path = case / "again/evidence.json"
    path.write_text(path.read_text() + "\n")

    ran = manualbuild("verify", "again", *WORDS, cwd=case)

    assert (ran.status, "was used with another report" in ran.out) == (1, True), ran.out
    assert manualbuild("verify", "report", *WORDS, cwd=case).status == 0
    assert upload(case, "again", "one")[0] == 1
    assert len(ledger.read_text().splitlines()) == 1


def test_a_ledger_that_lost_its_last_newline_stays_one(case: Path, ledger: Path) -> None:
    other = {"run_id": "r", "evidence_sha256": "0", "where": "there", "packages": {}}
    ledger.write_text(json.dumps(other))

    assert upload(case, "report", "one")[0] == 0

    assert len(list(map(json.loads, ledger.read_text().splitlines()))) == 2
    assert manualbuild("verify", "report", *WORDS, cwd=case).status == 0
    ledger.write_text(ledger.read_text().rstrip("\n"))
    before = ledger.read_text()
    assert upload(case, "report", "one")[0] == 0
    assert ledger.read_text() == before


def test_nothing_leaves_when_the_ledger_cannot_be_written(case: Path, ledger: Path) -> None:
    ledger.chmod(0o444)
    ran = manualbuild_without_rights("upload", "report", *WORDS, "--to", "one", cwd=case)
    assert (ran.status, ran.out.count("\n"), "cannot be written" in ran.out) == (1, 1, True), (
        ran.out
    )
    assert not (case / "one").exists()


def test_a_line_that_came_meanwhile_counts(ledger: Path) -> None:
    use = Use(run_id="r", evidence_sha256="0", where="one", packages={})
    read = ledgers.load(ledger)
    ledgers.load(ledger).add([use])
    read.add([use])
    assert len(ledger.read_text().splitlines()) == 1
    with pytest.raises(UploadError, match="used already, for one"):
        read.add([replace(use, where="two")])
    assert len(ledger.read_text().splitlines()) == 1


def test_a_line_that_does_not_fit_on_the_disk_leaves_none_in_part(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4k") as disk:
        path = disk / "ledger.jsonl"
        path.touch()
        uses = [Use(run_id="r" * 1000, evidence_sha256="0", where="one", packages={})]
        ledgers.load(path).add(uses)
        more = [Use(run_id=str(n) * 1000, evidence_sha256="0", where="one", packages={})
                for n in range(9)]  # fmt: skip
        with pytest.raises(UploadError, match="No space"):
            ledgers.load(path).add(more)
        assert ledgers.read(path) == tuple(uses)


def test_nothing_leaves_before_the_ledger_has_it(case: Path, ledger: Path) -> None:
    ledger.unlink()
    (case / "policy.toml").write_text(LEDGER)
    status, out = upload(case, "report", "one")
    assert (status, "ledger cannot be read" in out, out.count("\n")) == (4, True, 1), out
    assert not (case / "one").exists()


@pytest.mark.parametrize("text", ["x", "{}", "[]", '{"run_id": 1}', "NaN", "[" * 100_000, "\xff"])
def test_a_broken_ledger_is_one_clear_error(case: Path, ledger: Path, text: str) -> None:
    assert upload(case, "report", "one")[0] == 0
    with ledger.open("ab") as file:
        file.write(text.encode("latin-1"))
    with pytest.raises(PolicyError, match=r"ledger\.jsonl:2: not a line"):
        policies.load(case / "policy.toml")
