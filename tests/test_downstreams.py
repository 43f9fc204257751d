"""``test/downstreams`` of a ``meta.yaml``: packages that are tested beside the one under test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import builder
import pytest
from test_deviations import accepting, judged
from test_gate_coherence import Change, forge

from conftest import outcomes, run_local, write_package
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.gate.verdict import Decision

PASSED, FAILED = ("passed", "ok"), ("failed", "exit-status")


def channel(folder: Path) -> str:
    """Make a channel of packages that depend on the one under test, and test it."""
    for name, commands in {
        "glad": ["test -f $PREFIX/share/odd.txt", "test $PKG_NAME = glad", "test ! -e told"],
        "sad": ["test -f $PREFIX/share/odd.txt", "test -f $PREFIX/share/gone.txt"],
        "silent": [],
    }.items():
        recipe = folder / f"{name}-recipe"
        recipe.mkdir(parents=True)
        meta = {
            "package": {"name": name, "version": "1.0"},
            "build": {"noarch": "generic"},
            "test": {"commands": commands},
        }
        (recipe / "meta.yaml").write_text(json.dumps(meta))
        files = {f"share/{name}.txt": builder.Staged(data=b"x")}
        built = builder.Built(recipe=recipe, files=files, subdir="noarch", depends=("odd >=1",))
        builder.write(built, folder / "channel", ".conda")
    index_channel(folder / "channel")
    return (folder / "channel").as_uri()


def alike(folder: Path, *, passes: bool = True, data: bytes = b"x") -> str:
    """Make a channel of a package `glad` that has name, version and build of the other ones."""
    recipe = folder / "recipe"
    recipe.mkdir(parents=True)
    meta = {
        "package": {"name": "glad", "version": "1.0"},
        "build": {"noarch": "generic"},
        "test": {"commands": ["test -f $PREFIX/share/glad.txt", "true" if passes else "false"]},
    }
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    files = {"share/glad.txt": builder.Staged(data=data)}
    built = builder.Built(recipe=recipe, files=files, subdir="noarch", depends=("odd >=1",))
    builder.write(built, folder / "channel", ".conda")
    index_channel(folder / "channel")
    return (folder / "channel").as_uri()


def predicate(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "manualbuild-report/evidence.json").read_text())["predicate"]
    assert isinstance(found, dict)
    return found


def write(folder: Path, *names: str, more: str = "") -> None:
    listed = "".join(f"    - {name}\n" for name in names)
    write_package(folder, f"test:\n  commands:\n    - touch told\n{more}  downstreams:\n{listed}")


def test_each_is_tested_in_an_environment_with_the_package(tmp_path: Path) -> None:
    # Its own requirement is not among what they are tested with: no channel has it.
    write(tmp_path, "glad 1.*", "sad", "silent", "gone", "glad:\n        - 1.0")

    ran = run_local(tmp_path, "--channel", channel(tmp_path / "there"))

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "commands[0]: touch told": PASSED,
        "downstreams: glad": PASSED,
        "downstreams: glad 1.*": PASSED,
        "downstreams: gone": ("skipped", "unsolvable"),
        "downstreams: sad": FAILED,
        "downstreams: silent": ("skipped", "recipe"),
    }


def test_what_the_package_s_own_tests_require_is_not_there_for_them(tmp_path: Path) -> None:
    write(tmp_path, "glad", more="  requires:\n    - nowhere\n")

    ran = run_local(tmp_path, "--channel", channel(tmp_path / "there"))

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": ("failed", "unsolvable"),
        "commands[0]: touch told": ("skipped", "not-reached"),
        "downstreams: glad": PASSED,
    }


def test_the_gate_wants_them_all(tmp_path: Path) -> None:
    write(tmp_path, "glad")
    assert run_local(tmp_path, "--channel", channel(tmp_path / "there")).status == 0
    assert judged(tmp_path, "[gate]\n").decision is Decision.ACCEPT
    path = tmp_path / "manualbuild-report/evidence.json"
    stored = json.loads(path.read_text())
    predicate = stored["predicate"]
    predicate["results"] = [r for r in predicate["results"] if "glad" not in r["check"]]
    path.write_text(json.dumps(stored))

    verdict = judged(tmp_path, "[gate]\n")

    assert verdict.decision is Decision.REJECT
    assert "downstreams: glad on here: 0 results, 1 needed" in verdict.text()


def test_the_gate_wants_each_in_the_environment_where_it_passed(tmp_path: Path) -> None:
    write(tmp_path, "glad >=1")
    assert run_local(tmp_path, "--channel", channel(tmp_path / "there")).status == 0
    path = tmp_path / "manualbuild-report/evidence.json"
    stored = json.loads(path.read_text())
    environments = stored["predicate"]["hosts"][0]["environments"]
    (key,) = (one for one in environments if one.endswith("glad >=1"))
    environments[key] = environments[key.removesuffix(" glad >=1")]
    path.write_text(json.dumps(stored))

    verdict = judged(tmp_path, "[gate]\n")

    assert verdict.decision is Decision.REJECT
    assert f"here: a check passed in the environment of {key!r}, and glad was not" in verdict.text()


@pytest.mark.parametrize("own", [True, False])
def test_a_policy_may_accept_one_that_cannot_be_beside_it_and_not_that_nothing_ran(
    tmp_path: Path, *, own: bool
) -> None:
    if own:
        write(tmp_path, "gone")
    else:
        write_package(tmp_path, "test:\n  downstreams:\n    - gone\n")
    ran = run_local(tmp_path, "--channel", channel(tmp_path / "there"))
    assert ran.status == 8
    assert "not as in conda-build (downstream-unsolvable)" in ran.out

    assert judged(tmp_path, "[gate]\n").decision is Decision.INCONCLUSIVE
    alone = judged(tmp_path, accepting("downstream-unsolvable"))
    both = accepting("downstream-unsolvable") + accepting("nothing-ran")

    assert alone.decision is (Decision.ACCEPT if own else Decision.INCONCLUSIVE)
    assert judged(tmp_path, both).decision is Decision.ACCEPT


@pytest.mark.usefixtures("engine")
def test_its_tests_are_those_of_its_own_bytes_after_another_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "glad")
    (tmp_path / "local.toml").write_text(
        '[hosts.here]\nkind = "docker"\nsubdir = "linux-64"\nimage = "manualbuild/debian-12:test"\n'
    )
    cache = tmp_path / "cache"
    monkeypatch.setenv("MANUALBUILD_CACHE", str(cache))
    bad, good = alike(tmp_path / "bad", passes=False), alike(tmp_path / "good")

    statuses = [run_local(tmp_path, "--channel", url).status for url in (bad, good, bad)]
    shutil.rmtree(cache / "pkgs")  # where py-rattler unpacks
    ran = run_local(tmp_path, "--channel", good)

    assert statuses == [1, 0, 1]
    assert ran.status == 0, ran.out


def test_it_is_the_very_file_that_its_spec_asks_for_and_none_that_is_called_the_same(
    tmp_path: Path,
) -> None:
    first, second = alike(tmp_path / "first"), alike(tmp_path / "second", data=b"y")
    write(tmp_path, f"{second}::glad")

    ran = run_local(tmp_path, "--channel", first, "--channel", second)

    assert ran.status == 0, ran.out
    environments = predicate(tmp_path)["hosts"][0]["environments"]
    held = {
        one["channel"].rstrip("/")
        for environment in environments.values()
        for one in environment["packages"]
        if one["name"] == "glad"
    }
    assert held == {second}


def test_each_has_logs_of_its_own_whatever_its_spec(tmp_path: Path) -> None:
    write(tmp_path, "glad >=1", "glad <=1")

    ran = run_local(tmp_path, "--channel", alike(tmp_path / "there"))

    assert ran.status == 0, ran.out
    logs = [one["log"] for one in predicate(tmp_path)["results"] if "glad" in one["check"]]
    assert len(set(logs)) == len(logs) == 2


def test_one_that_is_named_twice_is_tested_once(tmp_path: Path) -> None:
    write(tmp_path, "glad", "glad")

    ran = run_local(tmp_path, "--channel", alike(tmp_path / "there"))

    assert ran.status == 0, ran.out
    assert [name for name in outcomes(tmp_path) if "glad" in name] == ["downstreams: glad"]
    assert judged(tmp_path, "[gate]\n").decision is Decision.ACCEPT


def test_one_that_is_asked_for_by_its_address_is_told_how_to_be_named(tmp_path: Path) -> None:
    there = channel(tmp_path / "there")
    write(tmp_path, f"{there}/noarch/glad-1.0-0.conda")

    ran = run_local(tmp_path, "--channel", there)

    assert ran.status == 16, ran.out
    assert "this does not begin with the name of a package. Write NAME or CHANNEL" in ran.out


def test_only_those_are_run_that_were_selected(tmp_path: Path) -> None:
    write(tmp_path, "glad", "sad")

    ran = run_local(tmp_path, "--channel", channel(tmp_path / "there"), "-k", "glad")

    assert ran.status == 0, ran.out
    assert outcomes(tmp_path)["downstreams: glad"] == PASSED
    logs = tmp_path / "manualbuild-report/logs/here/odd"
    assert [path.name.partition("-")[0] for path in logs.iterdir()] == ["glad"]


def test_a_policy_does_not_take_a_spec_that_cannot_be_read_for_one_without_environment(
    tmp_path: Path,
) -> None:
    write(tmp_path, "glad >>1")

    ran = run_local(tmp_path, "--channel", alike(tmp_path / "there"))

    assert ran.status == 8, ran.out
    assert outcomes(tmp_path)["downstreams: glad >>1"] == ("skipped", "recipe")
    verdict = judged(tmp_path, accepting("downstream-unsolvable"))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "cannot be read by the solver" in verdict.text()


def turned(spec: str, **fields: object) -> Change:
    """Make another result of that of a downstream package."""

    def change(value: dict[str, Any]) -> None:
        (one,) = (r for r in value["results"] if r["check"] == f"downstreams: {spec}")
        one.update(fields)

    return change


def with_the_other_log(value: dict[str, Any]) -> None:
    (log,) = (one["log"] for one in value["results"] if one["check"] == "downstreams: glad")
    turned("sad", outcome="passed", cause="ok", message="", exit_status=0, log=log)(value)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report in which one downstream package passed and one failed."""
    folder = tmp_path_factory.mktemp("failed")
    write(folder, "glad", "sad")
    assert run_local(folder, "--channel", channel(folder / "there")).status == 1
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            turned("sad", outcome="skipped", cause="unsolvable", exit_status=None, log=None),
            "no environment could hold it, and yet there was one",
        ),
        (
            turned("sad", outcome="passed", cause="ok", message="", exit_status=None),
            "passed, and yet nothing says with which exit status",
        ),
        (with_the_other_log, "is that of another check as well"),
    ],
)
def test_the_gate_refuses_what_was_made_of_one_that_failed(
    failed: Path, tmp_path: Path, change: Change, sentence: str
) -> None:
    case = tmp_path / "case"
    shutil.copytree(failed, case)
    forge(case / "manualbuild-report", change)

    verdict = judged(case, accepting("downstream-unsolvable"))

    assert verdict.decision is Decision.REJECT
    assert sentence in verdict.text()
