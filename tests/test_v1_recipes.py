"""``recipe.yaml`` is rendered as rattler-build renders it, and a hostile one can do nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from recipe_v1 import noarch, write

from pytest_manualbuild import recipe
from pytest_manualbuild.checks import checks
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Output

pytest.importorskip("rattler_build")


def render(folder: Path, text: str, **variant: str) -> tuple[Output, ...]:
    return recipe.load(write(folder, text), subdir="linux-64", variant=variant).outputs


def names(output: Output) -> list[str]:
    return [check.name for check in checks(output.sections)]


KINDS = """\
- python:
    imports: [a, a.b]
- python:
    imports: [a]
    pip_check: false
    python_version: ["3.11", "3.12.*"]
- perl:
    uses: [File::Spec]
- r:
    libraries: [utils]
- ruby:
    requires: [json]
- script: one command
- script:
    - first
    - second "quoted"
- script:
    content: |
      several
      lines
- script:
    file: check.py
- script: {content: print 1, interpreter: nushell}
- downstream: other
- package_contents:
    bin: [tool]
    files:
      exists: ["share/*"]
      not_exists: ["*.a"]
    strict: true
"""


def test_each_kind_of_test_becomes_checks_with_stable_names(tmp_path: Path) -> None:
    write(tmp_path, "", {"check.py": "pass\n"})

    (output,) = render(tmp_path, noarch("p", KINDS))

    assert names(output) == [
        "install",
        "tests[0].install",
        "tests[0].imports: a",
        "tests[0].imports: a.b",
        "tests[0].pip_check",
        "tests[1][3.11].install",
        "tests[1][3.11].imports: a",
        "tests[1][3.12.*].install",
        "tests[1][3.12.*].imports: a",
        "tests[2].install",
        "tests[2].uses: File::Spec",
        "tests[3].install",
        "tests[3].libraries: utils",
        "tests[4].install",
        "tests[4].requires: json",
        "tests[5].install",
        "tests[5].script[0]: one command",
        "tests[6].install",
        "tests[6].script[0]: first",
        'tests[6].script[1]: second "quoted"',
        "tests[7].install",
        "tests[7].script",
        "tests[8].install",
        "tests[8].script",
        "tests[9].install",
        "tests[9].script[0]: print 1",
        "tests[10].downstream: other",
        "tests[11].package_contents.bin: tool",
        "tests[11].package_contents.files: share/*",
        "tests[11].package_contents.files.not_exists: *.a",
        "tests[11].package_contents.strict",
    ]


def test_what_each_environment_holds_is_what_rattler_build_puts_there(tmp_path: Path) -> None:
    write(tmp_path, "", {"check.py": "pass\n"})

    (output,) = render(tmp_path, noarch("p", KINDS))

    assert {one.label: one.requires for one in output.sections if one.requires} == {
        "tests[0]": ("pip",),
        "tests[1][3.11]": ("python=3.11",),
        "tests[1][3.12.*]": ("python=3.12.*",),
        "tests[2]": ("perl",),
        "tests[3]": ("r-base",),
        "tests[4]": ("ruby",),
    }


def test_conditions_choose_by_platform_and_variant(tmp_path: Path) -> None:
    text = noarch(
        "p",
        "- if: unix\n  then:\n    script: [echo unix]\n  else:\n    script: [echo windows]\n"
        '- if: flavor == "plain"\n  then:\n    script: [echo plain]\n'
        "- script:\n    - if: linux\n      then: [echo a, echo b]\n      else: echo c\n"
        "    - echo ${{ version }} ${{ flavor }}\n",
        extra='context:\n  version: "1.50"\n',
    )

    (plain,) = render(tmp_path, text, flavor="plain")
    (other,) = render(tmp_path, text, flavor="other")

    assert [one.commands for one in plain.sections] == [
        ("echo unix",),
        ("echo plain",),
        ("echo a", "echo b", "echo 1.50 plain"),
    ]
    assert [one.commands for one in other.sections] == [
        ("echo unix",),
        ("echo a", "echo b", "echo 1.50 other"),
    ]


MULTI = """\
context:
  version: "2.0"
recipe:
  name: multi
  version: ${{ version }}
build:
  number: 3
about:
  license: MIT
  license_file: LICENSE
outputs:
  - staging:
      name: stage
    build:
      script:
        - mkdir -p $PREFIX/share/s
        - echo ${{ python }} > $PREFIX/share/s/a
  - package:
      name: libmulti
    inherit: stage
    build:
      noarch: generic
    tests:
      - script:
          - test -f $PREFIX/share/s/a
  - package:
      name: multi
    build:
      noarch: generic
      skip: [flavor == "b"]
      script:
        - mkdir -p $PREFIX/share
        - echo ${{ flavor }} > $PREFIX/share/m
    requirements:
      run:
        - ${{ pin_subpackage("libmulti", exact=True) }}
    tests:
      - script:
          - grep -x ${{ flavor }} $PREFIX/share/m
        requirements:
          run:
            - ${{ pin_subpackage("libmulti", upper_bound="x.x") }}
"""


def test_outputs_have_their_own_tests_and_staging_has_none(tmp_path: Path) -> None:
    library, multi = render(tmp_path, MULTI, flavor="a", python="3.11")

    assert (library.name, library.version, library.build_number) == ("libmulti", "2.0", 3)
    assert names(library) == ["install", "tests[0].script[0]: test -f $PREFIX/share/s/a"]
    assert (multi.name, multi.skip) == ("multi", False)
    assert multi.sections[1].commands == ("grep -x a $PREFIX/share/m",)
    assert multi.sections[1].requires == ("libmulti >=2.0,<2.1.0a0",)


def test_what_is_skipped_is_not_described_or_says_so(tmp_path: Path) -> None:
    (library,) = render(tmp_path, MULTI, flavor="b", python="3.11")
    (single,) = render(
        tmp_path, 'package: {name: p, version: "1"}\nbuild:\n  skip: [win, flavor == "b"]\n',
        flavor="b",
    )  # fmt: skip

    assert (library.name, single.skip) == ("libmulti", True)


def test_without_a_package_the_variants_come_from_the_files_beside_the_recipe(
    tmp_path: Path,
) -> None:
    write(tmp_path, MULTI, {"variants.yaml": 'flavor: [a, c]\npython: ["3.11", "3.12"]\n'})

    found = recipe.load(tmp_path, subdir="linux-64").outputs

    assert [one.name for one in found].count("multi") == 4
    assert {one.sections[-1].commands for one in found if one.name == "multi"} == {
        ("grep -x a $PREFIX/share/m",),
        ("grep -x c $PREFIX/share/m",),
    }


def test_what_a_package_does_not_name_comes_from_the_files_and_keeps_zipped_keys(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        MULTI,
        {
            "conda_build_config.yaml":
            'flavor:\n  - b\npython:\n  - "3.11"  # [linux]\n  - "3.12"  # [win]\n'
            'numpy:\n  - "1"  # [linux]\n  - "2"  # [win]\nzip_keys:\n  - [python, numpy]\n'
        },
    )  # fmt: skip

    found = recipe.load(tmp_path, subdir="linux-64", variant={"flavor": "a"}).outputs

    assert [one.name for one in found] == ["libmulti", "multi"]
    assert found[1].sections[1].commands == ("grep -x a $PREFIX/share/m",)


def test_files_are_chosen_as_rattler_build_chooses_them(tmp_path: Path) -> None:
    tests = "- script: [cat data/d.txt]\n  files:\n    recipe: ['./data', '*.in', 'c.[!n]ut']\n"
    write(
        tmp_path,
        "",
        {"data/d.txt": "", "data/deep/x": "", "sub/a.in": "", "b.in": "", "c.out": "", "d.no": ""},
    )

    (output,) = render(tmp_path, noarch("p", tests))

    (section,) = output.sections
    chosen = ["b.in", "c.out", "data/d.txt", "data/deep/x", "sub/a.in"]
    assert [file.path for file in section.files] == chosen
    assert section.cwd == "etc/conda/test-files/p/0"


def test_a_test_whose_conditions_left_nothing_is_dropped_as_in_rattler_build(
    tmp_path: Path,
) -> None:
    tests = "- script:\n    - if: win\n      then: echo w\n- script: [echo real]\n"

    (output,) = render(tmp_path, noarch("p", tests))

    assert names(output) == ["install", "tests[1].script[0]: echo real"]


def test_tests_that_ask_for_secrets_are_known_to(tmp_path: Path) -> None:
    tests = "- script:\n    content: echo $TOKEN\n    secrets: [TOKEN]\n"

    (output,) = render(tmp_path, noarch("p", tests))

    assert [(one.secrets, one.unrunnable) for one in output.sections] == [(("TOKEN",), "")]


BAD = {
    "package: {name: x": ":1: ",
    "package:\n  name: x\n  version: ${{ nope }}\n": ":3: Template rendering failed: undefined",
    "hello\n": "Top level must be a mapping",
    "package: {name: x, version: '1'}\ntests:\n  - foo: 1\n": "missing test type field",
    "package: {name: x, version: '1'}\ntests:\n  - python: {pip_chek: no}\n": "pip_chek",
    "package: {name: x, version: '1'}\npackage: {name: y}\n": "Duplicate key",
    "{% set a = 1 %}\npackage: x\n": ":1: ",
    "package: {name: x, version: '1'}\ntests:\n  - script: {file: gone.sh}\n": "gone.sh",
    "package: {name: x, version: '1'}\ntests:\n  - script: {file: ../out.sh}\n": "outside",
    "package: {name: x, version: '1'}\ntests:\n  - script: {content: '${{ 1 + }}'}\n": "syntax",
    "package: {name: x, version: '1'}\ntests:\n"
    "  - script: {content: a, env: {'A; mark': b}}\n": "variable name 'A; mark'",
    "package: {name: x, version: '1'}\nbuild: {skip: ['linux and']}\n": "",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_recipe_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "out.sh").write_text("echo out\n")

    with pytest.raises(RecipeError) as refused:
        render(tmp_path / "recipe", text)

    assert "\n" not in str(refused.value)
    assert str(tmp_path / "recipe/recipe.yaml") in refused.value.problem or "out.sh" in (
        refused.value.problem
    )
    assert BAD[text] in refused.value.problem


HOSTILE = {
    "reads a file": "context: {a: \"${{ load_from_file('/etc/passwd') }}\"}\n",
    "reads the caller's environment": "context: {a: \"${{ env.get('MANUALBUILD_BAIT') }}\"}\n",
    "asks git": "context: {a: \"${{ git.head_rev('.') }}\"}\n",
    "needs ten gigabytes": "context: {a: \"${{ 'x' * 10000000000 }}\"}\n",
    "is an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "makes an object": "about: {summary: !!python/object/apply:os.system ['touch /tmp/acted']}\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_recipe_is_refused_and_does_not_act(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANUALBUILD_BAIT", "taken")
    began_s = time.monotonic()

    with pytest.raises(RecipeError) as refused:
        render(tmp_path, f"package: {{name: x, version: '1'}}\n{HOSTILE[what]}")

    assert time.monotonic() - began_s < 15
    assert "taken" not in str(refused.value)
    assert not Path("/tmp/acted").exists()


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"a" * (1 << 20) + b"a", b"[" * 500_000, b"\0" * 100]
)
def test_bytes_that_are_no_recipe_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(data)

    with pytest.raises(RecipeError):
        recipe.load(tmp_path, subdir="linux-64")


def test_a_link_out_of_the_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.sh").write_text("echo secret\n")
    folder = write(tmp_path / "recipe", noarch("p", "- script: check.sh\n"))
    (folder / "check.sh").symlink_to(tmp_path / "secret.sh")

    with pytest.raises(RecipeError):
        recipe.load(folder, subdir="linux-64")


def test_of_two_recipes_the_one_that_conda_build_takes_is_taken(tmp_path: Path) -> None:
    write(
        tmp_path,
        noarch("new", "- script: [echo new]\n"),
        {"meta.yaml": "package:\n  name: old\n  version: '1'\ntest:\n  commands:\n    - 'true'\n"},
    )

    found = recipe.load(tmp_path, subdir="linux-64")

    assert [output.name for output in found.outputs] == ["old"]
    assert recipe.file(tmp_path).name == "meta.yaml"
    with pytest.raises(RecipeError, match=r"conda-build takes meta\.yaml"):
        recipe.load(tmp_path / "recipe.yaml", subdir="linux-64")


def test_a_feedstock_and_the_file_itself_may_be_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "recipe", noarch("p", "- script: [echo hi]\n"))

    for given in (tmp_path, folder, folder / "recipe.yaml"):
        assert recipe.load(given, subdir="linux-64").folder == folder.resolve()


def test_variant_files_of_the_caller_come_after_those_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "package:\n  name: x\n  version: '1'\nrequirements:\n  run:\n    - zlib ==${{ zlib }}\n"
        "    - ${{ pin_compatible('numpy') }}\ntests:\n  - script: echo ${{ zlib }}\n"
    )
    (tmp_path / "variants.yaml").write_text("zlib:\n  - '1.2'\n")
    (tmp_path / "more.yaml").write_text("zlib:\n  - '1.3'\n")

    def run(**files: Any) -> tuple[str, ...]:
        (output,) = recipe.load(tmp_path, subdir="linux-64", **files).outputs
        return output.run

    assert run() == ("zlib ==1.2", "numpy")
    assert run(configs=[tmp_path / "more.yaml"]) == ("zlib ==1.3", "numpy")
    assert run(exclusive=tmp_path / "more.yaml") == ("zlib ==1.3", "numpy")
    with pytest.raises(RecipeError, match="no such variant file"):
        run(configs=[tmp_path / "none.yaml"])


@pytest.mark.parametrize(
    "tests",
    [
        "- script: a\n  python:\n    imports: [b]\n",
        "- if: linux\n  then:\n    - perl:\n        uses: [B]\n      script: a\n",
    ],
)
def test_a_test_of_two_kinds_is_refused_and_none_dropped(tmp_path: Path, tests: str) -> None:
    write(tmp_path, "", {})

    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: one test has .* and .*script|python"):
        render(tmp_path, noarch("p", tests))


def test_what_the_library_says_for_developers_is_said_in_words(tmp_path: Path) -> None:
    write(tmp_path, "", {})
    for tests, says in (
        ("- python:\n    imports: [a]\n    python_version: .nan\n", "Invalid python version spec"),
        ("- python: a\n", "names no line: look for a list"),
        ("- python:\n    imports: [a]\n    python_version: []\n", "tests[0]: python_version is an"),
    ):
        with pytest.raises(RecipeError) as refused:
            render(tmp_path, noarch("p", tests))
        assert says in str(refused.value)
        assert "Span" not in str(refused.value)
