"""Packages that misbehave: each gets the right outcome in time, and disturbs nobody else."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import builder
import hostile
import pytest
import yaml

from conftest import LOCAL, Ran, results, run_local, run_pytest, write_package

CHECK_S = 6  # memory is not filled in no time on a loaded machine
AT_ONCE = 4
DOCKER = f"hostile-{os.getpid()}"
MATRICES = {
    "local": LOCAL,
    "docker": f'[hosts.{DOCKER}]\nkind = "docker"\nsubdir = "linux-64"\npids = 200\n'
    'memory = "512m"\nimage = "manualbuild/debian-12:test"\n',
}


def output(one: hostile.Hostile) -> dict[str, Any]:
    test: dict[str, Any] = {"commands": list(one.commands), "imports": list(one.imports)}
    test |= {"files": sorted(one.files)} if one.files else {}
    test |= {"script": f"{one.name}.py"} if one.script else {}
    return {
        "name": f"h-{one.name.replace('_', '-')}",
        "version": "1",
        "build": {"noarch": "generic"},
        "test": {key: value for key, value in test.items() if value},
    }


def build(cases: Sequence[hostile.Hostile], folder: Path) -> None:
    """Write one recipe with an output for each case, and the packages."""
    (folder / "recipe").mkdir()
    outputs = [output(one) for one in cases]
    meta = {"package": {"name": "hostile", "version": "1"}, "outputs": outputs}
    (folder / "recipe/meta.yaml").write_text(yaml.safe_dump(meta, width=10**6))
    extensions = itertools.cycle((".conda", ".tar.bz2"))
    for one, described in zip(cases, outputs, strict=True):
        scripts = {f"{one.name}.py": one.script} if one.script else {}
        for name, text in (one.files | scripts).items():
            (folder / "recipe" / name).write_text(text)
        built = builder.Built(
            recipe=None,
            files={"share/odd.txt": builder.Staged(data=b"odd\n")},
            subdir="noarch",
            name=described["name"],
            version="1",
            depends=("python",) if one.python else (),
            info={"info/index.json": json.dumps({
                "name": described["name"], "version": "1", "build": "0", "build_number": 0,
                "subdir": "noarch", "noarch": "generic",
                "depends": ["python"] if one.python else [],
            }).encode()},
        )  # fmt: skip
        builder.write(built, folder / "build_artifacts", next(extensions))


class Report:
    """What came of all cases on one host."""

    def __init__(self) -> None:
        self.runs: list[Ran] = []
        self.checks: dict[str, list[tuple[str, str]]] = {}
        """By the output's name, in the order of the plan, without ``install``."""
        self.durations_s: dict[str, float] = {}
        self.warnings: list[str] = []

    def add(self, ran: Ran, folder: Path) -> None:
        """Take the report of one run."""
        self.runs.append(ran)
        stored = json.loads((folder / "evidence.json").read_text())["predicate"]
        for result in stored["results"]:
            name = result["package"].removeprefix("noarch/h-").partition("-1-0.")[0]
            if result["check"] != "install":
                said = result["outcome"], result["cause"]
                self.checks.setdefault(name, []).append(said)
                took_s = result.get("duration_s", 0.0)
                self.durations_s[name] = max(self.durations_s.get(name, 0.0), took_s)
        self.warnings += [w for host in stored["hosts"] for w in host.get("warnings", ())]


@pytest.fixture(scope="module", params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, python_channel: str
) -> Report:
    """Run every case on a host of that kind, all in one run."""
    if request.param == "docker":
        request.getfixturevalue("engine")
    cases = [
        one for one in hostile.SHELLS + hostile.IMPORTS if one.local or request.param == "docker"
    ]
    folders = []
    # Those that hang take their time one after the other, so some go beside them.
    for first in range(AT_ONCE):
        folders.append(tmp_path_factory.mktemp(request.param))
        build(cases[first::AT_ONCE], folders[-1])
        (folders[-1] / "matrix.toml").write_text(MATRICES[request.param])

    def let_loose(folder: Path) -> Ran:
        return run_pytest(
            "--recipe", "recipe", "--matrix", "matrix.toml", "--channel", python_channel,
            "--check-timeout", str(CHECK_S), cwd=folder, timeout_s=300,
        )  # fmt: skip

    found = Report()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ran, folder in zip(pool.map(let_loose, folders), folders, strict=True):
            found.add(ran, folder / "manualbuild-report")
    return found


@pytest.mark.parametrize("case", hostile.SHELLS + hostile.IMPORTS, ids=lambda case: case.name)
def test_a_misbehaving_package_gets_the_right_outcome_in_time(
    report: Report, case: hostile.Hostile
) -> None:
    name = case.name.replace("_", "-")
    if name not in report.checks:
        pytest.skip("it is let loose in containers only")

    assert report.checks[name] == list(case.says)
    assert report.durations_s[name] < CHECK_S + 5
    assert not case.warns or any(
        case.warns in line for line in report.warnings if f"h-{name}" in line
    )


def test_a_run_of_misbehaving_packages_ends_as_one_with_failures(report: Report) -> None:
    assert {ran.status for ran in report.runs} == {1}
    for ran in report.runs:
        assert 'Traceback (most recent call last):\n  File "/' not in ran.out
        assert "Internal error" not in ran.out
        assert "\x1b]" not in ran.out


def rss_of_a_run(tmp_path: Path, test: str, *words: str) -> tuple[int, int]:
    """Run pytest on a package with that test section; return its status and its peak, in bytes."""
    tmp_path.mkdir()
    write_package(tmp_path, test)
    (tmp_path / "matrix.toml").write_text(MATRICES[words[0]])
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "--recipe", "recipe", "--matrix", "matrix.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_maxrss * 1024


@pytest.mark.parametrize("kind", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_gigabyte_of_output_costs_little(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "docker":
        request.getfixturevalue("engine")
    _, little = rss_of_a_run(tmp_path / "little", "test:\n  commands:\n    - 'true'\n", kind)
    text = "test:\n  commands:\n    - head -c 1G /dev/zero\n    - 'echo end; false'\n"

    status, much = rss_of_a_run(tmp_path / "much", text, kind)

    report = tmp_path / "much" / "manualbuild-report"
    assert status == 1
    assert much - little < 200 * 2**20
    logs = sorted((report / "logs").rglob("*.txt"))
    assert all(log.stat().st_size < 33 * 2**20 for log in logs)
    rest = [path for path in report.rglob("*") if path.is_file() and path not in logs]
    assert sum(path.stat().st_size for path in rest) < 25 * 2**20
    text = (report / "junit.xml").read_text()
    assert f"wrote {2**30} bytes in all" in text
    assert len(text) > 32 * 2**10


def test_many_commands_and_long_ones_have_a_result_each(tmp_path: Path) -> None:
    lines = "".join(f"    - echo {number} {'x' * 9}\n" for number in range(5000))
    lines += f"    - 'test {'y' * 150_000} = $(echo {'y' * 150_000})'\n    - exit 3\n"
    write_package(tmp_path, f"test:\n  commands:\n{lines}")

    ran = run_local(tmp_path, "-q", "--no-header", "--tb=line")

    assert ran.status == 1, ran.out[-2000:]
    found = results(tmp_path / "manualbuild-report")
    assert len(found) == 5003
    assert [check for (_, check), said in found.items() if said != ("passed", "ok")] == [
        "commands[5001]: exit 3"
    ]
    report = tmp_path / "manualbuild-report"
    assert sum(p.stat().st_size for p in report.glob("*") if p.is_file()) < 25 * 2**20


def test_a_core_that_is_dumped_is_noted(tmp_path: Path) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() not in ("core", "core.%p"):
        pytest.skip("cores go elsewhere on this machine")
    dump = "ulimit -c unlimited; bash -c 'kill -SEGV $$' || ls core*"
    write_package(tmp_path, f'test:\n  commands:\n    - "{dump}"\n')

    ran = run_local(tmp_path)

    assert (ran.status, "warning: here: odd: the tests dumped core: work/core" in ran.out) == (
        0, True
    ), ran.out  # fmt: skip


def test_a_section_has_a_time_limit_too(tmp_path: Path) -> None:
    commands = "".join(f"    - sleep 0.{number}\n" for number in range(5, 10))
    write_package(tmp_path, f"test:\n  commands:\n{commands}")

    ran = run_local(tmp_path, "--section-timeout", "1")

    assert ran.status == 1, ran.out
    assert "The test section ran longer than 1 s and was killed" in ran.out
    said = list(results(tmp_path / "manualbuild-report").values())
    assert ("failed", "timeout") in said
    assert said[-1] == ("skipped", "not-reached")


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_other_hosts_are_not_disturbed_and_nothing_is_left(tmp_path: Path) -> None:
    killer = ". /etc/os-release; test $VERSION_ID != 12 || kill -9 -1; sleep 1"
    write_package(tmp_path, f"test:\n  commands:\n    - {killer}\n")
    (tmp_path / "two.toml").write_text(
        "".join(
            f'[hosts.{DOCKER}-{number}]\nkind = "docker"\nsubdir = "linux-64"\n'
            f'image = "manualbuild/debian-{number}:test"\n'
            for number in (12, 13)
        )
    )

    ran = run_pytest("--recipe", "recipe", "--matrix", "two.toml", cwd=tmp_path)

    assert ran.status == 16, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {host: said for (host, check), said in found.items() if check != "install"} == {
        f"{DOCKER}-12": hostile.LOST, f"{DOCKER}-13": hostile.OK
    }  # fmt: skip
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"name={DOCKER}"], capture_output=True, check=True
    )
    assert left.stdout == b""
