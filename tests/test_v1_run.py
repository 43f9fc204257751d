"""The tests of ``recipe.yaml`` packages run as rattler-build runs them, each for itself."""

from __future__ import annotations

import json
from pathlib import Path

import builder
import pytest
from recipe_v1 import ABOUT, build, noarch, write
from test_semantics import on_this_machine, stand_in

from conftest import FORMAT, LOCAL, Ran, manualbuild, outcomes, results, run_local, run_pytest
from pytest_manualbuild.checks import name_asked_for
from pytest_manualbuild.environment.environments import index_channel

PASSED, NOT_REACHED = ("passed", "ok"), ("skipped", "not-reached")
FAILED, UNSOLVABLE = ("failed", "exit-status"), ("failed", "unsolvable")


def run(
    tmp_path: Path,
    tests: str,
    *words: str,
    files: dict[str, str] | None = None,
    depends: str = "",
    script: str = "",
    extension: str = FORMAT,
) -> Ran:
    """Build a package with these tests and run them on this machine."""
    folder = write(tmp_path / "recipe", noarch("p", tests, run=depends, script=script), files)
    build(folder, tmp_path / "build_artifacts", extension=extension)
    (tmp_path / "local.toml").write_text(LOCAL)
    return run_local(tmp_path, *words)


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_all_tests_run_even_when_one_fails_and_a_list_stops_where_its_shell_stops(
    tmp_path: Path, extension: str
) -> None:
    ran = run(
        tmp_path,
        "- script:\n    - test -f $PREFIX/share/p/data.txt\n    - exit 3\n    - echo never\n"
        "- script: echo second\n"
        "- script:\n    content: |\n      echo several\n      false\n      echo lines\n",
        extension=extension,
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].script[0]: test -f $PREFIX/share/p/data.txt": PASSED,
        "tests[0].script[1]: exit 3": FAILED,
        "tests[0].script[2]: echo never": NOT_REACHED,
        "tests[1].install": PASSED,
        "tests[1].script[0]: echo second": PASSED,
        "tests[2].install": PASSED,
        "tests[2].script": FAILED,
    }


def test_each_test_has_an_environment_of_its_own(tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        "- script: [touch $PREFIX/left, touch left, rm $PREFIX/share/p/data.txt]\n"
        "- script: [test ! -e $PREFIX/left, test ! -e left, test -f $PREFIX/share/p/data.txt]\n",
    )

    assert ran.status == 0, ran.out


def test_a_test_that_runs_too_long_does_not_keep_the_next_ones_from_running(
    tmp_path: Path,
) -> None:
    ran = run(
        tmp_path,
        "- script: [sleep 300]\n- script: [test -f $PREFIX/share/p/data.txt]\n",
        "--check-timeout",
        "2",
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].script[0]: sleep 300": ("failed", "timeout"),
        "tests[1].install": PASSED,
        "tests[1].script[0]: test -f $PREFIX/share/p/data.txt": PASSED,
    }


def test_script_files_environment_and_folder_are_those_of_the_recipe(tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        "- script: check\n"
        "- script:\n    content:\n      - test \"$FOO\" = 'b a r'\n"
        "      - grep -x reviewed data/d.txt\n"
        "      - test $PWD -ef $PREFIX/etc/conda/test-files/p/1\n    env: {FOO: b a r}\n"
        "  files:\n    recipe: [data/]\n"
        "- script:\n    content: test -f data.txt\n    cwd: share/p\n"
        "- script:\n    content: 'true'\n    cwd: share/nowhere\n",
        files={"check.sh": "echo checked\n", "data/d.txt": "reviewed\n"},
    )

    assert ran.status == 1, ran.out
    bad = {check: said for check, said in outcomes(tmp_path).items() if said != PASSED}
    assert bad == {"tests[3].script[0]: true": FAILED}


def test_the_reviewed_test_files_are_used_and_not_those_of_the_builder(tmp_path: Path) -> None:
    tests = "- script: [grep -x reviewed d.txt]\n  files:\n    recipe: [d.txt]\n"
    folder = write(tmp_path / "recipe", noarch("p", tests), {"d.txt": "the builder's\n"})
    build(folder, tmp_path / "build_artifacts")
    (folder / "d.txt").write_text("reviewed\n")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    said = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert "info/recipe" in said.out or "the recipe inside the package" in said.out, said.out
    assert said.status == 1


def test_a_test_file_that_is_a_program_can_be_run_by_its_name(tmp_path: Path) -> None:
    tests = "- script: [./yes.sh, '! ./no.sh']\n  files:\n    recipe: ['*.sh']\n"
    program = "#!/bin/sh\nexit 0\n"
    files = {"yes.sh": program, "no.sh": program}
    folder = write(tmp_path / "recipe", noarch("p", tests), files)
    (folder / "yes.sh").chmod(0o755)
    build(folder, tmp_path / "build_artifacts")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_the_variables_are_those_of_rattler_build(tmp_path: Path) -> None:
    names = (
        "PREFIX PKG_NAME PKG_VERSION PKG_BUILD_STRING PKG_BUILDNUM PKG_BUILD_NUMBER SUBDIR"
        " CONDA_BUILD_STATE target_platform build_platform host_platform ARCH CPU_COUNT SHLIB_EXT"
    )

    ran = run(
        tmp_path,
        "- script:\n"
        f'    - for name in {names}; do test -n "${{!name}}" || exit 9; done\n'
        '    - test -z "$SRC_DIR$RECIPE_DIR"\n'
        "    - test $target_platform = noarch\n",
    )

    assert ran.status == 0, ran.out


def test_python_tests_have_one_environment_for_each_python_and_one_result_for_each_import(
    tmp_path: Path, python_channel: str
) -> None:
    folder = python_channel.removeprefix("file://")
    (version,) = {path.name.split("-")[1] for path in Path(folder).glob("linux-64/python-*")}
    short = ".".join(version.split(".")[:2])

    ran = run(
        tmp_path,
        f'- python:\n    imports: [json, no_such, os]\n    pip_check: false\n'
        f'    python_version: ["{short}.*", "2.7"]\n'
        "- python:\n    imports: [json]\n",
        "--channel",
        python_channel,
    )  # fmt: skip

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        f"tests[0][{short}.*].install": PASSED,
        f"tests[0][{short}.*].imports: json": PASSED,
        f"tests[0][{short}.*].imports: no_such": FAILED,
        f"tests[0][{short}.*].imports: os": PASSED,
        "tests[0][2.7].install": UNSOLVABLE,
        "tests[0][2.7].imports: json": NOT_REACHED,
        "tests[0][2.7].imports: no_such": NOT_REACHED,
        "tests[0][2.7].imports: os": NOT_REACHED,
        # pip_check needs pip, and the channel has none: as in rattler-build, that fails.
        "tests[1].install": UNSOLVABLE,
        "tests[1].imports: json": NOT_REACHED,
        "tests[1].pip_check": NOT_REACHED,
    }


def stand_in_python(channel: Path) -> str:
    """Add to a channel a Python 3.11 that is this machine's; return the channel's URL."""
    text = f'#!/bin/sh\nexec {on_this_machine("python3")} "$@"\n'
    files = {"bin/python": builder.Staged(data=text.encode(), executable=True)}
    built = builder.Built(
        recipe=None, files=files, subdir="noarch", name="python", version="3.11", depends=()
    )
    builder.write(built, channel, ".conda")
    index_channel(channel)
    return channel.as_uri()


def test_a_test_that_nobody_selected_is_not_run(tmp_path: Path) -> None:
    place = tmp_path / "ran"
    place.mkdir()

    ran = run(
        tmp_path,
        f"- script: ['touch {place}/0']\n- script: ['touch {place}/1']\n",
        "-k",
        "tests-1",
    )

    assert ran.status == 0, ran.out
    assert [one.name for one in place.iterdir()] == ["1"]


def test_a_list_of_pythons_that_conditions_left_empty_drops_no_test(tmp_path: Path) -> None:
    """rattler-build runs nothing for it, and passes."""
    ran = run(
        tmp_path,
        "- python:\n    imports: [json, no_such]\n    pip_check: false\n"
        "    python_version:\n      - if: win\n        then: '3.8'\n"
        "- script: [echo more]\n",
        "--channel",
        stand_in_python(tmp_path / "channel"),
        depends="python",
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].imports: json": PASSED,
        "tests[0].imports: no_such": FAILED,
        "tests[1].install": PASSED,
        "tests[1].script[0]: echo more": PASSED,
    }


def test_pip_check_runs_the_pip_of_the_environment(tmp_path: Path) -> None:
    channel = tmp_path / "channel"
    text = "#!/bin/sh\ncase \"$*\" in *'-m pip check') echo broken; exit 1;; esac\nexit 0\n"
    for name, files in {
        "python": {"bin/python": builder.Staged(data=text.encode(), executable=True)},
        "pip": {"share/pip": builder.Staged(data=b"pip")},
    }.items():
        built = builder.Built(
            recipe=None, files=files, subdir="noarch", name=name, version="3.11", depends=()
        )
        builder.write(built, channel, ".conda")
    index_channel(channel)

    ran = run(
        tmp_path, "- python:\n    imports: []\n", "--channel", channel.as_uri(), depends="python"
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].install": PASSED,
        "tests[0].pip_check": FAILED,
    }


def test_without_python_in_the_environment_none_of_the_host_stands_in(tmp_path: Path) -> None:
    """rattler-build takes the host's python then, and passes."""
    on_this_machine("python3")

    ran = run(
        tmp_path,
        "- python:\n    imports: [os]\n    pip_check: false\n- script: {file: c.py}\n",
        files={"c.py": "pass\n"},
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path)["tests[0].imports: os"] == FAILED
    assert outcomes(tmp_path)["tests[1].script"] == FAILED


def test_perl_uses_are_found_and_their_versions_are_not_compared(tmp_path: Path) -> None:
    channel = stand_in(tmp_path, "perl", "perl", on_this_machine("perl"))

    ran = run(
        tmp_path,
        "- perl:\n    uses: [File::Spec, No::Such]\n"
        "- script:\n    content: print qq(hi);\n    interpreter: perl\n"
        "  requirements:\n    run: [perl]\n",
        "--channel",
        channel,
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].install": PASSED,
        "tests[0].uses: File::Spec": PASSED,
        "tests[0].uses: No::Such": FAILED,
        "tests[1].install": PASSED,
        "tests[1].script": PASSED,
    }


@pytest.mark.parametrize(
    ("package", "program", "test", "loads", "odd"),
    [
        ("ruby", "ruby", "- ruby:\n    requires: [json, it's]\n", "-e require '{}'", r"it\'s"),
        ("r-base", "Rscript", "- r:\n    libraries: [json, it's]\n", "-e library({})", "it's"),
    ],
)
def test_ruby_and_r_load_each_with_the_environments_own_program(
    tmp_path: Path, package: str, program: str, test: str, loads: str, odd: str
) -> None:
    """The program is a stand-in that fails for all but `json`: this machine may have none."""
    fake = tmp_path / "fake"
    wanted = loads.format("json")
    reached = ': >"$MANUALBUILD_REACHED"'
    fake.write_text(
        f'#!/bin/sh\necho "got $*"\ncase "$*" in "{wanted}; "*) {reached} ;; *) exit 1 ;; esac\n'
    )
    fake.chmod(0o755)
    channel = stand_in(tmp_path, package, program, str(fake))

    ran = run(tmp_path, test, "--channel", channel)

    assert ran.status == 1, ran.out
    assert list(outcomes(tmp_path).values()) == [PASSED, PASSED, PASSED, FAILED]
    assert f"got {loads.format(odd)}" in ran.out


def test_tools_of_requirements_build_are_found_and_are_no_part_of_the_environment(
    tmp_path: Path,
) -> None:
    channel = stand_in(tmp_path, "tool", "tool", "/bin/echo")

    ran = run(
        tmp_path,
        "- script:\n    - tool works\n    - test $(command -v tool) = $BUILD_PREFIX/bin/tool\n"
        "    - test ! -e $PREFIX/bin/tool\n    - test -f $PREFIX/share/p/data.txt\n"
        "  requirements:\n    build: [tool]\n"
        "- script: [tool]\n"
        "- script: [tool]\n  requirements:\n    build: [no-such-tool]\n",
        "--channel",
        channel,
    )

    assert ran.status == 1, ran.out
    bad = {check: said for check, said in outcomes(tmp_path).items() if said != PASSED}
    assert bad == {
        "tests[1].script[0]: tool": FAILED,
        "tests[2].install": UNSOLVABLE,
        "tests[2].script[0]: tool": NOT_REACHED,
    }


def test_what_this_version_cannot_run_is_skipped_with_its_cause(tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        "- script: {content: print 1, interpreter: nushell}\n"
        "- script:\n    content: test -z ${TOKEN+set}\n    secrets: [TOKEN]\n",
        "-rs",
    )

    assert ran.status == 8, ran.out
    said = [check for check, got in outcomes(tmp_path).items() if got == ("skipped", "recipe")]
    assert said == [
        "tests[0].install",
        "tests[0].script[0]: print 1",
    ]
    assert outcomes(tmp_path)["tests[1].script[0]: test -z ${TOKEN+set}"] == PASSED
    assert "its tests ran without the secrets that they ask for: TOKEN" in ran.out
    assert "Scripts for nushell are not run by this version" in ran.out


def downstream_channel(tmp_path: Path) -> str:
    """Make a channel with packages that depend on the one under test, with tests of their own."""
    channel = tmp_path / "channel"
    for name, tests in {
        "glad": "- script: [test -f $PREFIX/share/p/data.txt, test $PKG_NAME = glad]\n"
        "- script: echo second\n- downstream: more\n",
        "sad": "- script: 'true'\n- script: test -f $PREFIX/share/p/gone\n",
        "silent": "",
        "idle": "- script: '# to do'\n",
    }.items():
        build(write(tmp_path / name, noarch(name, tests, run="p")), channel)
    old = tmp_path / "old"
    old.mkdir()
    (old / "meta.yaml").write_text(
        "package:\n  name: old\n  version: '1'\nbuild:\n  noarch: generic\n"
        "test:\n  commands:\n    - test -f $PREFIX/share/p/data.txt\n"
    )
    built = builder.Built(
        recipe=old, files={"share/old": builder.Staged(data=b"old")}, subdir="noarch",
        depends=("p",),
    )  # fmt: skip
    builder.write(built, channel, ".conda")
    idle = {"info/test/run_test.sh": b"\n\nset -ex\n\n\n\n# nothing\nexit 0\n"}
    built = builder.Built(
        recipe=None, files={}, subdir="noarch", name="idle", version="1", depends=("p",), info=idle
    )
    builder.write(built, channel, ".conda")
    index_channel(channel)
    return channel.as_uri()


def test_downstream_packages_are_tested_beside_the_package(tmp_path: Path) -> None:
    ran = run(
        tmp_path,
        "".join(
            f"- downstream: {name}\n" for name in ("glad", "sad", "silent", "old", "gone", "idle")
        ),
        "--channel",
        downstream_channel(tmp_path),
        "-rs",
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].downstream: glad": PASSED,
        "tests[1].downstream: sad": FAILED,
        "tests[2].downstream: silent": ("skipped", "recipe"),
        "tests[3].downstream: old": PASSED,
        # rattler-build warns and passes; what did not run is no pass here.
        "tests[4].downstream: gone": ("skipped", "unsolvable"),
        "tests[5].downstream: idle": ("skipped", "recipe"),
    }
    assert "sad-1.0" in ran.out
    assert "It was not run" in ran.out


def test_a_downstream_package_is_tested_with_whatever_python_there_is(tmp_path: Path) -> None:
    """As rattler-build does: the package under test may be for another than its own tests name."""
    channel = tmp_path / "channel"
    test = "- python:\n    imports: [json{}]\n    pip_check: false\n    python_version: {}\n"
    for name, tests in {
        "glad": test.format("", "['3.8.*', '3.11']"),
        "sad": test.format(", no_such", "'3.8'"),
    }.items():
        build(write(tmp_path / name, noarch(name, tests, run="p, python")), channel)

    ran = run(
        tmp_path,
        "- downstream: glad\n- downstream: sad\n",
        "--channel",
        stand_in_python(channel),
    )

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": PASSED,
        "tests[0].downstream: glad": PASSED,
        "tests[1].downstream: sad": FAILED,
    }


def test_a_package_without_tests_proves_only_that_it_installs(tmp_path: Path) -> None:
    ran = run(tmp_path, "")

    assert ran.status == 8, ran.out
    assert outcomes(tmp_path) == {"install": PASSED}


def test_outputs_and_variants_each_get_their_own_tests(tmp_path: Path) -> None:
    from test_v1_recipes import MULTI

    folder = write(tmp_path / "recipe", MULTI)
    variants = {"flavor": ["a", "b", "c"], "python": ["3.11"]}
    build(folder, tmp_path / "build_artifacts", variants=variants)
    (tmp_path / "local.toml").write_text(LOCAL)
    index_channel(tmp_path / "build_artifacts")

    ran = run_local(tmp_path, "--channel", (tmp_path / "build_artifacts").as_uri())

    assert ran.status == 0, ran.out
    said = results(tmp_path / "manualbuild-report")
    wanted = {"tests[0].script[0]: grep -x a $PREFIX/share/m",
              "tests[0].script[0]: grep -x c $PREFIX/share/m"}  # fmt: skip
    assert wanted <= {check for _, check in said}
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 0


def test_variants_that_only_the_package_knows_are_enough(tmp_path: Path) -> None:
    """They came from a pinning file that is not beside the recipe."""
    tests = '- if: flavor == "a"\n  then:\n    script:\n      - echo ${{ flavor }}\n'
    folder = write(tmp_path / "recipe", noarch("p", tests))
    build(folder, tmp_path / "build_artifacts", variants={"flavor": ["a"]})
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    assert outcomes(tmp_path) == {"install": PASSED, "tests[0].script[0]: echo a": PASSED}


def test_the_recipe_is_not_read_with_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANUALBUILD_BAIT", "taken")

    ran = run(tmp_path, '- script: [test -z "$MANUALBUILD_BAIT"]\n')

    assert ran.status == 0, ran.out


def pure(tmp_path: Path, python_channel: str) -> None:
    """Build a noarch Python package with tests of three kinds."""
    folder = write(
        tmp_path / "recipe",
        'package:\n  name: purev1\n  version: "1.0"\nbuild:\n  noarch: python\n  script:\n'
        "    - mkdir -p $SP_DIR/purev1 $SP_DIR/purev1-1.0.dist-info\n"
        "    - echo 'answer = 42' > $SP_DIR/purev1/__init__.py\n"
        "    - cp $RECIPE_DIR/METADATA $SP_DIR/purev1-1.0.dist-info/\n"
        f"{ABOUT}requirements:\n  host: [python]\n  run: [python]\n"
        "tests:\n"
        "  - python:\n      imports: [purev1]\n      pip_check: false\n"
        "  - script: [python -c 'import purev1; assert purev1.answer == 42', python answer.py]\n"
        "    files:\n      recipe: [answer.py]\n"
        "  - package_contents:\n      site_packages: [purev1]\n",
        {
            "answer.py": "import purev1\nprint(purev1.answer)\n",
            "METADATA": "Metadata-Version: 2.1\nName: purev1\nVersion: 1.0\n",
        },
    )
    build(folder, tmp_path / "build_artifacts", channels=(python_channel,))


def proven(tmp_path: Path, hosts: int) -> None:
    said = results(tmp_path / "manualbuild-report")
    assert len(said) == hosts * 6
    assert set(said.values()) == {PASSED}
    stored = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())
    for host in stored["predicate"]["hosts"]:
        assert len(host["environments"]) == 2
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 0


def test_a_noarch_python_package(tmp_path: Path, python_channel: str) -> None:
    pure(tmp_path, python_channel)
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out
    proven(tmp_path, hosts=1)


def test_a_noarch_python_package_on_containers(
    tmp_path: Path, engine: None, shared: Path, python_channel: str
) -> None:
    """Needs the portable Python: that of this machine does not run on every system."""
    del engine, shared
    pure(tmp_path, python_channel)
    (tmp_path / "hosts.toml").write_text(
        "".join(
            f'[hosts.debian-{n}]\nkind = "docker"\nimage = "manualbuild/debian-{n}:test"\n'
            'subdir = "linux-64"\n'
            for n in (11, 13)
        )
    )

    ran = run_pytest(
        "--recipe", "recipe", "--matrix", "hosts.toml", "--channel", python_channel, cwd=tmp_path
    )

    assert ran.status == 0, ran.out
    proven(tmp_path, hosts=2)


def test_each_test_on_a_container_has_an_environment_of_its_own(
    tmp_path: Path, engine: None
) -> None:
    del engine
    folder = write(
        tmp_path / "recipe",
        noarch(
            "p",
            "- script: [rm $PREFIX/share/p/data.txt, sleep 300]\n"
            "- script: [test -f $PREFIX/share/p/data.txt]\n- script: [exit 5]\n"
            "- script: [grep -x p $PREFIX/share/p/data.txt]\n",
        ),
    )
    build(folder, tmp_path / "build_artifacts")
    (tmp_path / "hosts.toml").write_text(
        '[hosts.debian-12]\nkind = "docker"\nimage = "manualbuild/debian-12:test"\n'
        'subdir = "linux-64"\n'
    )

    ran = run_pytest(
        "--recipe", "recipe", "--matrix", "hosts.toml", "--check-timeout", "3", cwd=tmp_path
    )

    assert ran.status == 1, ran.out
    bad = {check: said for check, said in outcomes(tmp_path).items() if said != PASSED}
    assert bad == {
        "tests[0].script[1]: sleep 300": ("failed", "timeout"),
        "tests[2].script[0]: exit 5": FAILED,
    }


def test_with_xdist_the_same_results_come_out(tmp_path: Path) -> None:
    tests = "- script: ['true', exit 4, 'true']\n- package_contents:\n    bin: [no]\n"
    run(tmp_path, tests)
    alone = outcomes(tmp_path)

    run_local(tmp_path, "-n", "2")

    assert outcomes(tmp_path) == alone


def test_files_from_the_sources_are_those_that_the_package_brings(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "recipe",
        noarch(
            "p",
            "- package_contents:\n    files: [share/p/data.txt]\n"
            "- script: [grep -x source tests/a.in, grep -x reviewed r.txt]\n"
            "  files:\n    source: [tests/]\n    recipe: [r.txt]\n",
            extra="source:\n  path: ../sources\n",
        ),
        {"../sources/tests/a.in": "source\n", "r.txt": "reviewed\n"},
    )
    build(folder, tmp_path / "build_artifacts")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 0


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_a_package_for_one_system_is_relocated_into_a_long_prefix(
    tmp_path: Path, extension: str
) -> None:
    text = noarch(
        "p",
        '- script: [test "$(cat $PREFIX/share/p/where)" = $PREFIX, test $SUBDIR = linux-64,'
        " test $(printf %s $PREFIX | wc -c) = 255]\n",
        script="    - echo $PREFIX > $PREFIX/share/p/where\n",
    ).replace("  noarch: generic\n", "")
    folder = write(tmp_path / "recipe", text)
    (path,) = build(folder, tmp_path / "build_artifacts", extension=extension)
    assert path.parent.name == "linux-64"
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


@pytest.mark.parametrize(
    ("spec", "name"),
    [("Other", "other"), ("other >=2,<3", "other"), ("conda-forge::py_x.y-z=1", "py_x.y-z")],
)
def test_the_name_of_a_downstream_package_is_read_from_its_spec(spec: str, name: str) -> None:
    assert name_asked_for(spec) == name


def test_the_gate_accepts_tools_downstream_packages_and_contents_beside_each_other(
    tmp_path: Path,
) -> None:
    """Each has another kind of environment, or none, in the evidence."""
    tools = stand_in(tmp_path, "tool", "tool", "/bin/echo")
    ran = run(
        tmp_path,
        "- script: [tool works]\n  requirements:\n    build: [tool]\n"
        "- downstream: glad\n- downstream: old\n"
        "- package_contents:\n    files: [share/p/data.txt]\n",
        "--channel",
        downstream_channel(tmp_path),
        "--channel",
        tools,
    )
    assert ran.status == 0, ran.out

    ran = manualbuild("verify", "manualbuild-report", cwd=tmp_path)

    assert ran.status == 0, ran.out
