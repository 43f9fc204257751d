"""conda-build's own rendering of 128 recipes, where that folder is beside the checkout."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_manualbuild import outline, recipe
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Output
from pytest_manualbuild.recipe import _conda_build, meta_yaml

# Where we mean something else than conda-build, and why.
BUILDERS_FOLDERS = {
    # {{ SRC_DIR }} in a command: conda-build writes the folder of the builder's machine, which is
    # gone when the test runs. Ours is the variable that then holds the test's own folder.
    "<CROOT>/work": "SRC_DIR",
}
LANGUAGES = {"python": (".py",), "r": (".r",), "shell": (".sh", ".bat")}
SHELL = {"run_test.sh": ".sh", "run_test.bat": ".bat"}


_PATH = Path(__file__).parent / "standin_conda_build/conda_build/api.py"
_SPEC = importlib.util.spec_from_file_location("standin", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
standin = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(standin)


@functools.cache
def ours(folder: Path, subdir: str) -> tuple[Output, ...]:
    source = json.loads((folder / "source.json").read_text())
    configs = [folder / name for name in source.get("variant_files", {}).get(subdir, ())]
    return recipe.load(
        folder / "recipe",
        subdir=subdir,
        configs=configs if source["config"] == "ci_support" else (),
        exclusive=folder.parent / "pinning.yaml" if source["config"] == "pinning" else None,
    ).outputs


def said(output: Output) -> dict[str, Any]:
    """Return what is compared of an output of ours."""
    test = {**output.test}
    script = test.pop("script")
    section = output.sections[0]
    return {
        "name": output.name,
        "version": output.version,
        "build_number": output.build_number,
        "noarch": output.noarch,
        "skip": output.skip,
        "run": list(output.run),
        "test": test,
        "test_script": script,
        "languages": [
            any(one.language == language for one in section.imports)
            or any(one.path.endswith(endings) for one in section.scripts)
            or (language == "shell" and bool(section.commands))
            for language, endings in LANGUAGES.items()
        ],
    }


def expected(output: dict[str, Any], subdir: str) -> dict[str, Any]:
    """Return the same of an output of conda-build's."""
    noarch = output["noarch"]
    shell = ".bat" if subdir.startswith("win") and not noarch else ".sh"
    text = json.dumps(output["test"])
    for theirs, mine in BUILDERS_FOLDERS.items():
        text = text.replace(theirs, f"%{mine}%" if subdir.startswith("win") else f"${mine}")
    # Where conda-build would fail to write the tests, there are none to compare.
    runs = output.get("runs")
    return {
        **{key: output[key] for key in ("name", "version", "build_number", "skip", "run")},
        "noarch": str(noarch) if noarch else None,
        "test": json.loads(text),
        "test_script": output["test_script"],
        "languages": runs
        and [runs["py"], runs["r"], any(SHELL[name] == shell for name in runs["shell"])],
    }


def same(found: tuple[Output, ...], theirs: dict[str, Any]) -> bool:
    wanted = in_order([expected(one, theirs["platform"]) for one in theirs["outputs"]])
    mine = in_order([said(output) for output in found])
    for one, other in zip(mine, wanted, strict=False):
        if other["languages"] is None:
            one["languages"] = None
    return mine == wanted


def converted(path: Path) -> list[Output]:
    """Return what `--renderer conda-build` makes of conda-build's answer."""
    theirs = json.loads(path.read_text().replace("<CROOT>", "/home/me/croot"))
    return [
        meta_yaml.output(
            path.parent / "recipe",
            _conda_build.plain(standin.MetaData(one, standin.Config())),
            theirs["platform"],
        )
        for one in theirs["outputs"]
    ]


def in_order(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(outputs, key=lambda output: json.dumps({**output, "languages": None}))


def test_every_render_is_conda_builds(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    differ: list[str] = []
    converts: list[str] = []
    count = 0
    for path in sorted((shared / "conformance").glob("*/expected.*.json")):
        theirs = json.loads(path.read_text())
        count += 1
        where = f"{path.parent.name} {theirs['platform']}"
        try:
            found = ours(path.parent, theirs["platform"])
        except RecipeError as error:
            if theirs["status"] != "error":
                differ.append(f"{where}: refused: {error}")
            continue
        if theirs["status"] != "ok":
            differ.append(f"{where}: not refused: {theirs['error']}")
        elif not same(found, theirs):
            differ.append(where)
        elif in_order(outline.to_json(found)) != in_order(outline.to_json(converted(path))):
            converts.append(where)

    with capsys.disabled():
        print(f"\nconformance: {count - len(differ)} of {count} renders agree with conda-build")  # noqa: T201
    assert (differ, converts) == ([], [])


def test_the_used_variant_keys_are_conda_builds(shared: Path) -> None:
    differ = set()
    for path in sorted((shared / "conformance").glob("*/expected.*.json")):
        theirs = json.loads(path.read_text())
        if theirs["status"] == "ok":
            found = ours(path.parent, theirs["platform"])
            mine = sorted(json.dumps([one.name, one.variant], sort_keys=True) for one in found)
            if mine != sorted(
                json.dumps(
                    [one["name"], {k: str(v) for k, v in one["variant"].items()}], sort_keys=True
                )
                for one in theirs["outputs"]
            ):
                differ.add(path.parent.name)
    assert differ == set()
