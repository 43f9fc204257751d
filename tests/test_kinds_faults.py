"""What breaks a host, kind by kind and phase by phase: an error that names the phase, and clean."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sshd
import vagrantfiles
from windows_ssh import WindowsSsh

from conftest import command, small_disk, write_package
from pytest_manualbuild import hosts, matrix, plan, shells
from pytest_manualbuild.environment import environments as environments_module
from pytest_manualbuild.environment import solver
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.execution.engine import Engine, Settings
from pytest_manualbuild.execution.section import Limits
from pytest_manualbuild.hosts import delivery, engines, facts, openssh, ssh_cmd
from pytest_manualbuild.hosts import rootfs as rootfs_kind
from pytest_manualbuild.hosts import ssh as ssh_kind
from pytest_manualbuild.hosts import vagrant as vagrant_kind
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.records import CheckResult, Outcome

IMAGE = "manualbuild/debian-12:test"
TESTS = "test:\n  commands:\n    - 'true'\n    - sleep 600\n    - 'true'\n"
NOISE = "test:\n  commands:\n    - head -c 9000000 /dev/zero\n"
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(autouse=True)
def _more_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a host for lost sooner than users would, also where it is only slow."""
    monkeypatch.setattr(shells, "START_S", 6.0)
    monkeypatch.setattr(delivery, "DELIVER_S", 3.0)
    monkeypatch.setattr(rootfs_kind, "_END_S", 2.0)
    monkeypatch.setattr(ssh_kind, "_SWEEP_S", 3.0)


@pytest.fixture(scope="module")
def environments() -> Iterator[Environments]:
    """What makes environments, once for all cases."""
    with Environments(cache_folder(), ()) as made:
        yield made


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
        act: Callable[[Case], None] | None = None,
        *,
        tests: str = TESTS,
        staged: Mapping[str, str | bytes] | None = None,
        subdir: str = "linux-64",
    ) -> list[CheckResult]:
        """Run the package on a host, act when its first command has passed; clean up, and look."""
        of = subdir if subdir.startswith("win-") else "noarch"
        recipe = write_package(self.folder, tests, staged=staged, subdir=of)
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
                act(self)
            found = [engine.result(key) for key in keys]
        finally:
            engine.close()
        return found


@pytest.fixture
def case(tmp_path: Path, environments: Environments) -> Iterator[Case]:
    """A case, after which nothing of its run is left."""
    run = Run.begin()
    settings = Settings(evidence=tmp_path / "report", limits=Limits(check_s=60))
    yield Case(folder=tmp_path, environments=environments, settings=settings, run=run)
    hosts.sweep(run)
    left = [entry for entry in Path("/proc").glob("[0-9]*") if marked(entry, run.run_id)]
    assert left == []
    words = ("ps", "-aq", "--filter", f"label=io.pytest-manualbuild.run={run.run_id}")
    deadline = time.monotonic() + 20  # the engine removes that of a dead shell by itself
    # Where there is no engine, or none for this user, there is nothing on it.
    while shutil.which("docker") and (said := command("docker", *words, cwd=tmp_path)).out:
        if said.status != 0:
            break
        assert time.monotonic() < deadline
    assert list(Path("/sys/fs/cgroup").glob(f"*/manualbuild-{run.run_id[:12]}-*")) == []


def marked(process: Path, run_id: str) -> bool:
    try:
        return f"MANUALBUILD_RUN_ID={run_id}".encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def broken(found: list[CheckResult], phase: str, cause: str, *, passed: int = 0) -> None:
    """Assert that all but the first checks are errors that name the phase."""
    assert [result.outcome.value for result in found] == (
        ["passed"] * passed + ["error"] * (len(found) - passed)
    ), found
    for result in found[passed:]:
        assert result.message.startswith(f"While {phase}: "), result.message
        assert result.cause.value == cause, result


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
    return (
        f'kind = "ssh"\naddress = "127.0.0.1"\nport = {server.port}\n'
        f'ssh_config = "{server.ssh_config}"\n{more}'
    )


def strike_before(
    monkeypatch: pytest.MonkeyPatch, name: str, case: Case, kind: str, fault: str
) -> None:
    """Break what bears the host just before a method of its connection is called."""
    method = getattr(shells.ShellConnection, name)

    def struck(self: shells.ShellConnection, *args: object, **more: object) -> object:
        strike(case, kind, hang=fault == "hang")
        return method(self, *args, **more)

    monkeypatch.setattr(shells.ShellConnection, name, struck)


BOXES = [pytest.param("docker", marks=pytest.mark.docker), "rootfs"]

# -- provisioning


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param('kind = "docker"\nimage = "x"\nengine = "unix:///none"', id="docker-away"),
        pytest.param(f'kind = "docker"\nimage = "{IMAGE}"\nengine = "ssh://127.0.0.1:1"',
                     id="docker-ssh-engine-away"),
        pytest.param('kind = "rootfs"\nroot = "/none"', id="rootfs-root-away"),
        pytest.param('kind = "rootfs"\nroot = "/proc/self"', id="rootfs-no-root"),
        pytest.param('kind = "ssh"\naddress = "127.0.0.1"\nport = 1', id="ssh-server-away"),
        pytest.param('kind = "local"', id="local-of-another-subdir"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_provisioning_a_host_that_is_not_there(case: Case, entry: str) -> None:
    subdir = "linux-s390x" if "local" in entry else "linux-64"
    broken(case.results(entry, subdir=subdir), "provisioning", "host-unavailable")
    gc.collect()  # here, where its warning is expected


@pytest.mark.parametrize("fault", ["kill", "hang"])
@pytest.mark.parametrize("kind", [*BOXES, "local"])
def test_provisioning_a_host_that_breaks_while_it_is_asked_what_it_is(
    case: Case, request: pytest.FixtureRequest, kind: str, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kind == "local":
        monkeypatch.setattr(facts, "PROBE", "exec sleep 30" if fault == "hang" else "kill -9 $$")
    else:
        monkeypatch.setattr(facts, "kept", lambda _: None)
        strike_before(monkeypatch, "run", case, kind, fault)

    found = case.results(matrix_entry(kind, request, case))

    broken(found, "provisioning", "host-unavailable" if kind == "local" else "host-lost")


@pytest.mark.docker
@pytest.mark.parametrize("fault", ["hang", "wrong-credentials"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_provisioning_by_docker(
    case: Case, engine: None, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    monkeypatch.setattr(engines, "_API_S", 2)
    if fault == "hang":  # an engine that takes calls and answers none
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(case.folder / "d"))
            silent.listen()
            url = f"unix://{case.folder}/d"
            found = case.results(f'kind = "docker"\nimage = "{IMAGE}"\nengine = "{url}"')
    else:
        monkeypatch.setattr(engines, "_API_S", 20)
        with locked_registry() as name:
            found = case.results(f'kind = "docker"\nimage = "{name}/private:1"')
        assert "cannot be pulled" in found[0].message

    broken(found, "provisioning", "host-unavailable")


@pytest.mark.docker
@pytest.mark.parametrize("fault", ["changed-key", "wrong-credentials", "hang", "kill"])
def test_provisioning_by_vagrant(
    case: Case, box: vagrantfiles.Box, request: pytest.FixtureRequest, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if fault == "changed-key":
        entry = matrix_entry("vagrant", request, case)
        monkeypatch.setattr(vagrant_kind._Machine, "revert", lambda *_: other_key(case, "other"))
        found = case.results(entry)
        other_key(case, "host")
    else:
        if fault == "hang":
            monkeypatch.setattr(vagrant_kind, "UP_S", 1.5)
        key = box.key.with_name("other_key" if fault == "wrong-credentials" else "key")
        root = box.vagrantfile(
            case.folder / "machine", key=key, boot_s=3, cmd='["/bin/false"]' * (fault == "kill")
        )
        found = case.results(f'kind = "vagrant"\nroot = "{root}"')
        hosts.sweep(case.run)
        assert "not created" in vagrantfiles.vagrant(root, "status")

    broken(found, "provisioning", "host-unavailable")


def other_key(case: Case, name: str) -> None:
    """Give the machine's server another key."""
    assert case.vagrant is not None
    swap = f"cp -p /etc/ssh/{name}_key.kept /etc/ssh/host_key && kill -HUP 1"
    machine = vagrantfiles.container(case.vagrant)
    assert command("docker", "exec", machine, "sh", "-c", swap, cwd=case.folder).status == 0


@contextmanager
def locked_registry() -> Iterator[str]:
    """Give the name of a server that answers as a registry does to who may not read there."""

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_provisioning_a_root_where_the_disk_is_full(
    case: Case, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(case.folder / "disk", "64k") as disk:
        monkeypatch.setattr(case.run, "folder", disk)
        with suppress(OSError):
            (disk / "full").write_bytes(b"x" * 65536)
        found = case.results(f'kind = "rootfs"\nroot = "{rootfs}"')
        (disk / "full").unlink()

    broken(found, "provisioning", "host-unavailable")


@pytest.mark.parametrize(
    "fault", ["changed-key", "unknown-key", "wrong-credentials", "kill", "hang"]
)
def test_provisioning_over_ssh(
    case: Case, sshd_program: None, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del sshd_program
    monkeypatch.setattr(openssh, "CONNECT_S", 3)
    force = {"kill": ["ForceCommand kill -9 $PPID"], "hang": ["ForceCommand sleep 30"]}
    server = sshd.make(tmp_path / "sshd", *force.get(fault, []))
    server.start()
    server.turn_away(fault)
    try:
        broken(case.results(far(server)), "provisioning", "host-unavailable")
        hosts.sweep(case.run)
    finally:
        server.stop()


def test_provisioning_over_ssh_where_the_disk_is_full(case: Case, ssh_server: sshd.Sshd) -> None:
    with small_disk(case.folder / "disk", "4k") as disk:
        (disk / "full").write_bytes(b"x" * 4096)
        found = case.results(far(ssh_server, f'root = "{disk}"'))
        hosts.sweep(case.run)

    broken(found, "provisioning", "host-unavailable")


# -- delivering


@pytest.mark.parametrize("kind", BOXES)
def test_delivering_what_is_gone_from_the_cache(
    case: Case, request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = case.environments.prepare

    def lose(*args: object, **more: object) -> object:
        linked = prepare(*args, **more)  # type: ignore[arg-type]
        shutil.rmtree(Path(linked.path) / "conda-meta")
        return linked

    monkeypatch.setattr(case.environments, "prepare", lose)
    found = case.results(matrix_entry(kind, request, case), staged={"share/odd.txt": f"{kind}\n"})

    broken(found, "delivering", "environment")


@pytest.mark.parametrize(
    ("fault", "act"),
    [
        ("kill", "kill -9 $PPID"),
        ("hang", "exec sleep 30"),
        ("half", "head -c 100 >/dev/null; exit 0"),
        ("refused", "exit 1"),
    ],
)
def test_delivering_over_ssh(
    case: Case, sshd_program: None, tmp_path: Path, fault: str, act: str
) -> None:
    del sshd_program, fault
    script = tmp_path / "force"
    script.write_text(
        f'case "$SSH_ORIGINAL_COMMAND" in *unpack*) {act} ;; esac\n'
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    server = sshd.make(tmp_path / "sshd", f"ForceCommand /bin/sh {script}")
    server.start()
    try:
        found = case.results(far(server))
        hosts.sweep(case.run)
    finally:
        server.stop()

    assert {result.cause.value for result in found} <= {"environment", "host-lost"}
    broken(found, "delivering", found[0].cause.value)


def test_delivering_over_ssh_where_the_disk_is_full(case: Case, ssh_server: sshd.Sshd) -> None:
    with small_disk(case.folder / "disk", "600k") as disk:
        noise = os.urandom(1_000_000).hex()
        found = case.results(far(ssh_server, f'root = "{disk}"'), staged={"share/big": noise})
        hosts.sweep(case.run)
        assert list(disk.iterdir()) == []

    broken(found, "delivering", "environment")


def test_delivering_on_this_machine_where_the_disk_is_full(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(case.folder / "disk", "600k") as disk:
        monkeypatch.setattr(case.run, "folder", disk)
        noise = os.urandom(1_000_000).hex()
        found = case.results('kind = "local"', staged={"share/big": noise})

    broken(found, "delivering", "environment")


@pytest.mark.parametrize("fault", ["kill", "hang"])
@pytest.mark.parametrize("kind", BOXES)
def test_delivering_to_a_host_that_breaks(
    case: Case, request: pytest.FixtureRequest, kind: str, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    strike_before(monkeypatch, "has_folders", case, kind, fault)

    broken(case.results(matrix_entry(kind, request, case)), "delivering", "host-lost")


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_delivering_where_what_links_environments_breaks(
    case: Case, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments_module, "LINK_S", 2.0)
    ask = solver.Solver.ask

    def broken_ask(self: solver.Solver, verb: str, timeout_s: float, **what: object) -> object:
        if verb == "link":
            self.start()
            hit = [pid for pid, words in children().items() if "_solver" in words]
            os.kill(hit[-1], signal.SIGSTOP if fault == "hang" else signal.SIGKILL)
        return ask(self, verb, timeout_s, **what)

    monkeypatch.setattr(solver.Solver, "ask", broken_ask)

    broken(case.results('kind = "local"'), "delivering", "environment")


# -- running

KINDS = ["local", *BOXES, "ssh", pytest.param("vagrant", marks=pytest.mark.docker)]


def children() -> dict[int, str]:
    """Return this process's children, with the words that they were called with."""
    found = {}
    for task in Path("/proc/self/task").glob("*"):
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            found[int(pid)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def strike(case: Case, kind: str, *, hang: bool) -> None:
    """Kill what bears the host, or make it stop."""
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


@pytest.mark.parametrize("fault", ["kill", "hang"])
@pytest.mark.parametrize("kind", KINDS)
def test_running(case: Case, request: pytest.FixtureRequest, kind: str, fault: str) -> None:
    entry = matrix_entry(kind, request, case)

    found = case.results(entry, lambda case: strike(case, kind, hang=fault == "hang"))

    if case.server is not None:
        case.server.signal("CONT")
    if case.vagrant is not None:
        back = "unpause" if fault == "hang" else "start"
        command("docker", back, vagrantfiles.container(case.vagrant), cwd=case.folder)
    hosts.sweep(case.run)
    broken(found, "running", "host-lost", passed=2)


@pytest.mark.parametrize("kind", ["local", "docker", "rootfs", "ssh"])
@pytest.mark.parametrize("fault", ["kill", "hang"])
@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_host_that_ends_the_tests_and_then_goes_is_an_error(
    case: Case, request: pytest.FixtureRequest, kind: str, name: str, fault: str
) -> None:
    entry = matrix_entry(kind, request, case)

    def shut_down(case: Case) -> None:
        ours = [one for one in Path("/proc").glob("[0-9]*") if marked(one, case.run.run_id)]
        tests = [one for one in ours if (one / "comm").read_text() == "sleep\n"]
        for process in tests:
            os.kill(int(process.name), getattr(signal, f"SIG{name}"))
        # The host gets to say so, and has a second for it: what waits is gone when it was told.
        deadline = time.monotonic() + 0.3
        while any(one.exists() for one in ours) and time.monotonic() < deadline:
            time.sleep(0.01)
        strike(case, kind, hang=fault == "hang")

    found = case.results(entry, shut_down)

    if case.server is not None:
        case.server.signal("CONT")
    hosts.sweep(case.run)
    broken(found, "running", "host-lost", passed=2)


# -- collecting


@pytest.mark.parametrize("kind", KINDS)
def test_collecting_where_the_disk_is_full(
    case: Case, request: pytest.FixtureRequest, kind: str
) -> None:
    entry = matrix_entry(kind, request, case)
    with small_disk(case.folder / "report", "1m"):
        found = case.results(entry, tests=NOISE)
        hosts.sweep(case.run)

    broken(found, "collecting", "environment", passed=1)


# -- Windows over ssh: a stand-in that is cut, stopped and switched off as a machine would be

WINDOWS_TESTS = "test:\n  commands:\n    - ver\n    - hangs.exe\n    - ver\n"


def on_windows(
    case: Case, server: WindowsSsh, act: Callable[[Case], None] | None = None, more: str = "",
    tests: str = WINDOWS_TESTS, staged: Mapping[str, str | bytes] | None = None,
) -> list[CheckResult]:  # fmt: skip
    """Run a package on it; then let the server be there again, and sweep."""
    entry = far(server, f'shell = "cmd"\n{more}')
    found = case.results(entry, act, tests=tests, staged=staged, subdir="win-64")
    if server.process is None:
        server.start()
    server.signal("CONT")
    hosts.sweep(case.run)
    assert not case.run.folder.exists()
    return found


def strike_windows(server: WindowsSsh, fault: str) -> None:
    """Cut the line, stop the server, or switch the machine off."""
    if fault == "power":
        server.switch_off()
    else:
        server.signal("STOP" if fault == "hang" else "KILL")


@pytest.fixture
def far_windows(
    windows_server: WindowsSsh, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WindowsSsh]:
    """The stand-in, whose silence is noticed sooner than users' would be."""
    rules = openssh._RULES.replace("Interval 5", "Interval 1").replace("CountMax 3", "CountMax 2")
    monkeypatch.setattr(openssh, "_RULES", rules)
    monkeypatch.setattr(shells, "START_S", 20.0)  # wine on a busy machine
    monkeypatch.setattr(ssh_cmd, "_SWEEP_S", 20.0)
    monkeypatch.setattr(delivery, "DELIVER_S", 20.0)
    yield windows_server
    windows_server.switch_on()


@pytest.mark.parametrize("fault", ["changed-key", "unknown-key", "wrong-credentials", "away"])
def test_provisioning_windows_over_ssh(case: Case, far_windows: WindowsSsh, fault: str) -> None:
    far_windows.turn_away(fault)
    if fault == "away":
        far_windows.stop()

    broken(on_windows(case, far_windows), "provisioning", "host-unavailable")


@pytest.fixture
def known_windows(
    far_windows: WindowsSsh, known_facts: list[Facts], monkeypatch: pytest.MonkeyPatch
) -> WindowsSsh:
    """The stand-in, which is asked only once what it is: that takes wine its time."""
    probe = ssh_cmd.probe

    def remembered(host: Host, run: Run) -> Facts:
        if not known_facts:
            known_facts.append(probe(host, run))
        return known_facts[0]

    monkeypatch.setattr(ssh_cmd, "probe", remembered)
    return far_windows


@pytest.fixture(scope="module")
def known_facts() -> list[Facts]:
    """What the stand-in said of itself, once it was asked."""
    return []


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_provisioning_windows_over_ssh_that_breaks(
    case: Case, far_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike_windows_before(monkeypatch, "run", far_windows, fault)

    broken(on_windows(case, far_windows), "provisioning", "host-lost")


def strike_windows_before(
    monkeypatch: pytest.MonkeyPatch, name: str, server: WindowsSsh, fault: str
) -> None:
    """Break it just before a method of its connection is called."""
    method = getattr(ssh_cmd.CmdConnection, name)

    def struck(self: ssh_cmd.CmdConnection, *args: object, **more: object) -> object:
        strike_windows(server, fault)
        return method(self, *args, **more)

    monkeypatch.setattr(ssh_cmd.CmdConnection, name, struck)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_delivering_to_windows_over_ssh_that_breaks(
    case: Case, known_windows: WindowsSsh, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike_windows_before(monkeypatch, "deliver", known_windows, fault)

    broken(on_windows(case, known_windows), "delivering", "host-lost")


@pytest.mark.parametrize("fault", ["kill", "hang", "power"])
def test_running_on_windows_over_ssh_that_breaks(
    case: Case, known_windows: WindowsSsh, windows_programs: dict[str, bytes], fault: str
) -> None:
    found = on_windows(
        case, known_windows, lambda _: strike_windows(known_windows, fault), staged=windows_programs
    )

    broken(found, "running", "host-lost", passed=2)


@pytest.mark.parametrize("phase", ["provisioning", "delivering"])
def test_windows_over_ssh_where_the_disk_is_full(
    case: Case, known_windows: WindowsSsh, phase: str
) -> None:
    size = "4k" if phase == "provisioning" else "4m"
    with small_disk(known_windows.drive / "small", size) as disk:
        if phase == "provisioning":
            (disk / "full").write_bytes(b"x" * 4096)
        noise = os.urandom(2_000_000).hex()
        found = on_windows(
            case, known_windows, more='root = "C:\\\\small"', staged={"share/big": noise}
        )
        assert list(disk.glob("mb-*")) == []

    cause = "host-unavailable" if phase == "provisioning" else "environment"
    broken(found, phase, cause)
