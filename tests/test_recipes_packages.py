"""A package is tested as the reviewed recipe says, and must carry the same tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builder
import pytest
import yaml

from conftest import LOCAL, manualbuild, run_pytest
from pytest_manualbuild import carried, package, plan
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.gate import agreement

SINGLE = """
package:
  name: odd
  version: '1'
build:
  noarch: generic
test:
  imports:
    - json
  commands:
    - test -f $PREFIX/share/odd.txt
    - 'true'
  requires:
    - python
    - numpy 1.26
  files:
    - data.txt
"""
FILES = {"data.txt": "data\n", "run_test.sh": "echo script\n", "run_test.py": "print('script')\n"}
MULTI = """
package:
  name: odd-split
  version: '1'
outputs:
  - name: odd
    build:
      noarch: generic
    test:
      commands:
        - test -f $PREFIX/share/odd.txt
        - 'true'
      requires:
        - make
      files:
        - data.txt
  - name: odd-part
    build:
      noarch: generic
    test:
      script: part_test.py
"""
PART = {"part_test.py": "print('part')\n", "data.txt": "data\n"}
Tamper = Callable[[dict[str, bytes]], None]


def write(folder: Path, text: str, files: dict[str, str]) -> Path:
    folder.mkdir()
    (folder / "meta.yaml").write_text(text)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def single(tmp_path: Path, tamper: Tamper) -> tuple[Path, Path]:
    """Build the package of a recipe; return (the recipe as reviewed, the package)."""
    folder = write(tmp_path / "recipe", SINGLE, FILES)
    staged = {"share/odd.txt": builder.Staged(data=b"odd\n")}
    built = builder.Built(recipe=folder, files=staged, subdir="noarch")
    return folder, rebuilt(tmp_path, built, tamper)


def output(
    tmp_path: Path, tamper: Tamper, name: str = "odd", text: str = MULTI
) -> tuple[Path, Path]:
    """Build one output of a recipe, laid out as conda-build does."""
    folder = write(tmp_path / "recipe", text, PART)
    tests: dict[str, dict[str, Any]] = {
        "odd": {
            # As rendered for the build: sorted, pinned, with the builder's folders.
            "commands": ["test -f $PREFIX/share/odd.txt", "true"],
            "requires": ["make >=4,<5.0a0"],
            "files": ["data.txt"],
        },
        "odd-part": {"script": "part_test.py"},
    }
    test = tests[name]
    if "requires" not in text:
        test.pop("requires", None)
    rendered = {
        "package": {"name": name, "version": "1"},
        "build": {"noarch": "generic", "number": "0", "string": "0"},
        "test": test,
        "extra": {
            "final": True,
            "parent_recipe": {"name": "odd-split", "path": "/home/builder", "version": "1"},
        },
    }
    info = {
        "info/recipe/meta.yaml": yaml.safe_dump(rendered).encode(),
        "info/recipe/conda_build_config.yaml": b"target_platform: linux-64\n",
        "info/recipe/parent/meta.yaml": text.encode(),
        **{f"info/recipe/parent/{file}": text.encode() for file, text in PART.items()},
    }
    if name == "odd":
        info |= {
            "info/test/run_test.sh": (
                b"\n\nset -ex\n\n\n\ntest -f $PREFIX/share/odd.txt\ntrue\nexit 0\n"
            ),
            "info/test/test_time_dependencies.json": json.dumps(test.get("requires", [])).encode(),
            "info/test/data.txt": b"data\n",
        }
    else:
        info["info/test/run_test.py"] = (
            b"#  tests for odd-part-1-0 (this is a generated file);\n"
            b"print('===== testing package: odd-part-1-0 =====');\nprint('running part_test.py');\n"
            b"#  --- part_test.py (begin) ---\nprint('part')\n#  --- part_test.py (end) ---\n\n"
            b"print('===== odd-part-1-0 OK =====');\n"
        )
    staged = {"share/odd.txt": builder.Staged(data=b"odd\n")}
    built = builder.Built(
        recipe=None, files=staged, subdir="noarch", name=name, version="1", depends=(), info=info
    )
    return folder, rebuilt(tmp_path, built, tamper)


def rebuilt(tmp_path: Path, built: builder.Built, tamper: Tamper) -> Path:
    """Write a package after somebody has changed what it carries; an empty file goes out."""
    _, staged = builder.contents(built)
    info = {name: one.data for name, one in staged.items() if name.startswith("info/")}
    kept = {name: info[name] for name in info if name.startswith(("info/recipe/", "info/test"))}
    tamper(kept)
    changed = builder.Built(
        recipe=None, files=built.files, subdir=built.subdir,
        name="odd" if built.name is None else built.name, version="1", depends=(), info=kept,
    )  # fmt: skip
    return builder.write(changed, tmp_path / "build_artifacts", ".conda")[0]


def reasons(folder: Path, path: Path) -> list[str]:
    """Return why the gate would refuse what the package carries."""
    artifact = package.read(path)
    reviewed = plan.sections_of(folder, artifact)
    inside = carried.read(path, artifact)
    if inside is None:
        return ["nothing carried"]
    where = "the recipe inside the package"
    return [*agreement.differences(reviewed, inside.sections, where), *inside.altered]


def nothing(_: dict[str, bytes]) -> None:
    """Leave the package as it was built."""


def replaced(name: str, old: str, new: str) -> Tamper:
    def tamper(kept: dict[str, bytes]) -> None:
        assert old.encode() in kept[name]
        kept[name] = kept[name].replace(old.encode(), new.encode())

    return tamper


def removed(name: str) -> Tamper:
    def tamper(kept: dict[str, bytes]) -> None:
        del kept[name]

    return tamper


def added(name: str, text: str) -> Tamper:
    def tamper(kept: dict[str, bytes]) -> None:
        kept[name] = text.encode()

    return tamper


@pytest.mark.parametrize("build", [single, output])
def test_an_honest_package_carries_the_tests_of_its_recipe(
    build: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    assert reasons(*build(tmp_path, nothing)) == []


def test_a_path_of_the_builders_machine_is_found_in_a_command_of_any_length(
    tmp_path: Path,
) -> None:
    """One that looks like such a path all along once took half an hour to compare."""
    head = "package:\n  name: odd\n  version: '1'\ntest:\n  commands:\n"
    endless, prefix = "/a" * 100_000, "/home/karla/conda-bld/odd_1/_h_env_placehold_placehold"
    reviewed, carries = (
        write(folder, f"{head}    - test -n {endless}\n    - test -e {where}/bin\n", {})
        for folder, where in ((tmp_path / "recipe", "$PREFIX"), (tmp_path / "built", prefix))
    )
    staged = {"bin/odd": builder.Staged(data=b"odd")}
    built = builder.Built(recipe=carries, files=staged, subdir="linux-64")

    assert reasons(reviewed, builder.write(built, tmp_path, ".conda")[0]) == []


def test_an_output_with_a_script_of_its_own_is_the_same(tmp_path: Path) -> None:
    folder, path = output(tmp_path, nothing, "odd-part")

    assert reasons(folder, path) == []
    (section,) = plan.sections_of(folder, package.read(path))
    assert [one.path for one in section.scripts] == ["part_test.py"]


META, SH, PY = "info/recipe/meta.yaml", "info/test/run_test.sh", "info/test/run_test.py"


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (replaced(META, "- 'true'", "- 'true #'"), "lacks the check"),
        (replaced(META, "  - 'true'\n", ""), "lacks the check"),
        (replaced(META, "  - json\n", "  - os\n"), "imports: json"),
        (replaced(META, "numpy 1.26", "numpy 1.25"), "requires"),
        (replaced(SH, "true\n", ""), "run_test.sh is not made of"),
        (replaced(SH, "set -ex\n", "set -ex\nexit 0\n"), "run_test.sh is not made of"),
        (replaced(SH, "echo script", "true"), "run_test.sh is not made of"),
        (replaced(PY, "import json\n", ""), "run_test.py is not made of"),
        (replaced(PY, "import json\n", "import json\nimport os\n"), "run_test.py is not made of"),
        (replaced(PY, "print('script')", "pass"), "run_test.py is not made of"),
        (removed(SH), "lacks run_test.sh"),
        (removed(PY), "lacks run_test.py"),
        (removed("info/test/data.txt"), "data.txt"),
        (added("info/test/data.txt", "other\n"), "data.txt"),
        (added("info/test/sitecustomize.py", "x\n"), "sitecustomize.py"),
        (added("info/test/run_test.r", "x\n"), "run_test.r"),
        (added("info/tests/tests.yaml", "- script: ['true']\n"), "tests.yaml"),
        (removed("info/test/test_time_dependencies.json"), "test_time_dependencies"),
        (added("info/recipe/run_test.py", "pass\n"), "scripts"),
        (removed("info/recipe/run_test.py"), "lacks the check 'run_test.py'"),
        (removed(META), "nothing carried"),
    ],
)
def test_a_builder_who_changes_a_test_is_found_out(
    tamper: Tamper, says: str, tmp_path: Path
) -> None:
    assert says in " ".join(reasons(*single(tmp_path, tamper)))


@pytest.mark.parametrize(
    ("name", "tamper", "says"),
    [
        ("odd", replaced(META, "- 'true'", "- 'true #'"), "lacks the check"),
        ("odd", replaced(META, "make >=4,<5.0a0", "cmake"), "requires"),
        ("odd", replaced(SH, "true\n", ""), "run_test.sh is not made of"),
        ("odd", replaced("info/recipe/parent/data.txt", "data", "x"), "files"),
        ("odd", removed("info/test/data.txt"), "data.txt"),
        ("odd-part", replaced(PY, "print('part')", "pass"), "run_test.py is not made of"),
        ("odd-part", replaced("info/recipe/parent/part_test.py", "part", "x"), "scripts"),
        ("odd-part", removed(PY), "lacks run_test.py"),
    ],
)
def test_a_builder_who_changes_the_test_of_an_output_is_found_out(
    name: str, tamper: Tamper, says: str, tmp_path: Path
) -> None:
    assert says in " ".join(reasons(*output(tmp_path, tamper, name)))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: '1'", "version: '2'", "describes no odd 1, only odd 2"),
        ("name: odd", "name: even", "describes no odd 1, only even 1"),
        ("  noarch: generic\n", "  number: 0\n", "noarch: no, the package is in noarch"),
        ("  noarch: generic\n", "  noarch: generic\n  number: 1\n", "build number 1"),
        ("  noarch: generic\n", "  noarch: generic\n  skip: true\n", "skips odd"),
    ],
)
def test_a_package_that_matches_no_output_is_an_error(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    folder, path = single(tmp_path, nothing)
    (folder / "meta.yaml").write_text(SINGLE.replace(old, new))

    with pytest.raises(ArtifactError, match=says):
        plan.sections_of(folder, package.read(path))


def test_the_variant_of_the_build_decides_what_is_tested(tmp_path: Path) -> None:
    text = SINGLE.replace(
        "    - 'true'\n", "    - echo old  # [py<312]\n    - echo {{ flavour }}\n"
    )
    config = b"python:\n  3.12.* *_cpython\nflavour: plain\n"
    folder, path = single(tmp_path, added("info/recipe/conda_build_config.yaml", config.decode()))
    (folder / "meta.yaml").write_text(text)
    (folder / "conda_build_config.yaml").write_text("flavour:\n  - sweet\n  - sour\n")

    (section,) = plan.sections_of(folder, package.read(path))

    assert section.commands == ("test -f $PREFIX/share/odd.txt", "echo plain")


def test_the_gate_says_why_a_recipe_inside_cannot_be_compared(tmp_path: Path) -> None:
    text = MULTI.replace("      requires:\n        - make\n", "")
    output(tmp_path, replaced(META, "version: '1'", "version: '2'"), text=text)
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", cwd=tmp_path)
    judged = manualbuild("verify", "manualbuild-report", cwd=tmp_path)

    assert (ran.status, judged.status) == (0, 1), judged.out
    assert "the recipe inside is about another package" in judged.out


def test_the_gate_rejects_an_output_whose_test_was_changed(tmp_path: Path) -> None:
    text = MULTI.replace("      requires:\n        - make\n", "")
    output(tmp_path, replaced(SH, "test -f $PREFIX/share/odd.txt\n", ":\n"), text=text)
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", cwd=tmp_path)
    judged = manualbuild("verify", "manualbuild-report", cwd=tmp_path)

    assert ran.status == 0, ran.out
    assert judged.status == 1, judged.out
    assert "run_test.sh is not made of the recipe's tests" in judged.out
    planned = json.loads(manualbuild("plan", "--recipe", "recipe", "--json", cwd=tmp_path).out)
    assert [one["name"] for one in planned["outputs"]] == ["odd", "odd-part"]
    assert [one["label"] for one in planned["packages"]] == ["odd"]
