"""A folder as a channel: an upload publishes what was proven and nothing that lies beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import LOCAL, Ran, build, manualbuild, manualbuild_without_rights, run_pytest

OURS = "noarch/odd-1-0.conda"


def upload(case: Path, *words: str) -> Ran:
    ran = manualbuild(
        "upload", "report", "--artifacts", "build_artifacts", "--to", "channel", *words, cwd=case
    )
    assert "Traceback" not in ran.out, ran.out
    return ran


def watch(case: Path, *words: str, of: str = "channel") -> Ran:
    ran = manualbuild("verify-channel", *(words or ("report",)), f"--of={of}", cwd=case)
    assert "Traceback" not in ran.out, ran.out
    return ran


def names(channel: Path, subdir: str = "noarch") -> list[str]:
    index = json.loads((channel / subdir / "repodata.json").read_text())
    return sorted({**index["packages"], **index["packages.conda"]})


def put(case: Path, key: str, data: bytes | None = None) -> Path:
    """Put a file into the channel that no upload brought there: a package, or these bytes."""
    path = case / "channel" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or (case / "build_artifacts" / OURS).read_bytes())
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "key", ["noarch/evil-1-0.conda", "noarch/evil-1-0.tar.bz2", "linux-64/odd-1-0.conda",
            "emscripten-wasm32/evil-1-0.conda", "noarch/.evil-1-0.conda", "noarch/evil.whl"]
)  # fmt: skip
@pytest.mark.parametrize("data", [None, b"junk"])
def test_an_upload_makes_nothing_else_public(case: Path, key: str, data: bytes | None) -> None:
    stray = put(case, key, data)
    before = tree(case / "channel")

    for words in ((), ("--dry-run",)):
        ran = upload(case, *words)
        assert (ran.status, ran.out.count("\n"), key in ran.out) == (1, 1, True), ran.out
        assert tree(case / "channel") == before

    assert not (case / "report/receipt.json").exists()
    stray.unlink()
    assert upload(case).status == 0
    assert names(case / "channel") == ["odd-1-0.conda"]


def test_what_is_in_the_index_or_in_no_subdir_hinders_nothing(case: Path) -> None:
    assert upload(case).status == 0
    put(case, "broken/evil-1-0.conda", b"junk")
    put(case, "pkgs/evil-1-0.conda", b"junk")
    put(case, OURS, (case / "channel" / OURS).read_bytes())  # no newer file is read again
    ran = upload(case)
    assert (ran.status, "already there" in ran.out) == (0, True), ran.out


def test_a_run_counts_as_used_only_when_the_channel_is_fit(case: Path) -> None:
    (case / "policy.toml").write_text('[gate]\nledger = "ledger.jsonl"\n')
    (case / "ledger.jsonl").touch()
    put(case, "noarch/evil-1-0.conda")
    assert upload(case, "--policy", "policy.toml").status == 1
    assert (case / "ledger.jsonl").read_text() == ""


@pytest.mark.parametrize("index", ["{", "[]", '{"packages": 5}', '{"packages.conda": null}', ""])
def test_an_index_that_cannot_be_read_is_named(case: Path, index: str) -> None:
    assert upload(case).status == 0
    put(case, "noarch/evil-1-0.conda")
    (case / "channel/noarch/repodata.json").write_text(index)
    before = tree(case / "channel")

    for ran in (upload(case), watch(case)):
        assert (ran.status, ran.out.count("\n")) == (4, 1), ran.out
        assert "noarch/repodata.json" in ran.out
    assert tree(case / "channel") == before


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Evidence of two packages."""
    for extension in (".conda", ".tar.bz2"):
        build(tmp_path, extension=extension)
    (tmp_path / "local.toml").write_text(LOCAL)
    ran = run_pytest("--recipe", "recipe-of-build_artifacts", "--matrix", "local.toml",
                     "--evidence", "report", cwd=tmp_path)  # fmt: skip
    assert ran.status == 0, ran.out
    return tmp_path


def test_what_an_interrupted_upload_left_is_gone_on_with(pair: Path) -> None:
    put(pair, OURS)  # sent, and not indexed
    ran = upload(pair)
    assert ran.status == 0, ran.out
    assert names(pair / "channel") == ["odd-1-0.conda", "odd-1-0.tar.bz2"]


def test_what_another_upload_left_halfway_is_not_published_with_ours(
    pair: Path, case: Path
) -> None:
    (case / "channel/noarch").mkdir(parents=True)
    shutil.copy(pair / "build_artifacts/noarch/odd-1-0.tar.bz2", case / "channel/noarch")
    ran = upload(case)
    assert (ran.status, "noarch/odd-1-0.tar.bz2" in ran.out) == (1, True), ran.out


def test_a_package_is_proven_when_another_of_its_run_was_withdrawn(pair: Path) -> None:
    assert upload(pair).status == 0
    (pair / "channel/noarch/odd-1-0.tar.bz2").unlink()

    ran = watch(pair)
    assert "odd-1-0.conda: proven by report" in ran.out
    # The index still names it.
    assert "odd-1-0.tar.bz2: NOT PROVEN" in ran.out
    assert ran.status == 1

    assert upload(pair, "--dry-run").status == 0
    (pair / "channel/noarch/repodata.json").unlink()
    ran = watch(pair)
    assert (ran.status, "1 files, 0 not proven" in ran.out) == (0, True), ran.out

    put(pair, OURS, b"other bytes")
    ran = watch(pair)
    assert (ran.status, "odd-1-0.conda: NOT PROVEN" in ran.out) == (1, True), ran.out


@pytest.mark.parametrize("subdir", ["emscripten-wasm32", "linux-64x", "any", ".hidden"])
def test_a_package_is_seen_in_whatever_subdir(case: Path, subdir: str) -> None:
    assert upload(case).status == 0
    put(case, f"{subdir}/odd-1-0.conda")
    ran = watch(case)
    assert (ran.status, f"{subdir}/odd-1-0.conda: NOT PROVEN" in ran.out) == (1, True), ran.out


@pytest.mark.parametrize(
    "table", [{"packages": {"gone-1-0.tar.bz2": {}}}, {"packages.conda": {"gone-1-0.conda": {}}},
              {"v3": {"conda": {"gone-1-0": {}}}}]
)  # fmt: skip
def test_what_only_the_index_names_is_seen(case: Path, table: dict[str, object]) -> None:
    assert upload(case).status == 0
    put(case, "linux-64/repodata.json", json.dumps(table).encode())
    ran = watch(case)
    assert (ran.status, "linux-64/gone-1-0" in ran.out) == (1, True), ran.out


def test_a_look_at_nothing_is_not_green(case: Path) -> None:
    for of, said in (("missing", "cannot be read"), ("local.toml", "cannot be read"),
                     ("", "--of is empty"), ("anaconda", "--of anaconda wants the owner"),
                     ("Anaconda", "--of Anaconda")):  # fmt: skip
        (case / "local.toml").write_text(LOCAL)
        ran = watch(case, of=of)
        assert ran.status in (1, 4), ran.out
        assert (ran.out.count("\n"), said in ran.out) == (1, True), ran.out
    (case / "channel/noarch").mkdir(parents=True)
    ran = watch(case)
    assert (ran.status, "nothing was checked" in ran.out) == (8, True), ran.out
    for evidence in ("reprot", "local.toml"):
        ran = watch(case, "report", evidence)
        assert (ran.status, ran.out.count("\n"), evidence in ran.out) == (4, 1, True), ran.out


def test_a_subdir_that_cannot_be_read_is_an_error(case: Path) -> None:
    (case / "channel/noarch").mkdir(parents=True, mode=0)
    words = ("report", "--artifacts", "build_artifacts", "--to", "channel")
    for verb in (("verify-channel", "report", "--of", "channel"), ("upload", *words)):
        ran = manualbuild_without_rights(*verb, cwd=case)
        assert (ran.status, ran.out.count("\n"), "channel/noarch" in ran.out) == (4, 1, True), (
            ran.out
        )
    (case / "channel/noarch").chmod(0o755)


def test_a_receipt_that_must_not_be_written_is_said(case: Path) -> None:
    (case / "report").chmod(0o555)
    words = ("report", "--artifacts", "build_artifacts", "--to", "channel")
    ran = manualbuild_without_rights("upload", *words, cwd=case)
    (case / "report").chmod(0o755)
    assert (ran.status, "all is published" in ran.out) == (1, True), ran.out
    assert "Make room" not in ran.out


def test_a_file_name_does_not_steer_the_terminal(case: Path) -> None:
    put(case, "noarch/\x1b[2Jx-1-0.conda")
    ran = watch(case)
    assert (ran.status, "\x1b" in ran.out) == (1, False), ran.out
    assert r"noarch/\x1b[2Jx-1-0.conda: NOT PROVEN" in ran.out
    assert "\x1b" not in upload(case).out
