"""``--renderer conda-build``: our side of it, with a stand-in that has conda-build's interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Ran, manualbuild

STANDIN = Path(__file__).with_name("standin_conda_build")
RECIPE = """\
package:
  name: odd
  version: '1'
test:
  commands:
    - test -f $PREFIX/odd
    - echo {{ flavour }} $SRC_DIR
  requires:
    - make
"""
OUTPUT = {
    "name": "odd", "version": "1", "build_number": 0, "noarch": None, "skip": False,
    "is_output": False, "run": [], "variant": {"flavour": "sweet", "target_platform": "linux-64"},
    "test_raw": {
        "commands": [
            f"test -f /home/me/croot/{'_h_env' + '_placehold' * 2}/odd",
            "echo sweet /home/me/croot/work",
        ],
        "requires": ["make"],
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/meta.yaml").write_text(RECIPE)
    (tmp_path / "recipe/conda_build_config.yaml").write_text("flavour:\n  - sweet\n")
    return tmp_path


def planned(folder: Path, answer: object, *words: str) -> Ran:
    (folder / "recipe/answer.json").write_text(json.dumps(answer))
    return manualbuild(
        "plan", "--recipe", "recipe", "--subdir", "linux-64", *words,
        cwd=folder, PYTHONPATH=str(STANDIN), ANACONDA_API_TOKEN="secret", CONDARC="/etc/condarc",
    )  # fmt: skip


def changed(**more: Any) -> dict[str, Any]:
    return {"outputs": [{**OUTPUT, **more}]}


def test_both_renderers_give_the_same_model(folder: Path) -> None:
    own = planned(folder, changed(), "--json")
    real = planned(folder, changed(), "--json", "--renderer", "conda-build")

    assert (own.status, real.status) == (0, 0), real.out
    assert json.loads(real.out) == json.loads(own.out)
    ran = planned(folder, changed(), "--compare-renderers")
    assert (ran.status, ran.out) == (0, "the renderers agree\n")


def test_conda_build_gets_nothing_of_the_caller(folder: Path) -> None:
    (folder / "more.yaml").write_text("flavour:\n  - sweet\n")
    ran = planned(folder, changed(), "--renderer", "conda-build", "-m", "more.yaml")
    assert ran.status == 0, ran.out

    called = json.loads((folder / "recipe/called.json").read_text())

    environ = called.pop("environ")
    assert environ["HOME"] != str(Path.home())
    allowed = {"PATH", "HOME", "LANG", "CONDA_OFFLINE", "PYTHONPATH", "LD_LIBRARY_PATH", "LC_CTYPE"}
    assert not environ.keys() - allowed
    config = called.pop("config")
    assert (config["platform"], config["arch"]) == ("linux", "64")
    assert config["variant_config_files"] == [str(folder / "more.yaml")]
    assert not Path(config["croot"]).parent.exists()
    assert called == {
        "variants": None,
        "permit_unsatisfiable_variants": True,
        "finalize": False,
        "bypass_env_check": True,
    }


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (
            changed(test_raw={**OUTPUT["test_raw"], "requires": ["cmake"]}),  # type: ignore[dict-item]
            ["requires: own ['make'], conda-build ['cmake']"],
        ),
        (changed(version="2"), ["version: own '1', conda-build '2'"]),
        (
            changed(name="even"),
            ["even flavour=sweet target_platform=linux-64: only conda-build has this output",
             "odd flavour=sweet target_platform=linux-64: only own has this output"],
        ),
        ({"error": {"message": "no good"}}, ["only conda-build refuses it", "ValueError: no good"]),
    ],
)  # fmt: skip
def test_what_differs_is_named(folder: Path, answer: object, lines: list[str]) -> None:
    ran = planned(folder, answer, "--compare-renderers")

    assert ran.status == 1
    assert all(line in ran.out for line in lines), ran.out


def test_without_conda_build_one_line_says_what_to_do(folder: Path) -> None:
    for words in (("--renderer", "conda-build"), ("--compare-renderers",)):
        ran = manualbuild("plan", "--recipe", "recipe", *words, cwd=folder)

        assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
        assert "conda-build is not installed" in ran.out
        assert "environment.yml" in ran.out


def test_a_recipe_yaml_has_one_renderer(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("package: {name: odd, version: '1'}\n")

    ran = manualbuild("plan", "--recipe", ".", "--compare-renderers", cwd=tmp_path)

    assert (ran.status, "rendered by py-rattler-build alone" in ran.out) == (1, True), ran.out
