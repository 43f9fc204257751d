"""``manualbuild plan`` shows what a recipe will have tested, before it is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import ROOT, manualbuild, write_package

RECIPE = """
package:
  name: odd
  version: '1'
build:
  number: 2
  skip: true  # [win]
requirements:
  run:
    - zlib
test:
  imports:
    - odd
  commands:
    - echo {{ flavour }}  # [unix]
  requires:
    - make
"""
CONFIG = "flavour:\n  - sweet\n  - sour\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/meta.yaml").write_text(RECIPE)
    (tmp_path / "recipe/conda_build_config.yaml").write_text(CONFIG)
    return tmp_path


def planned(folder: Path, *words: str) -> dict[str, Any]:
    ran = manualbuild("plan", "--recipe", "recipe", "--json", *words, cwd=folder)
    assert ran.status == 0, ran.out
    said: dict[str, Any] = json.loads(ran.out)
    jsonschema.validate(said, json.loads((ROOT / "docs/plan.schema.json").read_text()))
    return said


def test_outputs_variants_and_checks_are_shown(folder: Path) -> None:
    ran = manualbuild("plan", "--recipe", "recipe", "--subdir", "linux-64", cwd=folder)

    assert ran.status == 0, ran.out
    assert "odd  1  build 2  flavour=sour" in ran.out
    assert "    - imports: odd" in ran.out
    assert "    - commands[0]: echo sweet" in ran.out


def test_a_recipe_cannot_steer_the_terminal(folder: Path) -> None:
    # Text that runs from right to left from here on; YAML itself refuses control characters.
    (folder / "recipe/conda_build_config.yaml").write_text(
        'flavour:\n  - "\\u202esweet"\n  - sour\n'
    )

    ran = manualbuild("plan", "--recipe", "recipe", "--subdir", "linux-64", cwd=folder)

    assert (ran.status, "\u202e" in ran.out) == (0, False), ran.out
    assert "flavour=?sweet" in ran.out


def test_json_is_a_stable_interface(folder: Path) -> None:
    said = planned(folder, "--subdir", "linux-64")

    sour = said["outputs"][0]
    assert {key: sour[key] for key in sour if key != "checks"} == {
        "name": "odd",
        "version": "1",
        "build_number": 2,
        "noarch": None,
        "skip": False,
        "type": "conda",
        "variant": {"flavour": "sour", "target_platform": "linux-64"},
        "run": ["zlib"],
        "test": {
            "imports": ["odd"],
            "commands": ["echo sour"],
            "requires": ["make"],
            "files": [],
            "source_files": [],
            "downstreams": [],
        },
        "test_script": None,
    }
    assert [check["name"] for check in sour["checks"]] == [
        "install",
        "imports: odd",
        "commands[0]: echo sour",
    ]
    assert len(said["outputs"]) == 2


def test_subdirs_and_variant_files_are_chosen(folder: Path) -> None:
    (folder / "one.yaml").write_text("flavour:\n  - sweet\n")
    (folder / "other.yaml").write_text("flavour:\n  - bitter\n")

    def commands(*words: str) -> list[str]:
        return [one["test"]["commands"][0] for one in planned(folder, *words)["outputs"]]

    assert commands("-m", "one.yaml") == ["echo sweet"]
    assert commands("--variant-config", "one.yaml", "--subdir", "osx-arm64") == ["echo sweet"]
    assert commands("--exclusive-config", "other.yaml") == ["echo bitter"]
    windows = planned(folder, "-m", "one.yaml", "--subdir", "win-64")["outputs"][0]
    assert (windows["skip"], windows["checks"], windows["test"]["commands"]) == (True, [], [])


def test_the_variants_of_a_feedstock_are_found(folder: Path) -> None:
    (folder / ".ci_support").mkdir()
    for name, flavour in (("linux_64_a", "salty"), ("linux_64_b", "sour"), ("osx_64_", "sweet")):
        (folder / f".ci_support/{name}.yaml").write_text(
            f"flavour:\n- {flavour}\ntarget_platform:\n- {name[:-2].replace('_', '-')}\n"
        )

    ran = manualbuild("plan", "--recipe", ".", "--json", "--subdir", "linux-64", cwd=folder)

    outputs = json.loads(ran.out)["outputs"]
    assert [one["variant"]["flavour"] for one in outputs] == ["salty", "sour"]


def test_the_plan_for_packages_stands_beside_the_outputs(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    said = planned(tmp_path)

    assert [one["name"] for one in said["outputs"]] == ["odd"]
    assert {"digest", "packages", "cells", "matrix"} <= said.keys()


def test_packages_know_the_values_that_a_recipe_does_not(tmp_path: Path) -> None:
    info = {"info/recipe/conda_build_config.yaml": "flavour: salty\n"}
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", info=info)
    text = (folder / "meta.yaml").read_text()
    (folder / "meta.yaml").write_text(text + "    - echo {{ flavour }}\n")

    assert planned(tmp_path)["outputs"][0]["test"]["commands"] == ["true", "echo salty"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("package:\n  name: [\n", "meta.yaml"),
        (RECIPE + "    - {{ nobody_knows }}\n", "'nobody_knows' is undefined"),
        (RECIPE.replace("- odd", "- odd  # [1 +]"), "is not a selector"),
    ],
)
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_recipe_that_cannot_be_rendered_is_one_line_and_status_1(
    text: str, says: str, words: tuple[str, ...], folder: Path
) -> None:
    (folder / "recipe/meta.yaml").write_text(text)

    ran = manualbuild("plan", "--recipe", "recipe", *words, cwd=folder)

    assert (ran.status, ran.out.count("\n"), "Traceback" in ran.out) == (1, 1, False), ran.out
    assert says in ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "nowhere"), "no such folder"),
        (("--recipe", "recipe", "-m", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--recipe", "recipe", "--exclusive-config", "."), "cannot be read"),
    ],
)
def test_files_that_are_not_there(words: tuple[str, ...], says: str, folder: Path) -> None:
    ran = manualbuild("plan", *words, cwd=folder)

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert says in ran.out


def test_a_wheel_is_no_package_to_test(folder: Path) -> None:
    (folder / "recipe/meta.yaml").write_text(
        "package:\n  name: odd\n  version: '1'\noutputs:\n"
        "  - name: odd\n    type: conda\n  - name: odd-wheel\n    type: wheel\n"
        "test:\n  commands:\n    - 'true'\n"
    )

    one, wheel = planned(folder, "--subdir", "linux-64")["outputs"]

    assert (one["type"], len(one["checks"])) == ("conda", 2)
    assert (wheel["type"], wheel["checks"]) == ("wheel", [])
    ran = manualbuild("plan", "--recipe", "recipe", "--subdir", "linux-64", cwd=folder)
    assert "odd-wheel  1  build 0  wheel: no conda package, not tested\n" in ran.out


def test_checks_of_a_recipe_yaml_keep_to_the_schema(folder: Path) -> None:
    (folder / "recipe/meta.yaml").unlink()
    (folder / "recipe/recipe.yaml").write_text(
        "package: {name: odd, version: '1'}\ntests:\n- python: {imports: [odd]}\n"
        "- perl: {uses: [Odd]}\n- package_contents: {bin: [odd]}\n- downstream: even\n"
    )

    (output,) = planned(folder, "--subdir", "linux-64")["outputs"]

    kinds = {check["kind"] for check in output["checks"]}
    assert kinds == {"install", "import", "pip-check", "use", "contents", "downstream"}
