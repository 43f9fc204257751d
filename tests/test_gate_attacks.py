"""A folder of evidence that somebody made to fool, stop or harm whoever judges it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import command, manualbuild
from pytest_manualbuild import package
from pytest_manualbuild.errors import ArtifactError, ManualBuildError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate import verify
from pytest_manualbuild.gate.verdict import Decision

Change = Callable[[Path], None]


def changed(change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change of what ``evidence.json`` says."""

    def act(case: Path) -> None:
        path = case / "report/evidence.json"
        value = json.loads(path.read_text())
        change(value["predicate"])
        path.write_text(json.dumps(value))

    return act


def duration(text: str) -> Change:
    def act(case: Path) -> None:
        path = case / "report/evidence.json"
        path.write_text(
            re.sub(r'"duration_ms": \d+', f'"duration_ms": {text}', path.read_text(), count=1)
        )

    return act


def longer(name: str, size: int) -> Change:
    """Return a change that makes a file seem huge, without a byte on the disk."""

    def act(case: Path) -> None:
        with next((case / "report").glob(name)).open("r+b") as file:
            file.truncate(size)

    return act


def times(text: str) -> Change:
    return changed(lambda value: value.update(started=text, finished=text))


def planned(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["plan"]["packages"][0]
    return found


def huge_number(case: Path) -> None:
    path = case / "report/matrix.toml"
    path.write_text(f"{path.read_text()}port = {'9' * 5000}\n")


def recipe_elsewhere(case: Path) -> None:
    shutil.rmtree(case / "report/recipe")
    (case / "report/recipe").symlink_to("/usr")


ENDLESS = "/proc/kmsg"
"""A regular file, as the system says, that keeps its reader waiting for ever."""


def link(name: str, target: str = ENDLESS) -> Change:
    def act(case: Path) -> None:
        path = case / "report" / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return act


def written(name: str, data: bytes) -> Change:
    def act(case: Path) -> None:
        (case / "report" / name).write_bytes(data)

    return act


def encoded(encoding: str) -> Change:
    """Return a change of how the evidence is written, and not of what it says to some readers."""

    def act(case: Path) -> None:
        path = case / "report/evidence.json"
        path.write_bytes(path.read_text().encode(encoding))

    return act


def pipe(name: str) -> Change:
    def act(case: Path) -> None:
        path = case / "report" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return act


@pytest.mark.parametrize(
    "change",
    [
        duration("1" + "0" * 400),
        duration("1e999"),
        duration("-5"),
        duration("true"),
        duration("null"),
        times("9999-12-31T23:59:59-23:59"),
        times("0001-01-01T00:00:00"),
        times("\ud800"),
        huge_number,
        longer("logs/**/*.txt", 200 << 30),
        longer("junit.xml", 200 << 30),
        longer("matrix.toml", 200 << 30),
        longer("evidence.json", 200 << 30),
        recipe_elsewhere,
        link("logs", "/usr"),
        link("logs/x.txt"),
        link("logs/x.txt", "x.txt"),
        link("junit.xml"),
        link("matrix.toml"),
        link("evidence.json"),
        link("waivers/x.json"),
        link("waivers", "/proc"),
        link("recipe/meta.yaml"),
        link("recipe/x", "x"),
        written("matrix.toml", b"a" + b".a" * 50_000 + b" = 1\n"),
        written("matrix.toml", b"a = " + b"[" * 100_000),
        encoded("utf-16"),
        encoded("utf-8-sig"),
        changed(lambda value: planned(value)["artifact"].update(size=1 << 40)),
        pipe("evidence.json"),
        pipe("junit.xml"),
        pipe("matrix.toml"),
        pipe("recipe/meta.yaml"),
        pipe("waivers/x.json"),
        changed(lambda value: planned(value).update(sections=[])),
        changed(lambda value: planned(value).update(checks=[])),
        changed(lambda value: planned(value)["checks"][0].update(section=99)),
        changed(lambda value: value["plan"].update(cells=[])),
        changed(lambda value: value["plan"]["packages"].append(planned(value))),
        changed(lambda value: value["plan"]["matrix"]["hosts"].append({})),
        changed(lambda value: planned(value)["artifact"].update(filename="../x.conda")),
        changed(lambda value: planned(value)["artifact"].update(filename="\ud800.conda")),
        changed(lambda value: planned(value)["artifact"].update(filename="a\0.conda")),
        changed(lambda value: planned(value)["artifact"].update(name="ODD")),
        changed(lambda value: value["results"][0].update(host="here\u0301")),
        changed(lambda value: value["results"][0].update(host="elsewhere")),
        changed(lambda value: value["results"].append(value["results"][0] | {"host": "more"})),
        changed(lambda value: planned(value)["sections"][0].update(functions=["test_x"])),
        changed(lambda value: value["plan"]["matrix"].update(text="")),
        changed(lambda value: value.update(retried=True)),
        changed(lambda value: value["results"][0].update(retried=True)),
        changed(lambda value: planned(value)["artifact"].update(more=1)),
        changed(lambda value: value.update(exit_status=10**300)),
        changed(lambda value: value.update(exit_status=False)),
    ],
)
def test_nothing_of_it_is_accepted_and_nothing_breaks(case: Path, change: Change) -> None:
    change(case)
    try:
        found = verify.verify(case / "report", case / "build_artifacts", policies.Policy())
    except ManualBuildError as error:
        assert "\n" not in str(error)
    else:
        assert found.verdict.decision is not Decision.ACCEPT
        assert all(line.isprintable() for line in found.verdict.text().splitlines())


def test_folders_nested_very_deep_break_nothing(case: Path) -> None:
    for top in ("report/logs", "report/recipe", "folders"):
        path = str(case / top)
        Path(path).mkdir(exist_ok=True)
        for _ in range(1100):
            path += "/a"
            os.mkdir(path)  # noqa: PTH102 # 1100 objects of pathlib for each would take long
    (case / "channel/noarch").mkdir(parents=True)
    for words, status in (
        (("verify", "report", "--artifacts", "build_artifacts"), 1),
        (("verify-channel", "folders", "--of", "channel"), 8),
    ):
        ran = manualbuild(*words, cwd=case)
        assert (ran.status, "Traceback" in ran.out) == (status, False), ran.out
    command("rm", "-r", *(str(case / top) for top in ("report", "folders")), cwd=case)


@pytest.mark.parametrize("path", [ENDLESS, "/proc/kcore", "/etc/passwd"])
def test_evidence_names_no_file_but_packages(case: Path, path: str) -> None:
    changed(lambda value: planned(value)["artifact"].update(path=path))(case)
    for words in (("verify", "report"), ("upload", "report", "--to", "channel")):
        ran = manualbuild(*words, cwd=case)
        assert (ran.status, "Traceback" in ran.out) == (1, False), ran.out


def test_a_package_that_is_larger_than_the_one_tested_is_not_even_read(case: Path) -> None:
    path = next((case / "build_artifacts/noarch").iterdir())
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # no byte of it is on the disk
    words = ("report", "--artifacts", "build_artifacts")
    ran = manualbuild("verify", *words, cwd=case)
    assert (ran.status, "not as many" in ran.out) == (1, True), ran.out
    ran = manualbuild("upload", *words, "--to", "channel", cwd=case)
    assert (ran.status, "not as many" in ran.out) == (1, True), ran.out


def test_a_line_to_copy_runs_nothing_that_a_stranger_wrote(case: Path) -> None:
    changed(
        lambda value: (
            value["plan"].update(recipe="x; touch pwned #"),
            value["results"][-1].update(outcome="failed", cause="exit-status"),
        )
    )(case)
    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case)
    assert (ran.status, "pytest --recipe 'x; touch pwned #'" in ran.out) == (1, True), ran.out


def test_names_steer_no_terminal(case: Path) -> None:
    odd = case / "both/runs/\x1b[2J\x07"
    odd.mkdir(parents=True)
    for arguments in (("both",), (str(odd),)):
        ran = manualbuild("verify", *arguments, cwd=case)
        assert (ran.status, "\x1b" in ran.out, "\x07" in ran.out) == (4, False, False), ran.out
        assert r"\x1b[2J\x07" in ran.out


def test_nothing_is_written_through_a_link(case: Path) -> None:
    mine = case / "mine"
    mine.write_text("mine")
    (case / "report/.receipt.json.new").symlink_to(mine)
    (case / "report/receipt.json").symlink_to(mine)
    words = ("report", "--artifacts", "build_artifacts")

    assert manualbuild("upload", *words, "--to", "channel", cwd=case).status == 0
    assert not (case / "report/receipt.json").is_symlink()
    (case / "report/request").mkdir()
    for name in ("copy.sh", ".copy.sh.new"):
        (case / "report/request" / name).symlink_to(mine)
    assert manualbuild("request", *words, "--user", "jane", cwd=case).status == 0
    assert not (case / "report/request/copy.sh").is_symlink()
    shutil.rmtree(case / "report/request")
    (case / "elsewhere").mkdir()
    (case / "report/request").symlink_to(case / "elsewhere")

    ran = manualbuild("request", *words, "--user", "jane", cwd=case)

    assert (ran.status, "it is a link" in ran.out, ran.out.count("\n")) == (4, True, 1), ran.out
    assert (mine.read_text(), list((case / "elsewhere").iterdir())) == ("mine", [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"name":', '"name": "even", "name":'),
        ('"depends":', '"depends": ["evil"], "depends":'),
        ('"build_number":', '"more": NaN, "build_number":'),
    ],
)
def test_a_package_that_two_readers_read_differently_is_no_package(
    tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / "odd-1-0.tar.bz2"
    import io
    import tarfile

    text = (
        '{"name": "odd", "version": "1", "build": "0", "build_number": 0, "depends": [],'
        ' "subdir": "noarch", "noarch": "generic"}'
    )
    assert old in text
    for content, good in ((text, True), (text.replace(old, new), False)):
        with tarfile.open(path, "w:bz2") as archive:
            member = tarfile.TarInfo("info/index.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
        if good:
            assert package.read(path).name == "odd"
        else:
            with pytest.raises(ArtifactError, match="has a key twice"):
                package.read(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(retracted=True), "unknown key 'retracted'"),
        (lambda v: v["subject"][0].update(uri="x"), "unknown key 'uri'"),
        (lambda v: v["subject"][0]["digest"].update(sha1="x"), "unknown key 'sha1'"),
    ],
)
def test_keys_around_the_predicate_are_known_ones(
    case: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    path = case / "report/evidence.json"
    statement = json.loads(path.read_text())
    change(statement)
    path.write_text(json.dumps(statement))

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case)

    assert (ran.status, says in ran.out, ran.out.count("\n")) == (4, True, 1), ran.out


def test_a_number_that_is_infinite_is_refused(case: Path) -> None:
    path = case / "report/evidence.json"
    text = re.sub(r'("phases_s": \{\s*"\w+": )[\d.]+', r"\g<1>1e999", path.read_text(), count=1)
    assert "1e999" in text
    path.write_text(text)

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case)

    assert (ran.status, "1e999 is too large" in ran.out, ran.out.count("\n")) == (4, True, 1)


def test_a_run_beside_runs_is_ambiguous(case: Path) -> None:
    (case / "report/runs/x").mkdir(parents=True)

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case)

    assert (ran.status, "only one of them can be meant" in ran.out) == (4, True), ran.out
    assert ran.out.count("\n") == 1
