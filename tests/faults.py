"""What the tests of broken hosts share: a run of an odd package, and ways to break what bears it.

Whatever breaks, in whatever phase: each check that is not passed is an error that names the phase,
and nothing of the run is left. A file of tests for each sort of host (``test_faults_*.py``).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import sshd
import vagrantfiles

from conftest import command, small_disk, write_package
from pytest_manualbuild import hosts, matrix, plan, shells
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.execution.engine import Engine, Settings
from pytest_manualbuild.execution.section import Limits, SectionRun
from pytest_manualbuild.hosts import delivery
from pytest_manualbuild.hosts import rootfs as rootfs_kind
from pytest_manualbuild.hosts import ssh as ssh_kind
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts
from pytest_manualbuild.records import CheckResult, Outcome

IMAGE = "manualbuild/debian-12:test"
TESTS = "test:\n  commands:\n    - 'true'\n    - sleep 600\n    - 'true'\n"
WITH_A_FILE = "test:\n  files:\n    - data.txt\n  commands:\n    - test -s data.txt\n"
NOISE = "test:\n  commands:\n    - head -c 9000000 /dev/zero\n"
BREAKS = ["kill", "hang"]
NO_CHECK_PASSED, ONE_COMMAND_PASSED = 0, 2
"""How many checks, of which the first one is ``install``."""


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a host for lost sooner than users would, also where it is only slow."""
    monkeypatch.setattr(shells, "START_S", 6.0)
    monkeypatch.setattr(delivery, "DELIVER_S", 3.0)
    monkeypatch.setattr(rootfs_kind, "_END_S", 2.0)
    monkeypatch.setattr(ssh_kind, "_SWEEP_S", 3.0)


@dataclass(kw_only=True)
class Case:
    """One run of the odd package on one host."""

    folder: Path
    environments: Environments
    settings: Settings
    run: Run
    server: sshd.Sshd | None = None
    vagrant: Path | None = None
    """Folder of a machine that is up."""

    def results(
        self,
        host: str,
        act: Callable[[], None] | None = None,
        *,
        tests: str = TESTS,
        files: dict[str, str] | None = None,
        staged: Mapping[str, str | bytes] | None = None,
        subdir: str = "linux-64",
    ) -> list[CheckResult]:
        """Run the package on a host, act when its first command has passed; clean up, and look."""
        of = subdir if subdir.startswith("win-") else "noarch"
        recipe = write_package(self.folder, tests, files, staged=staged, subdir=of)
        text = f'[hosts.odd]\nsubdir = "{subdir}"\n{host}'
        planned = plan.make(recipe, None, matrix.parse(text, "faults.toml"), None)
        (package,) = planned.packages
        keys = [("odd", package.artifact.key, check.name) for check in package.checks]
        engine = Engine(planned, self.environments, self.run, self.settings, keys)
        try:
            engine.start()
            if act is not None:
                up = next(check.name for check in package.checks if "[0]" in check.name)
                first = engine.result(("odd", package.artifact.key, up))
                assert first.outcome == Outcome.PASSED, first
                act()
            found = [engine.result(key) for key in keys]
        finally:
            engine.close()
        return found

    def recover(self) -> None:
        """Have what was broken be there again, as it would be for the next sweep, and sweep."""
        if self.server is not None:
            self.server.signal("CONT")
        if self.vagrant is not None:
            machine = vagrantfiles.container(self.vagrant)
            for back in ("unpause", "start"):
                command("docker", back, machine, cwd=self.folder)
            vagrantfiles.wait_for_ssh(machine)
        self.sweep()

    def sweep(self) -> None:
        """Remove what is left, where everything can be reached."""
        hosts.sweep(self.run)
        assert not self.run.folder.exists(), "something of the run is left"


@contextmanager
def case(folder: Path, environments: Environments) -> Iterator[Case]:
    """Give a case, after which nothing of its run is left."""
    run = Run.begin()
    settings = Settings(evidence=folder / "report", limits=Limits(check_s=60))
    yield Case(folder=folder, environments=environments, settings=settings, run=run)
    hosts.sweep(run)
    left = [entry for entry in Path("/proc").glob("[0-9]*") if marked(entry, run.run_id)]
    assert left == []
    words = ("ps", "-aq", "--filter", f"label=io.pytest-manualbuild.run={run.run_id}")
    deadline = time.monotonic() + 20  # the engine removes that of a dead shell by itself
    # Where there is no engine, or none for this user, there is nothing on it.
    while shutil.which("docker") and (said := command("docker", *words, cwd=folder)).out:
        if said.status != 0:
            break
        assert time.monotonic() < deadline
    assert list(Path("/sys/fs/cgroup").glob(f"*/manualbuild-{run.run_id[:12]}-*")) == []


def marked(process: Path, run_id: str) -> bool:
    """Say whether a process, as a folder of /proc, belongs to a run."""
    try:
        words = (process / "environ").read_bytes()
    except OSError:
        return False
    return any(
        f"{name}={run_id}".encode() in words for name in ("MANUALBUILD_RUN_ID", "MANUALBUILD_WINE")
    )


def broken(
    found: list[CheckResult], phase: str, cause: str, *, passed: int = NO_CHECK_PASSED
) -> None:
    """Assert that all but the first checks are errors that name the phase."""
    assert [result.outcome.value for result in found] == (
        ["passed"] * passed + ["error"] * (len(found) - passed)
    ), found
    for result in found[passed:]:
        assert result.message.startswith(f"While {phase}: "), result.message
        assert "Internal error" not in result.message, result.message
        assert result.cause.value == cause, result


# -- hosts that work, until they are broken


def matrix_entry(kind: str, request: pytest.FixtureRequest, case: Case, more: str = "") -> str:
    """Return the entry of a host of that kind that works."""
    if kind == "docker":
        request.getfixturevalue("engine")
        return f'kind = "docker"\nimage = "{IMAGE}"\n{more}'
    if kind == "rootfs":
        return f'kind = "rootfs"\nroot = "{request.getfixturevalue("rootfs")}"\n{more}'
    if kind == "local":
        return f'kind = "local"\n{more}'
    if kind == "vagrant":
        case.vagrant = request.getfixturevalue("standing")
        return f'kind = "vagrant"\nroot = "{case.vagrant}"\n{more}'
    case.server = request.getfixturevalue("ssh_server")
    return far(case.server, more)


def far(server: sshd.Sshd, more: str = "") -> str:
    """Return the entry of a host that is reached by ssh."""
    return (
        f'kind = "ssh"\naddress = "127.0.0.1"\nport = {server.port}\n'
        f'ssh_config = "{server.ssh_config}"\n{more}'
    )


def ask_once(kind: str, known: list[Facts], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts of a kind be asked what they are only as long as it is not ``known``."""
    provider = hosts.provider(kind)
    probe = provider.probe

    def remembered(*args: object) -> Facts:
        if not known:
            known.append(probe(*args))  # type: ignore[arg-type]
        return known[0]

    monkeypatch.setattr(provider, "probe", remembered)


# -- faults


def children() -> dict[int, str]:
    """Return this process's children, with the words that they were called with."""
    found = {}
    for task in Path("/proc/self/task").glob("*"):
        for pid in (task / "children").read_text().split():
            with suppress(OSError):  # it ended meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[int(pid)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def strike(case: Case, kind: str, fault: str) -> None:
    """Kill what bears the host, or make it stop (``hang``)."""
    hang = fault == "hang"
    name = signal.SIGSTOP if hang else signal.SIGKILL
    if kind == "docker":
        label = f"label=io.pytest-manualbuild.run={case.run.run_id}"
        names = command("docker", "ps", "-q", "--filter", label, cwd=case.folder).out.split()
        command("docker", "pause" if hang else "kill", *names, cwd=case.folder)
    elif kind == "vagrant":
        assert case.vagrant is not None
        machine = vagrantfiles.container(case.vagrant)
        command("docker", "pause" if hang else "kill", machine, cwd=case.folder)
    elif kind == "ssh":
        assert case.server is not None
        case.server.signal("STOP" if hang else "KILL")
    else:
        start = "/bin/sh " if kind == "local" else "sh -c "
        hit = [pid for pid, words in children().items() if words.startswith(start)]
        assert hit
        for pid in hit:
            group = subprocess.run(
                ["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            for one in group if kind == "rootfs" else [str(pid)]:
                with suppress(ProcessLookupError):  # the others go with the first
                    os.kill(int(one), name)


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


def before(
    monkeypatch: pytest.MonkeyPatch, where: type[object], name: str, act: Callable[[], object]
) -> None:
    """Do something once, just before a method is called, such as one of the host's connection."""
    method = getattr(where, name)
    left = [act]

    def struck(self: object, *args: object, **more: object) -> object:
        if left:
            left.pop()()
        return method(self, *args, **more)

    monkeypatch.setattr(where, name, struck)


# -- what is the same for hosts of several kinds


def struck_while_asked_what_it_is(
    case: Case, kind: str, entry: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> list[CheckResult]:
    """Break a host before it says what it is."""
    before(monkeypatch, shells.ShellConnection, "run", lambda: strike(case, kind, fault))
    found = case.results(entry)
    case.recover()
    return found


def struck_while_delivering(
    case: Case, kind: str, entry: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> list[CheckResult]:
    """Break a host before it is seen whether the environment arrived."""
    before(monkeypatch, shells.ShellConnection, "has_folders", lambda: strike(case, kind, fault))
    found = case.results(entry)
    case.recover()
    return found


def lost_from_the_cache(
    case: Case, entry: str, monkeypatch: pytest.MonkeyPatch, *, tests: str = TESTS,
    subdir: str = "linux-64",
) -> list[CheckResult]:  # fmt: skip
    """Remove a part of the linked environment before it is delivered."""
    prepare = case.environments.prepare

    def lose(*args: object, **more: object) -> object:
        linked = prepare(*args, **more)  # type: ignore[arg-type]
        shutil.rmtree(Path(linked.path) / "conda-meta")
        return linked

    monkeypatch.setattr(case.environments, "prepare", lose)
    # What is linked is kept for all: this one is of no other test's package.
    own = {"share/odd.txt": f"{case.run.run_id}\n"}
    found = case.results(entry, tests=tests, staged=own, subdir=subdir)
    case.recover()
    return found


def struck_while_running(case: Case, kind: str, entry: str, fault: str) -> list[CheckResult]:
    """Break a host while its second command runs."""
    found = case.results(entry, lambda: strike(case, kind, fault))
    case.recover()
    return found


def ends_the_tests_and_goes(
    case: Case, kind: str, entry: str, name: str, fault: str
) -> list[CheckResult]:
    """Have a host end its tests by a signal, say so, and break within a moment."""

    def shut_down() -> None:
        ours = [one for one in Path("/proc").glob("[0-9]*") if marked(one, case.run.run_id)]
        tests = [one for one in ours if (one / "comm").read_text() == "sleep\n"]
        for process in tests:
            os.kill(int(process.name), getattr(signal, f"SIG{name}"))
        # The host gets to say so, and has a second for it: what waits is gone when it was told.
        deadline = time.monotonic() + 0.3
        while any(one.exists() for one in ours) and time.monotonic() < deadline:
            time.sleep(0.01)
        strike(case, kind, fault)

    found = case.results(entry, shut_down)
    case.recover()
    return found


def has_no_room_for_the_tests(
    case: Case, entry: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> list[CheckResult]:
    """Fill a host's disk before the files of the tests are written to it."""
    before(monkeypatch, SectionRun, "run", lambda: fill(disk))
    found = case.results(entry, tests=WITH_A_FILE, files={"data.txt": "data" * 5000})
    (disk / "full").unlink()
    return found


def fills_the_controllers_disk(case: Case, entry: str) -> list[CheckResult]:
    """Have a test say more than there is room for where its output is collected."""
    with small_disk(case.folder / "report", "1m"):
        found = case.results(entry, tests=NOISE)
        case.recover()
    return found
