"""Whatever the commands, they end here as in the script that conda-build makes of them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_manualbuild import checks, hosts, model
from pytest_manualbuild.execution.results import Place
from pytest_manualbuild.execution.section import Limits, SectionRun
from pytest_manualbuild.hosts.local import LocalConnection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.matrix import local_subdir
from pytest_manualbuild.model import Artifact, Host, PlannedPackage
from pytest_manualbuild.records import Cause, CheckResult, LinkedEnvironment, Outcome

# Whole commands, and pieces that are statements only together with others, or never.
PIECES = r"""
true|false|! true|! false|false || true|false && true|true && false|true # it's {|# don't (
(exit 3)|(exit 0)|exit 0|exit 4|export A=1|test "$A" = 1|x=$(false)|export x=$(false)
echo out; echo err >&2|{ false; } || true|{ false; }|if false; then true; fi
if true; then false; fi|if true; then|if false; then|else|fi|for i in 1 2; do|while false; do
done|case a in|a) true;;|esac
f() {|f() { false; }|f() ( exit 5 )|f|f || true|f && true|}|{|cat <<EOF|cat <<'E F'|EOF|E F
echo 'open|close'|echo "open|close"|echo \|test 1 = 2|[ 1 = 1 ]|[[ a = b ]]|((0))|((1))|let 1-1
set +e|set -e|set -u|set -o pipefail|echo ${nothing}|echo ${nothing?bad}|cd /|cd /nowhere
trap 'exit 5' EXIT|trap 'exit 0' EXIT|trap 'echo bye' EXIT|trap 'echo err' ERR|trap - EXIT
sleep 0 & wait|false & wait $!|wait|exec true|exec false|return 0|return 3|shift|unset A
readonly A=1
kill -9 $$|kill -TERM $$|bash -c 'exit 7'|sh -c 'kill -9 $$'|no-such-program|/|./nothing
mkdir -p d|cd d|cd $_|test $? = 0|test $? = 1|echo $_|test "$_" = d|set -- a b|test $# = 2
"""
COMMANDS = [one for one in re.split(r"(?<!\|)\|(?!\|)|\n", PIECES) if one]
COMMANDS += ["false | true", "true | false", "false | cat", "test ${PIPESTATUS[0]} = 1"]
ARTIFACT = Artifact(
    path="", subdir="noarch", filename="a-1-0.conda", sha256="0" * 64, size=0, name="a",
    version="1", build="0", build_number=0, noarch="generic", depends=(), constrains=(),
)  # fmt: skip
numbers = itertools.count()


@pytest.fixture(scope="module")
def connection() -> Iterator[tuple[LocalConnection, Path]]:
    """One connection to this machine for all examples, and the folder of its run."""
    run = Run.begin()
    host = Host(name="here", kind="local", subdir=local_subdir())
    made = LocalConnection(host, run)
    yield made, run.folder
    made.close()
    hosts.sweep(run)


def ours(connection: LocalConnection, root: Path, section: model.TestSection) -> list[CheckResult]:
    """Run a test section as we do; return the results of its commands."""
    folder = root / str(next(numbers))
    prefix = folder / "prefix"
    (prefix / "conda-meta").mkdir(parents=True)
    planned = PlannedPackage(
        artifact=ARTIFACT, label="a", sections=(section,), checks=checks.checks((section,))
    )
    given_results: list[CheckResult] = []
    SectionRun(
        planned,
        LinkedEnvironment(path=str(prefix), prefix=str(prefix), packages=()),
        Place(host="here", folder=str(folder), logs=folder / "logs", evidence=folder),
        given_results.append,
        limits=Limits(check_s=20.0),
        stopped=lambda: False,
        warn=lambda _: None,
    ).run(connection, {})
    assert [result.check for result in given_results] == [check.name for check in planned.checks]
    return given_results[1:]


def plain(commands: list[str]) -> int:
    """Return the exit status of the script that conda-build writes (create_test.py)."""
    with tempfile.TemporaryDirectory() as folder:
        text = "\n\nset -ex\n\n\n\n" + "".join(f"{line}\n" for line in commands) + "exit 0\n"
        (Path(folder) / "run_test.sh").write_text(text)
        done = subprocess.run(
            ["/bin/bash", "-e", "run_test.sh"], cwd=folder, stdin=subprocess.DEVNULL, timeout=20,
            capture_output=True, check=False, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        )  # fmt: skip
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=8))
@example(["trap 'exit 5' EXIT", "true"])
@example(["if true; then", "cat <<EOF", "fi", "EOF", "false", "fi"])
@example(["false | true", "if test ${PIPESTATUS[0]} = 1; then", "true", "fi", "false"])
@example(["true", "echo \\"])
@example(["true || # always", "false"])
@example(["false && # never", "false", "true"])
@example(["[[ a = a", "]]", "false"])
@example(["echo $[1 +", "1]", "false"])
@example(["trap 'exit 0' EXIT", "false"])
@example(["cat <<EOF", "trap 'exit 5' EXIT"])
@example(["trap 'echo err' ERR", "cat <<EOF", "false"])
@example(["! true", "false && true", "true"])
def test_commands_end_as_in_conda_build_s_script(
    connection: tuple[LocalConnection, Path], commands: list[str]
) -> None:
    results = ours(*connection, model.TestSection(commands=tuple(commands)))

    status = plain(commands)
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if failed and status == 0:
        assert "trap 'exit 0' EXIT" in commands  # docs/semantics.md, 12a: it hides what failed
        return
    assert bool(failed) == (status != 0)
    if failed:
        assert {result.exit_status for result in failed} == {status}
    # What passed ran before what failed, and what did not run comes last.
    order = [Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED]
    ranks = [order.index(result.outcome) for result in results]
    assert ranks == sorted(ranks)
    wanted = Cause.NOT_REACHED if failed else Cause.EXIT_0
    assert {one.cause for one in results if one.outcome is Outcome.SKIPPED} <= {wanted}
