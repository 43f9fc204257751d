"""The request to conda-forge: proven hashes, in the form that its admin-requests reads."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import pytest
import yaml

from conftest import manualbuild

WORDS = ("request", "report", "--artifacts", "build_artifacts", "--user", "jane")


def package(case: Path) -> Path:
    return next((case / "build_artifacts/noarch").iterdir())


@pytest.mark.parametrize(("label", "channel"), [("manual", "jane/label/manual"), ("main", "jane")])
def test_the_request_has_the_proven_hashes(case: Path, label: str, channel: str) -> None:
    ran = manualbuild(*WORDS, "--label", label, cwd=case)

    assert ran.status == 0, ran.out
    sha256 = hashlib.sha256(package(case).read_bytes()).hexdigest()
    assert yaml.safe_load(ran.out) == {
        "action": "cfep3_copy",
        "anaconda_org_packages": [{"package": f"{channel}/noarch/odd-1-0.conda", "sha256": sha256}],
        "to_anaconda_org_label": "main",
    }
    assert yaml.safe_load((case / "report/request/cfep3_copy.yml").read_text())
    commands = (case / "report/request/copy.sh").read_text().splitlines()
    assert shlex.split(commands[-1]) == [
        "anaconda", "copy", "--from-label", label, "--to-label", "main", "--to-owner",
        "conda-forge", "jane/odd/1/noarch/odd-1-0.conda",
    ]  # fmt: skip


def test_the_statement_is_that_of_cep_27(case: Path) -> None:
    assert manualbuild(*WORDS, cwd=case).status == 0

    value = json.loads((case / "report/request/attestations/odd-1-0.conda.json").read_text())

    assert value == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "odd-1-0.conda",
                "digest": {"sha256": hashlib.sha256(package(case).read_bytes()).hexdigest()},
            }
        ],
        "predicateType": "https://schemas.conda.org/attestations-publish-1.schema.json",
        "predicate": {"targetChannel": "https://conda.anaconda.org/conda-forge"},
    }


def test_the_checklist_ticks_only_what_is_known(case: Path) -> None:
    (case / "policy.toml").write_text('[[enabled]]\npackage = "odd"\npr = 17\n')
    assert manualbuild(*WORDS, "--policy", "policy.toml", cwd=case).status == 0

    text = (case / "report/request/checklist.md").read_text()

    assert "[x] Added a reference to the original PR: 17" in text
    assert "[ ] Posted a link to the build logs" in text
    assert "https://anaconda.org/jane/odd/1/download/noarch/odd-1-0.conda" in text
    assert "| install | ✓ ok |" in text


def test_nothing_is_requested_that_was_not_proven(case: Path) -> None:
    with package(case).open("ab") as file:
        file.write(b"\0")

    ran = manualbuild(*WORDS, cwd=case)

    assert (ran.status, "other bytes" in ran.out) == (1, True), ran.out
    assert not (case / "report/request").exists()
    ran = manualbuild("request", "report", cwd=case)
    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out


def test_a_refused_request_leaves_no_earlier_one(case: Path) -> None:
    request = case / "report/request"
    assert manualbuild(*WORDS, cwd=case).status == 0
    (request / "attestations/old-1-0.conda.json").write_text("{}")
    assert manualbuild(*WORDS, cwd=case).status == 0
    assert [path.name for path in (request / "attestations").iterdir()] == ["odd-1-0.conda.json"]
    (request / "letter.txt").write_text("somebody's own")
    with package(case).open("ab") as file:
        file.write(b"\0")

    assert manualbuild(*WORDS, cwd=case).status == 1

    assert [path.name for path in request.rglob("*")] == ["letter.txt"]


def test_a_folder_that_is_only_called_request_is_left_alone(case: Path) -> None:
    (case / "request").mkdir()
    (case / "request/copy.sh").touch()
    assert manualbuild("request", ".", "--user", "jane", cwd=case).status == 4
    assert (case / "request/copy.sh").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--user", "x; touch pwned"),
        ("--to-owner", "a/b"),
        ("--label", "ma\u0131n"),
        ("--user", ""),
        ("--label", ""),
        ("--user", "../x"),
    ],
)
def test_what_can_be_no_owner_or_label_is_one_line(case: Path, words: tuple[str, str]) -> None:
    ran = manualbuild(*WORDS, *words, cwd=case)

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert not (case / "report/request").exists()
