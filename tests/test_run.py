"""Whole runs through pytest: what passes, what fails, what is an error, and what the gate says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from defusedxml import ElementTree

from conftest import (
    LOCAL,
    ROOT,
    Ran,
    command,
    manualbuild,
    recipe,
    results,
    run_local,
    run_pytest,
    write_package,
)
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.hosts.runs import cache_folder
from pytest_manualbuild.recipe.idle import idle_file

CI = str(ROOT / "tests" / "ci.toml")
DEBIANS = "debian-1?"


def test_each_command_has_a_result_and_what_did_not_run_is_not_passed(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - export A=1\n    - test $A = 1\n"
        "    - echo out; echo err >&2; exit 3\n    - echo never\n",
    )

    ran = run_local(tmp_path)

    assert ran.status == 1, ran.out
    assert results(tmp_path / "manualbuild-report") == {
        ("here", "install"): ("passed", "ok"),
        ("here", "commands[0]: export A=1"): ("passed", "ok"),
        ("here", "commands[1]: test $A = 1"): ("passed", "ok"),
        ("here", "commands[2]: echo out; echo err >&2; exit 3"): ("failed", "exit-status"),
        ("here", "commands[3]: echo never"): ("skipped", "not-reached"),
    }
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 1


def test_exit_0_in_the_middle_does_not_pass_what_follows(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - exit 0\n    - 'false'\n")

    ran = run_local(tmp_path)

    assert (ran.status, "not as in conda-build (exit-0)" in ran.out) == (8, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[1]: false"] == ("skipped", "exit-0")
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "a skip never satisfies" in verdict.out) == (8, True)


def test_commands_that_make_a_statement_together(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "test:\n  commands:\n    - if true; then\n    - echo yes\n    - fi\n"
        "    - cat <<EOF\n    - text\n    - EOF\n    - 'true'\n",
    )

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out


def test_a_recipe_without_tests_proves_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "about:\n  summary: none\n")

    ran = run_local(tmp_path)

    assert (ran.status, "not as in conda-build (nothing-ran)" in ran.out) == (8, True), ran.out
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_a_test_that_hangs_is_killed_in_time(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - sleep 600\n    - echo never\n")

    began = time.monotonic()
    ran = run_local(tmp_path, "--check-timeout", "1")

    assert (ran.status, time.monotonic() - began < 30) == (1, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "commands[0]: sleep 600"] == ("failed", "timeout")
    assert found["here", "commands[1]: echo never"] == ("skipped", "not-reached")


def test_standard_input_is_empty_and_the_caller_is_not_seen(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        'test:\n  commands:\n    - test -z "$(cat)"\n    - test -z "$ANACONDA_API_TOKEN"\n'
        '    - test -z "$MANUALBUILD_CACHE"\n    - test -f $PREFIX/share/odd.txt\n',
    )
    os.environ["ANACONDA_API_TOKEN"] = "canary"
    try:
        ran = run_local(tmp_path)
    finally:
        del os.environ["ANACONDA_API_TOKEN"]

    assert ran.status == 0, ran.out


def test_no_file_of_the_recipe_runs_on_the_controller(tmp_path: Path) -> None:
    bad = "import pathlib\npathlib.Path(__file__).with_name('acted').touch()\n"
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", {"conftest.py": bad})

    ran = run_pytest("--recipe", ".", "--matrix", "../local.toml", "--evidence", "../report",
                     cwd=folder)  # fmt: skip

    assert not (folder / "acted").exists()
    assert ran.status == 0, ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--recipe", "nowhere"), "no such folder"),
        (("--recipe", "recipe", "--matrix", "typo.toml"), "cannot be read"),
        (("--recipe", "recipe", "--matrix", "local.toml", "--on", "x*"), "no host has such a name"),
        (("--recipe", "recipe", "--artifacts", "none"), "no package to test"),
        (("--recipe", "recipe", "--evidence", "build_artifacts"), "not a report of this tool"),
        (("--recipe", "recipe", "--evidence", "recipe"), "lies in the recipe's folder"),
        (("--recipe", "recipe/meta.yaml", "--evidence", "recipe/a/b"), "in the recipe's folder"),
        (("--recipe", "recipe", "--junitxml", "recipe/junit.xml"), "lies in the recipe's folder"),
        (("--recipe", "x/recipe", "--evidence", "x"), "it is the copy in the"),
        (("--recipe", "recipe", "--channel", " "), "--channel is empty"),
        (("--recipe", ""), "--recipe is empty"),
        (("--recipe", "recipe", "--artifacts", ""), "--artifacts is empty"),
        (("--recipe", "recipe", "--evidence", ""), "--evidence is empty"),
        (("--recipe", "recipe", "--artifacts", "recipe/meta.yaml"), "it is no folder"),
        (("--recipe", "recipe", "recipe"), "collects only the recipe"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    shutil.copytree(tmp_path / "recipe", tmp_path / "x/recipe")

    ran = run_pytest(*words, cwd=tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (4, False), ran.out
    assert says in ran.out
    assert (tmp_path / "recipe" / "meta.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "--recipe", ""), "--recipe: it is empty"),
        (("plan", "--recipe", "x", "--artifacts", ""), "--artifacts: it is empty"),
        (("hosts", "list", "--timeout", "0"), "--timeout: 0 must be a number above 0"),
        (("hosts", "probe", "--timeout", "nan"), "--timeout: nan must be a number above 0"),
    ],
)
def test_a_value_that_means_nothing_is_refused(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    ran = manualbuild(*words, cwd=tmp_path)

    assert (ran.status, says in ran.out) == (2, True), ran.out


def test_a_recipe_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    (folder / "meta.yaml").rename(tmp_path / "elsewhere.yaml")
    (folder / "meta.yaml").symlink_to("../elsewhere.yaml")

    ran = run_local(tmp_path)

    assert (ran.status, "None" in ran.out) == (4, False), ran.out
    assert "a recipe may not read files outside of its folder" in ran.out


@pytest.mark.parametrize("program", ["pytest", "plan"])
def test_a_pipe_among_the_packages_is_not_waited_for(tmp_path: Path, program: str) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    os.mkfifo(tmp_path / "build_artifacts/noarch/pipe-1-0.conda")

    words = ("plan", "--recipe", "recipe", "--matrix", "local.toml")
    ran = run_local(tmp_path) if program == "pytest" else manualbuild(*words, cwd=tmp_path)

    assert (ran.status, "pipe-1-0.conda: cannot be read: it is no file" in ran.out) == (4, True)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = [sys.executable, "-m", "pytest_manualbuild.cli", "verify", "report"]
    script = f"rmdir {shlex.quote(str(gone))}; exec {shlex.join(program)}"

    ran = command("sh", "-c", script, cwd=gone)

    assert (ran.status, ran.out.count("\n")) == (4, 1), ran.out
    assert "current folder is not there" in ran.out


def test_a_failure_says_how_exactly_this_check_is_repeated(tmp_path: Path) -> None:
    commands = "    - 'true'\n" * 10 + "    - 'false'\n"
    write_package(tmp_path, f"test:\n  commands:\n{commands}")

    ran = run_local(tmp_path, "-k", "install or commands")
    again = re.search(r"To repeat this check: pytest (.*)", ran.out)

    assert again is not None, ran.out
    words = shlex.split(again[1])
    ran = run_pytest(*words, cwd=tmp_path)
    assert (ran.status, "1 failed, 11 deselected" in ran.out) == (1, True), ran.out
    words[words.index("-k") + 1] = words[-1].replace("commands-10", "commands-1")
    assert "1 passed, 11 deselected" in run_pytest(*words, cwd=tmp_path).out
    said = results(tmp_path / "manualbuild-report")
    assert said["here", "commands[10]: false"] == ("failed", "exit-status")


def test_narrowed_runs_are_refused_with_that_reason(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n    - 'true'\n")

    assert run_local(tmp_path, "-k", "install").status in {0, 8}
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "not selected (-k" in verdict.out) == (1, True), verdict.out

    assert run_local(tmp_path, "-x").status == 1
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "(-x)" in verdict.out) == (1, True), verdict.out


def test_collect_only_touches_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_local(tmp_path, "--collect-only", "-q")

    assert (ran.status, "recipe::here::odd::commands-0" in ran.out) == (0, True), ran.out
    assert not (tmp_path / "manualbuild-report").exists()


def test_the_default_matrix_is_not_enough_for_the_gate(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")

    ran = run_pytest("--recipe", "recipe", cwd=tmp_path)

    assert (ran.status, "not sufficient for upload" in ran.out) == (0, True), ran.out
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_outputs_are_tested_with_each_other_and_not_with_what_a_channel_calls_so(
    tmp_path: Path,
) -> None:
    import builder

    recipe = tmp_path / "recipe"
    recipe.mkdir()
    outputs = [
        {
            "name": name,
            "build": {"noarch": "generic"},
            "requirements": {"run": needs},
            "test": {"commands": ["test -f $PREFIX/share/a.txt"]},
        }
        for name, needs in (("liba", []), ("libb", ["liba"]))
    ]
    meta = {"package": {"name": "both", "version": "1"}, "outputs": outputs}
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    (tmp_path / "local.toml").write_text(LOCAL)

    def built(name: str, file: str, into: str, *depends: str) -> None:
        files = {f"share/{file}": builder.Staged(data=into.encode())}
        one = builder.Built(
            recipe=None, files=files, subdir="noarch", name=name, version="1", depends=depends
        )
        builder.write(one, tmp_path / into, ".conda")

    built("liba", "a.txt", "old")  # other bytes under the same name, version and build
    index_channel(tmp_path / "old")
    built("liba", "lost.txt", "build_artifacts")
    built("libb", "b.txt", "build_artifacts", "liba")

    ran = run_local(tmp_path, "--channel", (tmp_path / "old").as_uri())

    assert ran.status == 1, ran.out
    report = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())["predicate"]
    planned = [one["artifact"] for one in report["plan"]["packages"]]
    used = {
        (package["name"], package["sha256"])
        for host in report["hosts"]
        for environment in host["environments"].values()
        for package in environment["packages"]
    }
    assert used == {(one["name"], one["sha256"]) for one in planned}
    failed = [r["package"] for r in report["results"] if r["outcome"] == "failed"]
    assert failed == ["noarch/liba-1-0.conda", "noarch/libb-1-0.conda"]


WATCHER = """\
import pytest

def pytest_runtest_setup(item):
    item.watched = True

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    assert item.watched
    return report

def pytest_exception_interact(node):
    print("saw", node.name)
"""


@pytest.mark.parametrize("hooks", [WATCHER, WATCHER[WATCHER.index("def pytest_exc") :]])
def test_a_plugin_that_watches_items_sees_checks_as_well(tmp_path: Path, hooks: str) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n")
    (tmp_path / "watcher.py").write_text(hooks)

    ran = run_local(tmp_path, "-p", "watcher", "-s")

    assert (ran.status, ran.out.count("saw ")) == (1, 1), ran.out
    assert "saw commands-1" in ran.out


def test_durations_are_those_of_the_checks(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - sleep 0.3\n    - 'true'\n")

    out = run_local(tmp_path, "--durations=0", "--durations-min=0.2").out

    slowest = [line.split()[1:] for line in out.splitlines() if re.match(r"0\.\d\ds ", line)]
    assert slowest == [["call", "recipe::here::odd::commands-0"]], out


def test_python_imports_go_on_after_a_failure(tmp_path: Path, python_channel: str) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - python\ntest:\n  imports:\n    - json\n    - no_such_module\n"
        "    - os\n    - dies\n    - zipfile\n  files:\n    - dies.py\n",
        {"dies.py": "import os\nos._exit(0)\n"},
    )

    ran = run_local(tmp_path, "--channel", python_channel)

    assert ran.status == 1, ran.out
    outcomes = {
        check: said[0] for (_, check), said in results(tmp_path / "manualbuild-report").items()
    }
    assert outcomes == {
        "install": "passed",
        "imports: dies": "failed",
        "imports: json": "passed",
        "imports: no_such_module": "failed",
        "imports: os": "passed",
        "imports: zipfile": "passed",
    }


FORGETFUL = "import sys\nsys.modules['traceback'].print_exc\n"


def test_an_import_finds_nothing_loaded_that_python_did_not_load(
    tmp_path: Path, python_channel: str
) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - python\ntest:\n  imports:\n    - forgetful\n    - json\n"
        "    - broken\n    - again\n"
        "  files:\n    - forgetful.py\n    - broken.py\n    - again.py\n",
        {
            "forgetful.py": FORGETFUL,
            "broken.py": "raise ImportError\n",
            "again.py": FORGETFUL,
        },
    )

    assert run_local(tmp_path, "--channel", python_channel).status == 1
    outcomes = results(tmp_path / "manualbuild-report")
    assert {check: said[0] for (_, check), said in outcomes.items()} == {
        "install": "passed",
        "imports: forgetful": "failed",
        "imports: json": "passed",
        "imports: broken": "failed",
        "imports: again": "failed",
    }


def examples(built: Path, name: str, cwd: Path, *words: str) -> Ran:
    return run_pytest(
        "--recipe", str(recipe(name)), "--artifacts", str(built / name), "--matrix", CI,
        "--on", DEBIANS, *words, cwd=cwd,
    )  # fmt: skip


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_greet_passes_on_three_debians_with_and_without_workers(
    built: Path, tmp_path: Path
) -> None:
    reports = []
    for words in ((), ("-n", "3")):
        ran = examples(built, "greet", tmp_path, "--junitxml", "copy.xml", *words)
        assert ran.status == 0, ran.out
        assert (tmp_path / "copy.xml").read_bytes() == (
            tmp_path / "manualbuild-report/junit.xml"
        ).read_bytes()
        root = ElementTree.fromstring((tmp_path / "copy.xml").read_text())
        reports.append(
            [(suite.get("name"), case.get("classname"), case.get("name"))
             for suite in root for case in suite.iter("testcase")]
        )  # fmt: skip
    assert reports[0] == reports[1]
    assert len(reports[0]) == 3 * 2 * 6


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_an_undeclared_glibc_fails_where_it_is_missing(built: Path, tmp_path: Path) -> None:
    ran = examples(built, "greet-undeclared", tmp_path)

    assert ran.status == 1, ran.out
    outcomes = {
        host: said[0]
        for (host, check), said in results(tmp_path / "manualbuild-report").items()
        if check != "install"
    }
    assert outcomes == {"debian-11": "failed", "debian-12": "failed", "debian-13": "passed"}
    assert "GLIBC_2.38" in (tmp_path / "manualbuild-report/junit.xml").read_text()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_declared_glibc_is_not_applicable_where_it_is_missing(
    built: Path, tmp_path: Path
) -> None:
    ran = examples(built, "greet-declared", tmp_path)

    assert ran.status == 8, ran.out
    causes = {host: said[1] for (host, _), said in results(tmp_path / "manualbuild-report").items()}
    assert causes == {
        "debian-11": "not-applicable", "debian-12": "not-applicable", "debian-13": "ok"
    }  # fmt: skip


def test_a_python_package_passes_with_a_python_made_from_the_one_that_runs(
    built: Path, tmp_path: Path
) -> None:
    import packages

    channel = packages.python_channel(tmp_path / "channel")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_pytest(
        "--recipe", str(recipe("purehello")), "--artifacts", str(built / "purehello"),
        "--matrix", "local.toml", "--channel", channel, cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out


@pytest.mark.docker
@pytest.mark.usefixtures("engine", "shared")
def test_a_python_package_passes_in_containers(
    built: Path, tmp_path: Path, python_channel: str
) -> None:
    ran = examples(built, "purehello", tmp_path, "--channel", python_channel)

    assert ran.status == 0, ran.out


# Its own name: other runs on this engine are not ours to look at.
HOST = f"sleeper-{os.getpid()}"


def containers() -> set[str]:
    done = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=io.pytest-manualbuild.host={HOST}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def run_of(container: str) -> str:
    """Return the id of the run that a container belongs to."""
    wanted = '{{index .Config.Labels "io.pytest-manualbuild.run"}}'
    done = subprocess.run(
        ["docker", "inspect", "-f", wanted, container], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def remains(run_id: str) -> list[str]:
    """Return what is left of a run: containers, volumes, mounts, folders."""
    label = f"label=io.pytest-manualbuild.run={run_id}"
    found = []
    for words in (("ps", "-aq"), ("volume", "ls", "-q")):
        done = subprocess.run(
            ["docker", *words, "--filter", label], capture_output=True, text=True, check=True
        )
        found += [f"{words[0]} {line}" for line in done.stdout.split()]
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [line for line in mounts if run_id in line]
    return found + [str(path) for path in (cache_folder() / "runs").glob(run_id)]


def gone_in_time(run_id: str) -> None:
    """Wait until nothing is left: the engine removes the container of a dead shell by itself."""
    deadline = time.monotonic() + 20
    while (left := remains(run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_sleeping(engine: None, tmp_path: Path) -> Iterator[Start]:
    """Start a run on a container whose test sleeps; return when it sleeps."""
    del engine
    started = []

    def start(*words: str, engine_url: str = "") -> subprocess.Popen[bytes]:
        write_package(tmp_path, "test:\n  commands:\n    - sleep 60\n")
        text = f'[hosts.{HOST}]\nkind = "docker"\nsubdir = "linux-64"\n'
        text += 'image = "manualbuild/debian-12:test"\n'
        text += f'engine = "{engine_url}"\n' if engine_url else ""
        (tmp_path / "far.toml").write_text(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "far.toml", *words],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            # What a shell puts in the background is deaf to SIGINT, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 # no threads
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for one in containers():
                top = command("docker", "top", one, cwd=tmp_path)
                if "sleep 60" in top.out:
                    return process
        pytest.fail("the test never slept")

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.docker
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_host_that_goes_away_is_an_error_not_a_failure(
    start_sleeping: Start, tmp_path: Path, how: str
) -> None:
    # One that is paused is silent: that is waited for.
    process = start_sleeping("-p", "impatience")
    (container,) = containers()
    run_id = run_of(container)
    subprocess.run(["docker", how, container], check=True, capture_output=True)

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "host-lost")
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0
    gone_in_time(run_id)


@pytest.mark.docker
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_pass_and_no_container(
    start_sleeping: Start, tmp_path: Path, how: signal.Signals
) -> None:
    process = start_sleeping()
    (container,) = containers()
    run_id = run_of(container)
    process.send_signal(how)
    process.wait(timeout=60)

    assert process.returncode not in (0, 1)
    manualbuild("hosts", "sweep", cwd=tmp_path)
    gone_in_time(run_id)
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0


@pytest.mark.docker
def test_an_engine_that_goes_away_is_an_error_and_its_remains_are_swept(
    start_sleeping: Start, tmp_path: Path
) -> None:
    relay = f"{tmp_path}/engine.sock"
    # Stands between us and the real engine, so that the connection to it can be cut.
    script = [sys.executable, str(ROOT / "tests" / "relay.py"), relay]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        between.stdout.readline()
        process = start_sleeping(engine_url=f"unix://{relay}")
        (container,) = containers()
        run_id = run_of(container)
        between.kill()

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "host-lost")
    with subprocess.Popen(script, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        between.stdout.readline()
        manualbuild("hosts", "sweep", cwd=tmp_path)
        between.kill()
    gone_in_time(run_id)


@pytest.mark.docker
def test_a_killed_worker_is_an_error_and_the_gate_refuses(
    start_sleeping: Start, tmp_path: Path
) -> None:
    process = start_sleeping("-n", "1")
    (container,) = containers()
    run_id = run_of(container)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    for pid in Path(children).read_text().split():
        if b"sys.stdin.readline" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)

    assert process.wait(timeout=60) == 16
    found = results(tmp_path / "manualbuild-report")
    assert found[HOST, "commands[0]: sleep 60"] == ("error", "interrupted")
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "a worker crashed" in verdict.out) == (1, True), verdict.out
    gone_in_time(run_id)


def test_only_what_failed_is_run_again(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'false'\n")
    words = ("-p", "cacheprovider", "--recipe", "recipe", "--matrix", "local.toml")

    assert command(sys.executable, "-m", "pytest", *words, "-n", "0", cwd=tmp_path).status == 1
    ran = command(sys.executable, "-m", "pytest", *words, "--lf", cwd=tmp_path)

    assert (ran.status, "1 failed, 2 deselected" in ran.out) == (1, True), ran.out
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "2 of 3 checks were not selected" in verdict.out) == (1, True)


def test_files_of_a_recipe_cannot_steer_this_process(tmp_path: Path) -> None:
    acts = "import pathlib\npathlib.Path(__file__).with_name('acted').touch()\n"
    libraries = dict.fromkeys(("docker.py", "jinja2.py", "msgspec.py", "rich.py"), acts)
    folder = write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", libraries)

    ran = run_pytest("--recipe", ".", "--matrix", "../local.toml", "--evidence", "../report",
                     cwd=folder)  # fmt: skip
    assert ran.status == 0, ran.out
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = -k install\n")
    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", cwd=tmp_path)

    assert (ran.status, "own settings of pytest are not used" in ran.out) == (4, True), ran.out
    assert not (folder / "acted").exists()


def test_what_cannot_be_solved_is_the_package_s_failure_with_the_reason(
    tmp_path: Path, python_channel: str
) -> None:
    write_package(
        tmp_path,
        "requirements:\n  run:\n    - no-such-package >=2\ntest:\n  commands:\n    - 'true'\n",
    )

    ran = run_local(tmp_path, "--channel", python_channel)

    assert (ran.status, "no-such-package >=2" in ran.out, "__glibc" in ran.out) == (1, True, True)
    assert results(tmp_path / "manualbuild-report") == {
        ("here", "install"): ("failed", "unsolvable"),
        ("here", "commands[0]: true"): ("skipped", "not-reached"),
    }


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ("file:///no/such/channel", "is no folder"),
        ("http://127.0.0.1:1/channel", "A channel cannot be read"),
    ],
)
def test_a_channel_that_cannot_be_read_is_an_error(tmp_path: Path, channel: str, says: str) -> None:
    write_package(
        tmp_path, "requirements:\n  run:\n    - python\ntest:\n  commands:\n    - 'true'\n"
    )

    ran = run_local(tmp_path, "--channel", channel)

    assert (ran.status, says in " ".join(ran.out.split())) == (16, True), ran.out
    found = results(tmp_path / "manualbuild-report")
    assert set(found.values()) == {("error", "channel")}


def test_an_old_report_does_not_outlive_the_start_of_a_run(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    write_package(tmp_path, f"test:\n  commands:\n    - test ! -e {slow} || sleep 5\n")
    assert run_local(tmp_path, "--junitxml", "junit.xml").status == 0
    slow.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--junitxml", "junit.xml",
         "--matrix", "local.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    stale = [tmp_path / "junit.xml"]
    stale += [tmp_path / "manualbuild-report" / name for name in ("evidence.json", "junit.xml")]
    while any(path.exists() for path in stale) and process.poll() is None:
        assert time.monotonic() < deadline
    still_running = process.poll() is None
    process.kill()
    process.wait()

    assert still_running
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_an_error_and_leaves_no_report(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - head -c 500000 /dev/zero\n")
    (tmp_path / "small").mkdir()
    mounted = command(
        "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "small"), cwd=tmp_path
    )
    if mounted.status != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.out}")
    try:
        ran = run_local(tmp_path, "--evidence", "small/report")
        left = {path.name for path in (tmp_path / "small/report").iterdir()}
    finally:
        command("umount", str(tmp_path / "small"), cwd=tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (16, False), ran.out
    assert "the report cannot be written: No space left on device" in ran.out
    assert "evidence.json" not in left
    assert "junit.xml" not in left


@pytest.mark.parametrize("commands", ["''", "'# only a comment'"])
def test_commands_that_do_nothing_prove_nothing(tmp_path: Path, commands: str) -> None:
    write_package(tmp_path, f"test:\n  commands:\n    - {commands}\n")

    assert run_local(tmp_path).status == 8
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status, "tests nothing" in verdict.out) == (8, True), verdict.out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run_test.sh", "#!/bin/bash\n# TODO: write tests\nset -euo pipefail\nset +x\n"),
        ("run_test.py", '#!/usr/bin/env python\n"""Tests."""\n\npass  # later\n'),
    ],
)
def test_a_script_that_holds_nothing_proves_nothing(
    tmp_path: Path, python_channel: str, name: str, text: str
) -> None:
    write_package(tmp_path, "", {name: text})

    assert run_local(tmp_path, "--channel", python_channel).status == 8
    verdict = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert (verdict.status != 0, "tests nothing" in verdict.out) == (True, True), verdict.out


@pytest.mark.parametrize(
    ("extension", "text", "nothing"),
    [
        (".sh", "", True),
        (".sh", "\ufeff# a\n\n  # b \\\n", True),
        (".sh", "set -e; false\n", False),
        (".sh", "set -e -o pipefail\n", True),
        (".sh", "set -- $(false)\n", False),
        (".sh", "set -e \\\n  && false\n", False),
        (".sh", "true\n", False),
        (".py", "'''a\n\"b\" '''; pass\n# c", True),
        (".py", '"""a""" + x', False),
        (".py", "passed()", False),
        (".py", "import a", False),
        (".py", '"" "open', False),
        (".pl", "# a\n", True),
        (".pl", "1;\n", False),
        (".lua", "-- a\n", True),
        (".lua", "--[[ a\n]] error()\n", False),
        (".bat", "@echo off\r\nREM a\r\n:: b\r\n", True),
        (".bat", "@echo off & exit 1\r\n", False),
        (".r", "# a\n", True),
        (".unknown", "# a\nb\n", False),
    ],
)
def test_what_a_script_that_does_nothing_holds(extension: str, text: str, *, nothing: bool) -> None:
    assert idle_file(extension, text.encode()) is nothing


def test_a_key_that_nobody_knows_in_the_test_section_is_refused(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  comands:\n    - 'false'\n  commands:\n    - 'true'\n")

    ran = run_local(tmp_path)

    assert (ran.status, "unknown key 'comands'" in ran.out) == (4, True), ran.out


def test_a_matrix_without_a_host_for_the_packages_proves_nothing(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n", subdir="linux-aarch64")

    assert run_local(tmp_path).status == 8
    assert manualbuild("verify", "manualbuild-report", cwd=tmp_path).status == 8


def test_a_list_of_files_that_cannot_be_read_is_the_package_s_failure(tmp_path: Path) -> None:
    write_package(
        tmp_path, "test:\n  commands:\n    - 'true'\n", info={"info/paths.json": "nothing"}
    )

    assert run_local(tmp_path).status == 1
    found = results(tmp_path / "manualbuild-report")
    assert found["here", "install"] == ("failed", "uninstallable")


def test_a_prefix_that_scripts_would_have_to_quote_is_the_host_s_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - test -f $PREFIX/share/odd.txt\n")
    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path / "a cache"))

    ran = run_local(tmp_path)

    assert (ran.status, "MANUALBUILD_CACHE" in ran.out) == (16, True), ran.out


def test_what_the_system_says_of_a_path_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    long = "x" * 300
    for words in (("plan", "--recipe", long), ("verify", "report", "--policy", long),
                  ("hosts", "list", "--matrix", f"{long}.toml")):  # fmt: skip
        said = manualbuild(*words, cwd=tmp_path)
        assert (said.status, "Traceback" in said.out) == (4, False), said.out
    monkeypatch.setenv("MANUALBUILD_CACHE", "/proc/self/none")
    ran = run_local(tmp_path)
    assert (ran.status, "Traceback" in ran.out, "INTERNAL" in ran.out) == (4, False, False), ran.out
    monkeypatch.undo()
    (tmp_path / "recipe" / os.fsdecode(b"b\xff.txt")).touch()
    ran = run_local(tmp_path)
    assert (ran.status, "is not UTF-8" in ran.out) == (4, True), ran.out
