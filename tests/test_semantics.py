"""Test sections run as conda-build runs them, with a result for each check."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import builder
import pytest

from conftest import manualbuild, outcomes, run_local, write_package
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.execution.variables import documented
from pytest_manualbuild.languages import run_test_bat
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.records import LinkedEnvironment


def stand_in(tmp_path: Path, package: str, program: str, real: str) -> str:
    """Make a channel with a package whose program hands over to this machine's; return its URL."""
    folder = tmp_path / "language"
    text = f'#!/bin/sh\nexec {real} "$@"\n'.encode()
    files = {f"bin/{program}": builder.Staged(data=text, executable=True)}
    built = builder.Built(
        recipe=None, files=files, subdir="noarch", name=package, version="5.0", depends=()
    )
    builder.write(built, folder, ".conda")
    index_channel(folder)
    return folder.as_uri()


def on_this_machine(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not on this machine")


def test_perl_imports_are_used_and_their_versions_compared(tmp_path: Path) -> None:
    channel = stand_in(tmp_path, "perl", "perl", on_this_machine("perl"))
    write_package(
        tmp_path,
        "test:\n  imports:\n    - File::Spec\n    - No::Such\n    - Right\n    - strict 'refs'\n",
        {"run_test.pl": "print qq(script ran\\n);\n", "Right.pm": ""},
        name="perl-odd",
    )

    ran = run_local(tmp_path, "--channel", channel)

    assert ran.status == 1, ran.out
    found = outcomes(tmp_path)
    assert found["run_test.pl"] == ("passed", "ok")
    assert found["imports[perl]: No::Such"] == ("failed", "exit-status")
    # Its own version is not the package's: conda-build refuses that as well.
    assert found["imports[perl]: File::Spec"] == ("failed", "exit-status")
    assert found["imports[perl]: strict 'refs'"] == ("passed", "ok")


@pytest.mark.parametrize(
    ("language", "module", "text"),
    [
        ("perl", "Odd.pm", "package Odd; our $VERSION = 7; exit 0; 1;\n"),
        ("lua", "Odd.lua", "os.exit(0)\n"),
    ],
)
def test_an_import_that_ends_its_process_with_0_failed(
    tmp_path: Path, language: str, module: str, text: str
) -> None:
    real = on_this_machine(language, "lua5.4", "lua5.3")
    channel = stand_in(tmp_path, language, language, real)
    activate = "export PERL5LIB=$CONDA_PREFIX/lib LUA_PATH=$CONDA_PREFIX/lib/?.lua\n"
    staged = {f"lib/{module}": text, "etc/conda/activate.d/odd.sh": activate}
    imports = "test:\n  imports:\n    - Odd\n    - Same\n"
    staged[f"lib/{module.replace('Odd', 'Same')}"] = "1;\n" if language == "perl" else "\n"
    write_package(tmp_path, imports, name=f"{language}-odd", staged=staged)

    run_local(tmp_path, "--channel", channel)

    found = outcomes(tmp_path)
    assert found[f"imports[{language}]: Odd"] == ("failed", "exit-status")
    assert found[f"imports[{language}]: Same"] == ("passed", "ok")


def test_lua_imports_and_script(tmp_path: Path) -> None:
    channel = stand_in(tmp_path, "lua", "lua", on_this_machine("lua", "lua5.4", "lua5.3"))
    write_package(
        tmp_path,
        "test:\n  imports:\n    - string\n    - no.such\n",
        {"run_test.lua": "os.exit(3)\n"},
        name="lua-odd",
    )

    ran = run_local(tmp_path, "--channel", channel)

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": ("passed", "ok"),
        "run_test.lua": ("failed", "exit-status"),
        "imports[lua]: string": ("passed", "ok"),
        "imports[lua]: no.such": ("failed", "exit-status"),
    }


def test_a_language_comes_from_the_environment_and_not_from_the_host(tmp_path: Path) -> None:
    channel = stand_in(tmp_path, "perl", "another-program", "/bin/true")
    on_this_machine("perl")
    write_package(tmp_path, "test:\n  imports:\n    - strict\n", name="perl-odd")

    assert run_local(tmp_path, "--channel", channel).status == 1
    assert outcomes(tmp_path)["imports[perl]: strict"] == ("failed", "exit-status")


@pytest.mark.parametrize(
    ("spec", "solved"),
    [
        ("perl 5.0", True),
        ("perl 5.0 0", True),
        ("perl 5.0 1", False),
        ("perl=5.0=0", True),
    ],
)
def test_requirements_of_the_tests_are_read_as_conda_reads_them(
    tmp_path: Path, spec: str, *, solved: bool
) -> None:
    channel = stand_in(tmp_path, "perl", "perl", "/bin/true")
    write_package(
        tmp_path,
        f"test:\n  requires:\n    - {spec}\n  commands:\n    - test -x $PREFIX/bin/perl\n",
    )

    ran = run_local(tmp_path, "--channel", channel)

    said = ("passed", "ok") if solved else ("failed", "unsolvable")
    assert (ran.status, outcomes(tmp_path)["install"]) == (0 if solved else 1, said), ran.out


def test_a_requirement_that_cannot_be_read_is_the_recipes_mistake(tmp_path: Path) -> None:
    write_package(
        tmp_path, "test:\n  requires:\n    - odd ^1.*$\n  commands:\n    - 'true'\n", name="a"
    )

    ran = run_local(tmp_path, "--channel", stand_in(tmp_path, "odd", "odd", "/bin/true"))

    assert (ran.status, "'odd ^1.*$' of the test cannot be" in " ".join(ran.out.split())) == (
        1,
        True,
    )
    assert outcomes(tmp_path)["install"] == ("failed", "unsolvable")


def test_a_file_test_failed_is_a_failure(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - touch TEST_FAILED\n    - 'true'\n")

    assert run_local(tmp_path).status == 1
    assert outcomes(tmp_path)["commands[0]: touch TEST_FAILED"] == ("passed", "ok")
    assert outcomes(tmp_path)["commands[1]: true"] == ("failed", "test-failed")


def test_files_that_are_programs_can_be_run_by_their_name(tmp_path: Path) -> None:
    """Those of the recipe, and those of the sources, which the package keeps; no others."""
    tests = "test:\n  files:\n    - '*.sh'\n  source_files:\n    - t/*\n  commands:\n"
    tests += "    - ./yes.sh\n    - t/yes\n    - '! ./no.sh'\n    - '! t/no'\n"
    program = "#!/bin/sh\nexit 0\n"
    folder = write_package(tmp_path, tests, {"yes.sh": program, "no.sh": program})
    (folder / "yes.sh").chmod(0o755)
    dist, files = builder.contents(builder.Built(recipe=folder, files={}, subdir="noarch"))
    for name in ("yes", "no"):
        staged = builder.Staged(data=program.encode(), executable=name == "yes")
        files[f"info/test/t/{name}"] = staged
    (written,) = (tmp_path / "build_artifacts/noarch").iterdir()
    written.unlink()
    with tarfile.open(written.with_name(f"{dist}.tar.bz2"), "w:bz2") as archive:
        builder._add(archive, dict(sorted(files.items())))

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


@pytest.mark.parametrize("script", [True, False])
def test_what_is_run_finds_itself_called_and_not_sourced(tmp_path: Path, *, script: bool) -> None:
    """A script may do its work only then: it must not pass for having done nothing."""
    asks = """[ "${BASH_SOURCE[0]}" != "$0" ] || (return 0 2>/dev/null) || exit 9"""
    if script:
        # Itself it finds where it belongs, as it was reviewed, and nothing of ours beside it.
        looks = 'test "$(ls -A "${0%/*}")" = run_test.sh\ngrep -qx "# its end" "$0"\n'
        write_package(tmp_path, "", {"run_test.sh": f"{looks}{asks}\n# its end\n"})
    else:
        write_package(tmp_path, f"test:\n  commands:\n    - '{asks}'\n")

    assert run_local(tmp_path).status == 1
    (last,) = [one for one in outcomes(tmp_path) if one != "install"]
    stored = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())
    (result,) = [one for one in stored["predicate"]["results"] if one["check"] == last]
    assert (result["outcome"], result["exit_status"]) == ("failed", 9)


def test_a_file_test_failed_is_a_failure_after_exit_0_too(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - touch TEST_FAILED; exit 0\n    - 'true'\n")

    assert run_local(tmp_path).status == 1


@pytest.mark.parametrize(
    ("prefix", "subdir", "paths"),
    [
        ("/p", "linux-64", ["/p/bin/python", "/p/bin/perl", "/p/bin/R", None]),
        (
            "C:\\p",
            "win-64",
            [r"C:\p\python.exe", r"C:\p\Library\bin\perl.exe", r"C:\p\Scripts\R.exe", None],
        ),
    ],
)
def test_the_languages_that_a_package_needs_are_named_by_variables(
    prefix: str, subdir: str, paths: list[str | None]
) -> None:
    artifact = Artifact(
        path="", subdir=subdir, filename="a-1-0.conda", sha256="0" * 64, size=0, name="a",
        version="1", build="0", build_number=0, noarch=None, constrains=(),
        depends=("python>=3", "perl", "r-base 4.*"),
    )  # fmt: skip
    environment = LinkedEnvironment(path=prefix, prefix=prefix, packages=())

    found = documented(artifact, environment, f"{prefix}-work", subdir)

    assert [found.get(name) for name in ("PYTHON", "PERL", "R", "LUA")] == paths


def test_a_test_finds_the_python_of_its_package(tmp_path: Path, python_channel: str) -> None:
    tests = "requirements:\n  run:\n    - python\ntest:\n  commands:\n"
    write_package(tmp_path, f"{tests}    - $PYTHON -c 'import json'\n    - test $PY3K = 1\n")

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out


def test_a_test_that_asks_for_the_recipe_finds_its_files(tmp_path: Path) -> None:
    folder = write_package(
        tmp_path,
        "test:\n  files:\n    - asks.sh\n  commands:\n"
        "    - test $(cat $RECIPE_DIR/data/one.txt) = one\n"
        "    - $RECIPE_DIR/program\n"
        "    - test ! -e data\n"
        "    - sh asks.sh\n",
        {"asks.sh": "test -f $RECIPE_DIR/meta.yaml\n", "program": "#!/bin/sh\n"},
    )
    (folder / "program").chmod(0o755)
    (folder / "data").mkdir()
    (folder / "data/one.txt").write_text("one\n")

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_files_of_the_recipe_and_of_the_sources_are_there(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  files:\n    - data.txt\n  source_files:\n    - tests/*.in\n  commands:\n"
        "    - grep -x reviewed data.txt\n    - grep -x source tests/a.in\n",
        {"data.txt": "reviewed\n"},
        info={"info/test/tests/a.in": "source\n", "info/test/data.txt": "the builder's\n"},
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_a_daemon_that_is_left_behind_does_not_hold_the_run(tmp_path: Path) -> None:
    write_package(
        tmp_path, "test:\n  commands:\n    - (sleep 300 &) ; setsid sleep 300 &\n    - echo done\n"
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_hostile_output_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n"
        r"    - printf '\033]0;owned\007\000\377 <a>&amp; ]]> \036mark'; exit 1" + "\n",
    )

    ran = run_local(tmp_path, "--junitxml", "junit.xml")

    assert ran.status == 1, ran.out
    assert "\x1b" not in ran.out
    text = (tmp_path / "junit.xml").read_text()
    assert "\\x1b]0;owned\\x07\\x00\\xff" in text


def test_a_script_finds_itself_in_the_folder_of_the_tests(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  files:\n    - data.txt\n  commands:\n    - test -f seen\n",
        {
            "run_test.sh": 'test -f "$(dirname "$0")/data.txt"\ntest $# = 0\ntouch seen\n',
            "data.txt": "data\n",
        },
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    assert outcomes(tmp_path)["run_test.sh"] == ("passed", "ok")


@pytest.mark.parametrize(
    "script",
    [
        "from __future__ import annotations\n",
        "import sys; sys.stdout.close()",
        "print = None\n",
    ],
)
def test_a_script_that_conda_build_s_lines_around_it_fail_is_a_failure(
    tmp_path: Path, python_channel: str, script: str
) -> None:
    write_package(tmp_path, "", {"run_test.py": script})

    ran = run_local(tmp_path, "--channel", python_channel)

    assert (ran.status, outcomes(tmp_path)["run_test.py"][0]) == (1, "failed"), ran.out


def test_an_import_finds_the_script_that_conda_build_would_run(
    tmp_path: Path, python_channel: str
) -> None:
    module = (
        "import __main__, os, sys\n"
        "assert __main__.__file__ == sys.argv[0] == os.environ['SRC_DIR'] + '/run_test.py'\n"
    )
    write_package(
        tmp_path,
        "test:\n  files:\n    - asks.py\n  imports:\n    - asks\n    - json\n",
        {"asks.py": module},
    )

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out


def test_the_python_of_the_environment_names_its_version(
    tmp_path: Path, python_channel: str
) -> None:
    script = (
        "import os, sys\nassert os.environ['PY_VER'] == '%d.%d' % sys.version_info[:2]\n"
        "assert sys.prefix == os.environ['PREFIX'], sys.prefix\nassert sys.flags.no_user_site\n"
    )
    write_package(tmp_path, "test:\n  imports:\n    - json\n", {"run_test.py": script})

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out


@pytest.mark.parametrize(
    ("commands", "sizes"),
    [
        (["rem about (it", "exit /b 0"], [1, 1]),
        ([":: (", "echo smile :(", "title (", "exit /b 0"], [1, 1, 1, 1]),
        (["if 1==1 (", "echo smile :(", ") else (", "rem )", ")", "exit /b 0"], [5, 1]),
        (["for %%i in (a b) do (", "x", ")", "exit /b 0"], [3, 1]),
        (["@if a (", "x", ")", "> log (", "x", ")", "x && (", "y", ")"], [3, 3, 3]),
        (["if (a)==(b) x", 'if "(" == "b" (', "x", ")"], [1, 3]),
        (["if a (\nx\n)", "if a ((x", "y", "))", "x ^", "y"], [1, 3, 2]),
    ],
)
def test_only_a_block_of_batch_makes_commands_a_statement(
    commands: list[str], sizes: list[int]
) -> None:
    groups = run_test_bat.blocks(list(enumerate(commands)))

    assert [(len(group), whole) for group, whole in groups] == [(one, True) for one in sizes]


def test_a_status_that_errexit_does_not_heed_is_a_note_and_no_contradiction(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - '! true'\n    - set +e\n    - 'false'\n")

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    stored = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())
    notes = [one.get("notes", []) for one in stored["predicate"]["results"]]
    note = ["It returned 1, and its shell, as set, went on."]
    assert notes == [[], note, [], note]
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 0
