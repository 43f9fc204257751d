"""A builder who removes or changes a test of a ``recipe.yaml`` package is found out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import builder
import pytest
import yaml
from conda_package_streaming.create import conda_builder
from conda_package_streaming.extract import extract
from recipe_v1 import build, noarch, write

from conftest import LOCAL, run_local
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Decision, Verdict
from pytest_manualbuild.gate.verify import verify

TESTS = """\
- script:
    - test -f $PREFIX/share/p/data.txt
    - grep -x reviewed d.txt
  files:
    recipe: [d.txt]
- script:
    content: |
      echo one
      echo two
    env: {A: b}
- package_contents:
    files: [share/p/data.txt]
- script: [echo last]
  requirements:
    run: [p]
"""
FILES = {"d.txt": "reviewed\n"}
MULTI = """\
recipe:
  version: "1.0"
build:
  noarch: generic
about:
  license: MIT
outputs:
  - package:
      name: p
    build:
      script:
        - mkdir -p $PREFIX/share/p
        - echo p > $PREFIX/share/p/data.txt
    tests:
      - script: [test -f $PREFIX/share/p/data.txt, echo checked]
    about:
      license: MIT
  - package:
      name: q
    build:
      script:
        - mkdir -p $PREFIX/share/q
        - echo q > $PREFIX/share/q/data.txt
    tests:
      - script: [test -f $PREFIX/share/q/data.txt]
    about:
      license: MIT
"""


def altered(path: Path, change: Callable[[Path], None]) -> None:
    """Write a package anew with its files changed."""
    folder = path.parent.parent / "altered"
    extract(str(path), str(folder))
    change(folder)
    files = {
        one.relative_to(folder).as_posix(): builder.Staged(data=one.read_bytes())
        for one in sorted(folder.rglob("*"))
        if one.is_file()
    }
    stem = path.name.removesuffix(".conda")
    path.unlink()
    with conda_builder(stem, path.parent) as archive:
        builder._add(archive, files)
    shutil.rmtree(folder)


def verdict(tmp_path: Path) -> Verdict:
    """Run the tests of the reviewed recipe, which pass, and ask the gate."""
    (tmp_path / "local.toml").write_text(LOCAL)
    channel = tmp_path / "empty/noarch/repodata.json"
    channel.parent.mkdir(parents=True)
    channel.write_text('{"info": {"subdir": "noarch"}, "packages": {}, "packages.conda": {}}')
    ran = run_local(tmp_path, "--channel", (tmp_path / "empty").as_uri())
    assert ran.status == 0, ran.out
    return verify(tmp_path / "manualbuild-report", None, Policy()).verdict


def reviewed(tmp_path: Path, text: str = noarch("p", TESTS)) -> Path:
    return write(tmp_path / "recipe", text, FILES)


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_a_package_with_the_reviewed_tests_is_accepted(tmp_path: Path, extension: str) -> None:
    build(reviewed(tmp_path), tmp_path / "build_artifacts", extension=extension)

    said = verdict(tmp_path)

    assert said.decision is Decision.ACCEPT, said.text()


@pytest.mark.parametrize("label", ["", " tests[1]", " tests[3]"])
def test_what_passed_has_the_environment_of_its_section(tmp_path: Path, label: str) -> None:
    (package,) = build(reviewed(tmp_path), tmp_path / "build_artifacts")
    assert verdict(tmp_path).decision is Decision.ACCEPT
    path = tmp_path / "manualbuild-report/evidence.json"
    statement = json.loads(path.read_text())
    key = f"noarch/{package.name}{label}"
    del statement["predicate"]["hosts"][0]["environments"][key]
    path.write_text(json.dumps(statement))

    said = verify(tmp_path / "manualbuild-report", None, Policy()).verdict

    assert said.decision is Decision.REJECT
    assert f"here: a check passed in the environment of {key!r}, and there was none." in said.text()


# What the builder did to the recipe before the build -> what the gate says.
BUILDS = {
    "a test removed": (
        TESTS.partition("- package_contents")[0],
        "the recipe inside the package lacks the check 'tests[3].script[0]: echo last'",
    ),
    "a command removed": (
        TESTS.replace("    - grep -x reviewed d.txt\n", ""),
        "lacks the check 'tests[0].script[1]: grep -x reviewed d.txt'",
    ),
    "a command made harmless": (
        TESTS.replace("grep -x reviewed d.txt", "grep -x reviewed d.txt || true"),
        "has another check",
    ),
    "a line of a script changed": (
        TESTS.replace("echo two", "echo too"),
        "has other test script in tests[1]",
    ),
    "a variable changed": (TESTS.replace("A: b", "A: c"), "has other test env in tests[1]"),
    "a requirement added": (
        TESTS.replace("run: [p]", "run: [p, q]"),
        "has other test requires in tests[3]",
    ),
    "contents no longer looked at": (
        TESTS.replace("share/p/data.txt]", "share/**]"),
        "lacks the check 'tests[2].package_contents.files: share/p/data.txt'",
    ),
    "a test added": (TESTS + "- script: 'true'\n", "has another check 'tests[4].script[0]: true'"),
    "the order changed": (
        TESTS.replace("echo one\n      echo two", "echo two\n      echo one"),
        "has other test script in tests[1]",
    ),
    "all tests removed": ("", "lacks the check 'tests[1].script'"),
}


@pytest.mark.parametrize("what", BUILDS)
def test_a_package_built_with_other_tests_is_rejected(tmp_path: Path, what: str) -> None:
    tests, wanted = BUILDS[what]
    build(reviewed(tmp_path, noarch("p", tests)), tmp_path / "build_artifacts")
    reviewed(tmp_path)

    said = verdict(tmp_path)

    assert said.decision is Decision.REJECT, said.text()
    assert wanted in said.text()


def test_a_package_built_with_another_test_file_is_rejected(tmp_path: Path) -> None:
    folder = reviewed(tmp_path)
    (folder / "d.txt").write_text("the builder's\n")
    build(folder, tmp_path / "build_artifacts")
    reviewed(tmp_path)

    said = verdict(tmp_path)

    assert said.decision is Decision.REJECT, said.text()
    assert "has other test files in tests[0]" in said.text()


def edit_tests(change: Callable[[list[dict[str, object]]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "info/tests/tests.yaml"
        tests = yaml.safe_load(path.read_text())
        change(tests)
        path.write_text(yaml.safe_dump(tests))

    return edit


def harmless(tests: list[dict[str, object]]) -> None:
    tests[0]["script"] = ["true", "true"]


def broken(folder: Path) -> None:
    (folder / "info/tests/tests.yaml").write_text("{")


def take_out(tests: list[dict[str, object]]) -> None:
    tests.pop()


def swap_test_file(folder: Path) -> None:
    (folder / "etc/conda/test-files/p/0/d.txt").write_text("anything\n")
    path = folder / "info/paths.json"
    old, new = (hashlib.sha256(text).hexdigest() for text in (b"reviewed\n", b"anything\n"))
    path.write_text(path.read_text().replace(old, new))


def add_other_tests(folder: Path) -> None:
    (folder / "info/test").mkdir()
    (folder / "info/test/run_test.sh").write_text("true\n")


# What was done to the finished package, whose recipe still says the right thing.
EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a test taken out": (edit_tests(take_out), "lacks the check"),
    "a command replaced": (edit_tests(harmless), "has another check 'tests[0].script[0]: true'"),
    "all tests taken out": (edit_tests(list.clear), "lacks the check"),
    "the list removed": (
        lambda folder: (folder / "info/tests/tests.yaml").unlink(),
        "tests.yaml of the package lacks the check",
    ),
    "the list broken": (
        broken,
        "tests.yaml of the package lacks the check",
    ),
    "the recipe removed": (
        lambda folder: shutil.rmtree(folder / "info/recipe"),
        "the package carries no recipe",
    ),
    "tests of another tool added": (
        add_other_tests,
        "it carries info/test/run_test.sh",
    ),
    "a test file changed": (
        swap_test_file,
        "its test file etc/conda/test-files/p/0/d.txt is not the reviewed one",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_package_whose_tests_were_edited_after_the_build_is_rejected(
    tmp_path: Path, what: str
) -> None:
    change, wanted = EDITS[what]
    (path,) = build(reviewed(tmp_path), tmp_path / "build_artifacts")
    altered(path, change)

    said = verdict(tmp_path)

    assert said.decision is Decision.REJECT, said.text()
    assert wanted in said.text()


def test_one_output_with_a_test_removed_is_rejected_and_the_other_is_named_too(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "recipe", MULTI.replace(", echo checked", ""))
    build(folder, tmp_path / "build_artifacts")
    write(folder, MULTI)

    said = verdict(tmp_path)

    assert said.decision is Decision.REJECT, said.text()
    assert "noarch/p-1.0" in said.text()
    assert "lacks the check 'tests[0].script[1]: echo checked'" in said.text()


def test_outputs_with_the_reviewed_tests_are_accepted(tmp_path: Path) -> None:
    build(write(tmp_path / "recipe", MULTI), tmp_path / "build_artifacts")

    said = verdict(tmp_path)

    assert said.decision is Decision.ACCEPT, said.text()


def test_a_meta_yaml_package_does_not_pass_for_that_of_a_recipe_yaml(tmp_path: Path) -> None:
    """Built from another recipe of the same name: no check of it is the reviewed one."""
    from conftest import write_package

    write_package(tmp_path, "test:\n  commands:\n    - echo last\n", name="p")
    shutil.rmtree(tmp_path / "recipe")
    text = noarch("p", "- script: [echo last]\n").replace('version: "1.0"', 'version: "1"')
    write(tmp_path / "recipe", text)

    said = verdict(tmp_path)

    assert said.decision is Decision.REJECT, said.text()
    assert "lacks the check" in said.text()
