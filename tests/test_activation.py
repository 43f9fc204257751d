"""Tests start in an active environment, and what activation leaves has no say in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import builder
import pytest

from conftest import command, outcomes, run_local, write_package
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.execution import preamble, windows
from pytest_manualbuild.records import LinkedEnvironment


def test_the_post_link_script_runs_on_the_host_before_the_tests(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - grep -x 'odd 1 0' $PREFIX/share/linked\n",
        staged={
            "bin/.odd-post-link.sh":
            'echo "$PKG_NAME $PKG_VERSION $PKG_BUILDNUM" > "$PREFIX/share/linked"\n'
        },
    )  # fmt: skip

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_a_failing_post_link_script_is_a_failing_install(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - 'true'\n",
        staged={"bin/.odd-post-link.sh": "exit 4\n"},
    )

    ran = run_local(tmp_path)

    assert (ran.status, "odd's post-link script failed" in ran.out) == (1, True), ran.out
    assert outcomes(tmp_path) == {
        "install": ("failed", "exit-status"),
        "commands[0]: true": ("skipped", "not-reached"),
    }


def test_a_failing_activation_script_is_a_failing_install(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - 'true'\n",
        staged={"etc/conda/activate.d/odd.sh": "export ODD=1\nfalse\n"},
    )

    ran = run_local(tmp_path)

    assert (ran.status, "cannot be activated" in ran.out) == (1, True), ran.out


PACKAGE_VARIABLES = {
    "etc/conda/env_vars.d/a.json": '{"ODD": "a", "NUMBER": 3, "PATH": "/none", '
    '"QUOTE": "it\'s $X"}',
    "etc/conda/env_vars.d/b.json": '{"ODD": "b", "SUBDIR": "***unset***"}',
    "etc/conda/activate.d/odd.sh": 'test "$ODD" = b\nexport SEEN=$ODD\n',
}
BOX = '[hosts.box]\nkind = "docker"\nsubdir = "linux-64"\nimage = "manualbuild/debian-12:test"\n'


@pytest.fixture(params=["here", pytest.param("box", marks=pytest.mark.docker)])
def here_and_in_a_box(request: pytest.FixtureRequest) -> str:
    """A matrix of this machine, and one of a container."""
    if request.param == "box":
        request.getfixturevalue("engine")
        return BOX
    return '[hosts.here]\nkind = "local"\n'


def check_package_variables(tmp_path: Path, matrix: str, channel: str) -> None:
    write_package(
        tmp_path,
        "test:\n  requires:\n    - tool\n  commands:\n"
        '    - test "$ODD $NUMBER $SEEN $TOOL" = "b 3 b 1"\n'
        "    - test \"$QUOTE\" = 'it'\\''s $X'\n"
        '    - test -z "${SUBDIR-}"\n    - ls > list.txt\n    - test -z "$ODD"\n',
        staged=PACKAGE_VARIABLES,
    )
    (tmp_path / "local.toml").write_text(matrix)

    ran = run_local(tmp_path, "--channel", channel)

    assert ran.status == 1, ran.out
    found = [said for _, said in sorted(outcomes(tmp_path).items())]
    assert found == [("passed", "ok")] * 4 + [("failed", "exit-status"), ("passed", "ok")], ran.out


@pytest.fixture
def tool(tmp_path: Path) -> str:
    """The URL of a channel with a package that sets a variable."""
    files = {"etc/conda/env_vars.d/tool.json": builder.Staged(data=b'{"TOOL": "1"}')}
    built = builder.Built(
        recipe=None, files=files, subdir="noarch", name="tool", version="5.0", depends=()
    )
    builder.write(built, tmp_path / "tool", ".conda")
    index_channel(tmp_path / "tool")
    return (tmp_path / "tool").as_uri()


def test_variables_that_packages_set_are_there(tmp_path: Path, tool: str) -> None:
    check_package_variables(tmp_path, '[hosts.here]\nkind = "local"\n', tool)


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_variables_that_packages_set_are_there_in_a_container(tmp_path: Path, tool: str) -> None:
    check_package_variables(tmp_path, BOX, tool)


def test_variables_of_the_build_environment_are_set_after_it(tmp_path: Path) -> None:
    environments = []
    for name in ("one", "two"):
        folder = tmp_path / name / "etc/conda/env_vars.d"
        folder.mkdir(parents=True)
        (folder / "x.json").write_text(json.dumps({"WHICH": name, name: "y"}))
        environments.append(
            LinkedEnvironment(path=str(tmp_path / name), prefix=str(tmp_path / name), packages=())
        )
    one, two = environments

    text = f"set -e\n{preamble.activate(one)}{preamble.activate_too(two)}echo $WHICH $one $two"

    assert command("bash", "-c", text, cwd=tmp_path).out == "two y y\n"
    assert [windows.activate(one).splitlines()[1:], windows.activate(two).splitlines()[1:]] == [
        ['set "WHICH=one"', 'set "one=y"'],
        ['set "WHICH=two"', 'set "two=y"'],
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON."),
        ("[]", "is no JSON object."),
        ('{"A": ["x"]}', "the value of A is no text."),
        ('{"A": true}', "the value of A is no text."),
        ('{"A": null}', "the value of A is no text."),
        ('{"A; touch x": "1"}', "'A; touch x' is no name for a variable."),
        ('{"A": "' + "x" * 70_000 + '"}', "cannot be read: it is too large."),
        ("link", "leads out of the environment."),
        ("loop", "cannot be read: it is a link."),
    ],
)
def test_variables_that_cannot_be_read_fail_the_activation(
    tmp_path: Path, text: str, says: str
) -> None:
    folder = tmp_path / "environment/etc/conda/env_vars.d"
    folder.mkdir(parents=True)
    path = folder / "x.json"
    if text == "link":
        (tmp_path / "secret.json").write_text('{"SECRET": "1"}')
        path.symlink_to(tmp_path / "secret.json")
    elif text == "loop":
        path.symlink_to(path)
    else:
        path.write_text(text)
    prefix = str(tmp_path / "environment")
    environment = LinkedEnvironment(path=prefix, prefix=prefix, packages=())

    ran = command("bash", "-c", f"set -e\n{preamble.activate(environment)}echo on", cwd=tmp_path)

    assert (ran.status, "on\n" in ran.out) == (1, False)
    assert says in ran.out
    assert windows.activate(environment).endswith("exit 1\n")


def test_a_package_whose_variables_cannot_be_read_fails(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - 'true'\n",
        staged={"etc/conda/env_vars.d/odd.json": "odd"},
    )

    ran = run_local(tmp_path)

    assert (ran.status, outcomes(tmp_path)["install"][0]) == (1, "failed"), ran.out
    assert "etc/conda/env_vars.d/odd.json is no JSON." in ran.out


def test_activation_and_the_documented_variables_are_there(tmp_path: Path) -> None:
    names = (
        "PREFIX CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_BUILD CONDA_BUILD_STATE PKG_NAME PKG_VERSION"
        " PKG_BUILDNUM PKG_BUILD_STRING RECIPE_DIR SRC_DIR SUBDIR ARCH CPU_COUNT SHLIB_EXT"
        " PKG_CONFIG_PATH PYTHONNOUSERSITE target_platform"
    )
    write_package(
        tmp_path,
        "test:\n  commands:\n"
        f'    - for name in {names}; do test -n "${{!name}}" || exit 9; done\n'
        "    - test $ODD = active\n"
        "    - test $PWD = $SRC_DIR\n"
        '    - test $(printf %s "$PREFIX" | wc -c) = 255\n',
        staged={"etc/conda/activate.d/odd.sh": "export ODD=active\n"},
        info={"info/hash_input.json": '{"target_platform": "linux-64"}'},
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_what_activation_does_not_export_is_gone_as_in_conda_build(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n"
        '    - test "$SHOWN" = yes\n'
        '    - test -z "$HIDDEN"\n'
        "    - '! declare -F helper'\n"
        "    - '[[ $- != *u* ]]'\n",
        staged={
            "etc/conda/activate.d/odd.sh": "export SHOWN=yes\nHIDDEN=yes\nset -u\nhelper() { :; }\n"
        },
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


_STATE = """\
env -u _ | sort
grep -E '^(Sig(Ign|Cgt|Blk)|Seccomp|CapEff|NoNewPrivs):' /proc/self/status
for fd in /proc/$$/fd/*; do [ ! -e "$fd" ] || echo "${fd##*/} $(readlink "$fd")"; done \\
  | sed 's/[0-9]*]$/]/'
read -r _ _ _ _ group session _ </proc/$$/stat; echo apart $((group - session))
umask; ulimit -a; echo "$-|$0|$BASH_SOURCE|$#|$SHLVL|$PWD"; set -o; shopt; trap; declare -F
compgen -v | grep -Ev '^(_|BASH.*|PIPESTATUS|[A-Z]*SECONDS|EPOCH.*|S?RANDOM|LINENO|PPID)$'
"""


def test_commands_start_with_the_same_whether_there_is_anything_to_activate(
    tmp_path: Path, here_and_in_a_box: str
) -> None:
    seen = []
    for kind, staged in (("plain", {}), ("full", {"etc/conda/activate.d/none.sh": ":\n"})):
        place = tmp_path / kind
        place.mkdir()
        write_package(
            place,
            "test:\n  commands:\n    - exec 2>&1\n    - . ./state.sh\n  files:\n    - state.sh\n",
            {"state.sh": _STATE},
            staged=staged,
        )
        (place / "local.toml").write_text(here_and_in_a_box)
        ran = run_local(place)
        assert ran.status == 0, ran.out
        (log,) = (place / "manualbuild-report/logs").rglob("*state*")
        text = log.read_text()
        for name in ("PREFIX", "SRC_DIR", "HOME", "MANUALBUILD_RUN_ID"):
            (value,) = re.findall(f"^{name}=(.*)$", text, re.MULTILINE)
            text = text.replace(value, name)
        seen.append([line for line in text.splitlines() if not line.startswith("+")])

    assert "apart 0" in seen[0]
    assert seen[0] == seen[1]


def test_programs_of_a_package_do_not_start_its_tests(
    tmp_path: Path, here_and_in_a_box: str
) -> None:
    liar = "#!/bin/sh\necho lied\nexit 0\n"
    names = ("bash", "cat", "chmod", "env", "mv", "perl", "printf", "rm", "setsid", "sh")
    staged = {f"bin/{name}": liar for name in names}
    write_package(
        tmp_path,
        "test:\n  commands:\n    - test -x $PREFIX/bin/env\n    - (exit 3)\n",
        staged=staged,
    )
    (tmp_path / "local.toml").write_text(here_and_in_a_box)

    run_local(tmp_path)

    found = outcomes(tmp_path)
    assert found["commands[1]: (exit 3)"] == ("failed", "exit-status")
    assert found["commands[0]: test -x $PREFIX/bin/env"] == ("passed", "ok")


@pytest.mark.parametrize("staged", [{}, {"etc/conda/activate.d/none.sh": ":\n"}], ids=["", "full"])
def test_a_program_that_wants_a_session_of_its_own_is_waited_for(
    tmp_path: Path, here_and_in_a_box: str, staged: dict[str, str]
) -> None:
    # The leader of a process group gets one by a fork alone, and setsid(1) ends with 0 then.
    write_package(tmp_path, "test:\n  commands:\n    - exec setsid sh -c 'exit 5'\n", staged=staged)
    (tmp_path / "local.toml").write_text(here_and_in_a_box)

    run_local(tmp_path)

    assert outcomes(tmp_path)["commands[0]: exec setsid sh -c 'exit 5'"] == (
        "failed",
        "exit-status",
    )


@pytest.mark.parametrize(
    "function",
    [":", 'real_mark "${1%% *} 0"'],
    ids=["of-another-tool", "that-says-that-all-went-well"],
)
def test_a_function_of_an_activation_script_does_not_speak_for_us(
    tmp_path: Path, function: str
) -> None:
    script = f'eval "real_$_mb_define"\nmark() {{ {function}; }}\nexport -f mark\n'
    write_package(
        tmp_path,
        "test:\n  commands:\n    - 'true'\n    - (exit 3)\n",
        staged={"etc/conda/activate.d/odd.sh": script},
    )

    run_local(tmp_path)

    found = outcomes(tmp_path)
    assert found["install"] == found["commands[0]: true"] == ("passed", "ok")
    assert found["commands[1]: (exit 3)"] == ("failed", "exit-status")


@pytest.mark.parametrize("way", ["activate.d", "variant"])
def test_a_file_that_every_bash_reads_does_not_get_to_read_the_tests(
    tmp_path: Path, way: str
) -> None:
    # It takes the script from the standard input and says of each check that it went on.
    evil = tmp_path / "evil.sh"
    evil.write_text(
        '[ -z "${SEEN-}" ] || return 0; export SEEN=1; text=$(cat); eval "$(printf \'%s\' "$text"'
        " | grep -E '^(_mb_mark|exec 200|[{] _mb_mark)')\"; exit 0\n"
    )
    staged = {"etc/conda/activate.d/evil.sh": f"export BASH_ENV={evil}\n"}
    write_package(
        tmp_path,
        'test:\n  commands:\n    - (exit 3)\n    - test -n "$BASH_ENV"\n',
        staged=staged if way == "activate.d" else {},
        info={"info/hash_input.json": json.dumps({"BASH_ENV": str(evil)})},
    )

    run_local(tmp_path)

    assert outcomes(tmp_path)["commands[0]: (exit 3)"] == ("failed", "exit-status")


def test_variables_of_the_variant_are_no_words_to_the_shell_that_starts_the_tests(
    tmp_path: Path, here_and_in_a_box: str
) -> None:
    liar = "#!/bin/sh\necho lied\nexit 0\n"
    variant = dict.fromkeys(("_mb_bash", "_mb_env", "_mb_setsid", "_mb_work"), "/bin/true")
    variant |= {"OPTIND": "odd", "IFS": "/", "UID": "odd", "PS4": "$(exit 1)"}
    write_package(
        tmp_path,
        "test:\n  commands:\n    - test -e $PREFIX/bin/liar\n    - (exit 3)\n",
        staged={"bin/liar": liar},
        info={"info/hash_input.json": json.dumps(variant)},
    )
    (tmp_path / "local.toml").write_text(here_and_in_a_box)

    run_local(tmp_path)

    found = outcomes(tmp_path)
    assert found["commands[0]: test -e $PREFIX/bin/liar"] == ("passed", "ok")
    assert found["commands[1]: (exit 3)"] == ("failed", "exit-status")


@pytest.mark.parametrize(
    "link", ["etc/conda", "etc/conda/activate.d", "etc"], ids=["conda", "activate.d", "etc"]
)
def test_scripts_that_a_link_leads_to_are_run(tmp_path: Path, link: str) -> None:
    rest = "etc/conda/activate.d/odd.sh".removeprefix(link)
    write_package(
        tmp_path,
        "test:\n  commands:\n    - test $ODD = active\n",
        staged={f"share/linked{rest}": "export ODD=active\n"},
        links={link: f"{'../' * link.count('/')}share/linked"},
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_imports_are_heard_whatever_activation_leaves_in_its_shell(
    tmp_path: Path, python_channel: str
) -> None:
    write_package(
        tmp_path,
        "test:\n  imports:\n    - json\n    - zz_no_such\n",
        staged={"etc/conda/activate.d/odd.sh": "IFS=:0123456789\nset -uCf -o pipefail\n"},
    )

    run_local(tmp_path, "--channel", python_channel, "--check-timeout", "30")

    assert outcomes(tmp_path) == {
        "install": ("passed", "ok"),
        "imports: json": ("passed", "ok"),
        "imports: zz_no_such": ("failed", "exit-status"),
    }
