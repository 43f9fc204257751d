"""Hosts of kind rootfs: a fresh view of a root folder, shut in, and nothing of it left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from conftest import command, manualbuild, quiet, recipe, results, run_pytest, write_package
from pytest_manualbuild import hosts
from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.hosts.cgroups import size
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

SHORT_S = 30.0


def host(root: Path, **more: object) -> Host:
    return Host(name="root", kind="rootfs", subdir="linux-64", root=str(root), **more)  # type: ignore[arg-type]


def start(host: Host, run: Run, *environments: LinkedEnvironment) -> Connection:
    return hosts.provider("rootfs").start(host, run, environments, quiet)


def left_over(run_id: str) -> list[str]:
    """Return what the machine still has of a run: control groups, mounts, processes."""
    # Not in all of it: groups of other people's containers go while one looks.
    groups, name = Path("/sys/fs/cgroup"), f"manualbuild-{run_id[:12]}-*"
    found = [str(path) for pattern in (name, f"*/{name}") for path in groups.glob(pattern)]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            texts = (folder / "environ").read_bytes(), (folder / "mountinfo").read_bytes()
        except OSError:
            continue
        found += [f"process {folder.name}" for text in texts if run_id.encode() in text]
    return found


@pytest.fixture
def run() -> Iterator[Run]:
    """A run that leaves nothing behind."""
    begun = Run.begin()
    yield begun
    hosts.sweep(begun)
    assert left_over(begun.run_id) == []


def test_it_says_what_it_is(rootfs: Path, run: Run) -> None:
    facts = hosts.provider("rootfs").probe(host(rootfs), run, quiet)

    assert (facts.os_id, facts.os_version, facts.glibc) == ("debian", "12", "2.36")
    assert facts.kernel == os.uname().release
    assert facts.image_digest is None
    assert "the root is a folder: what it holds is not part of the evidence" in facts.notes


@pytest.mark.usefixtures("rootfs")
def test_a_tarball_is_named_by_its_digest(tarball: Path, run: Run) -> None:
    shown: list[str] = []
    probed = [
        hosts.provider("rootfs").probe(host(tarball), run, shown.append).image_digest
        for _ in range(2)
    ]

    done = command("sha256sum", str(tarball), cwd=tarball.parent)
    assert probed == [f"sha256:{done.out.split()[0]}"] * 2
    assert shown == [f"unpacking {tarball.name}"]


def test_writes_stay_with_the_host_that_made_them(rootfs: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "file").write_text("as linked")
    environment = LinkedEnvironment(path=str(tmp_path), prefix="/opt/manualbuild/e", packages=())
    first, second = (start(host(rootfs), run, environment) for _ in "12")

    written = first.run(
        "echo mine > /opt/manualbuild/e/file && echo mine > /etc/os-release && rm -r /usr/share",
        timeout_s=SHORT_S,
    )
    seen = second.run(
        "cat /opt/manualbuild/e/file; grep -c Debian /etc/os-release; ls -d /usr/share",
        timeout_s=SHORT_S,
    )
    first.close()
    second.close()

    assert written.exit_status == 0, written.stderr
    assert seen.stdout.startswith(b"as linked")
    assert seen.stdout.endswith(b"/usr/share\n")
    assert (tmp_path / "file").read_text() == "as linked"
    assert (rootfs / "usr/share").is_dir()


def test_the_network_is_off_unless_the_matrix_says_so(rootfs: Path, run: Run) -> None:
    look = "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs"
    off, on = (start(host(rootfs, network=network), run) for network in (False, True))

    without = off.run(look, timeout_s=SHORT_S).stdout.split()
    with_it = on.run(look, timeout_s=SHORT_S).stdout.split()
    names = on.run("cat /etc/resolv.conf", timeout_s=SHORT_S).stdout
    off.close()
    on.close()

    assert without == [b"lo"]
    ours = Path("/proc/net/dev").read_text().splitlines()[2:]
    assert {word.decode() for word in with_it} == {line.split(":")[0].strip() for line in ours}
    assert names == Path("/etc/resolv.conf").read_bytes()


@pytest.mark.parametrize(
    "attack",
    [
        "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "mknod /disk b 8 0",
        "mount -t tmpfs none /mnt",
        "chroot / true",
        "hostname other",
        "cat /sys/kernel/uevent_seqnum > /sys/power/state",
    ],
)
def test_root_in_there_has_no_power_over_the_machine(rootfs: Path, run: Run, attack: str) -> None:
    connection = start(host(rootfs), run)

    done = connection.run(attack, timeout_s=SHORT_S)
    connection.close()

    assert done.exit_status != 0


def test_limits_hold_where_the_kernel_gives_them(rootfs: Path, run: Run) -> None:
    limited = host(rootfs, memory="64m", pids=20)
    facts = hosts.provider("rootfs").probe(limited, run, quiet)
    if any("not limited" in note for note in facts.notes):
        pytest.skip("this user may make no control groups")
    connection = start(limited, run)

    memory = connection.run("head -c 300000000 /dev/zero | tail >/dev/null", timeout_s=SHORT_S)
    forks = connection.run("for i in $(seq 30); do sleep 1 & done; wait", timeout_s=SHORT_S)
    alive = connection.run("echo here", timeout_s=SHORT_S)
    connection.close()

    assert memory.exit_status != 0
    assert b"Resource temporarily unavailable" in forks.stderr
    assert alive.stdout == b"here\n"


def test_sizes_are_read_as_the_matrix_writes_them() -> None:
    assert [size(text) for text in ("7", "7b", "2k", "3M", "1g")] == [7, 7, 2048, 3 << 20, 1 << 30]


def test_a_root_that_is_none_is_said_in_one_line(tmp_path: Path, run: Run) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no tarball")
    with tarfile.open(tmp_path / "half.tar", "w") as archive:
        archive.add(__file__, "etc/file")
    for name, says in (
        ("none", "cannot be used: No such file"),
        ("text", "cannot be unpacked"),
        ("empty", "cannot be entered"),
        ("half.tar", "cannot be entered"),
        ("a,b", "',', ':'"),
    ):
        if name == "a,b":
            (tmp_path / name).mkdir()
        with pytest.raises(HostUnavailable) as caught:
            hosts.provider("rootfs").probe(host(tmp_path / name), run, quiet)
        said = str(caught.value)
        assert says in said
        assert "\n" not in said


def test_a_missing_bubblewrap_is_said_with_what_to_do(rootfs: Path, tmp_path: Path) -> None:
    # In a mount namespace where that program is no program.
    text = f'[hosts.r]\nkind = "rootfs"\nsubdir = "linux-64"\nroot = "{rootfs}"\n'
    (tmp_path / "root.toml").write_text(text)
    hide = f"mount --bind /dev/null {shutil.which('bwrap')}"
    call = f"{sys.executable} -m pytest_manualbuild.cli hosts probe --matrix root.toml"

    ran = command("unshare", "--mount", "sh", "-c", f"{hide} && {call}", cwd=tmp_path)

    assert ran.status == 16, ran.out
    assert "Install bubblewrap" in ran.out


def test_nothing_is_left_of_a_controller_that_was_killed(rootfs: Path, tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - setsid sleep 617 & sleep 618\n")
    matrix = f'[hosts.r]\nkind = "rootfs"\nsubdir = "linux-64"\nroot = "{rootfs}"\n'
    (tmp_path / "root.toml").write_text(matrix)
    environ = {**os.environ, "MANUALBUILD_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "root.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ,
    )  # fmt: skip

    def asleep() -> bool:
        return command("pgrep", "-f", "^sleep 61[78]", cwd=tmp_path).out.count("\n") == 2

    deadline = time.monotonic() + 60
    while not asleep() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asleep()
    (run_id,) = (path.name for path in (tmp_path / "cache/runs").iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()

    deadline = time.monotonic() + SHORT_S
    while any("process" in one for one in left_over(run_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any("process" in one for one in left_over(run_id))
    swept = manualbuild("hosts", "sweep", cwd=tmp_path, MANUALBUILD_CACHE=str(tmp_path / "cache"))
    assert swept.status == 0, swept.out
    assert left_over(run_id) == []
    assert not any((tmp_path / "cache/runs").iterdir())


def test_a_compiled_package_passes_and_the_report_names_the_tarball(
    built: Path, rootfs: Path, tarball: Path, tmp_path: Path
) -> None:
    text = "".join(
        f'[hosts.{name}]\nkind = "rootfs"\nsubdir = "linux-64"\nroot = "{root}"\n'
        for name, root in (("folder", rootfs), ("tarball", tarball))
    )
    (tmp_path / "roots.toml").write_text(text)

    ran = run_pytest(
        "--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"),
        "--matrix", "roots.toml", cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {outcome for outcome, _ in found.values()} == {"passed"}
    assert {name for name, _ in found} == {"folder", "tarball"}
    assert "sha256:" in (tmp_path / "manualbuild-report/evidence.json").read_text()


def test_an_ordinary_user_can_have_such_hosts(rootfs: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become an ordinary user")
    system = Path("/usr/bin/python3")
    if (
        not system.exists()
        or f"{sys.version_info.major}.{sys.version_info.minor}"
        not in command(str(system), "-V", cwd=tmp_path).out
    ):
        pytest.skip("an ordinary user has no Python of this version")
    open_to_all = Path("/tmp") / f"manualbuild-user-{os.getpid()}"  # above tmp_path is closed
    open_to_all.mkdir()
    try:
        (open_to_all / "root").mkdir()
        os.chown(open_to_all, 4321, 4321)
        text = f'[hosts.r]\nkind = "rootfs"\nsubdir = "linux-64"\nroot = "{open_to_all}/root.tar"\n'
        (open_to_all / "root.toml").write_text(text)
        with tarfile.open(open_to_all / "root.tar", "w") as archive:
            archive.add(rootfs, ".")
        # The environment of the tests may be closed to others, as tox makes it.
        shutil.copytree(Path(msgspec.__file__).parent, open_to_all / "lib" / "msgspec")
        ran = command(
            "setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", str(system),
            "-m", "pytest_manualbuild.cli", "hosts", "probe", "--matrix", "root.toml",
            cwd=open_to_all, HOME=str(open_to_all), MANUALBUILD_CACHE=str(open_to_all / "cache"),
            PYTHONPATH=os.pathsep.join([*sys.path, str(open_to_all / "lib")]),
        )  # fmt: skip
        if "user namespaces" in ran.out:
            pytest.skip(f"users may make no namespaces here: {ran.out}")
        assert ran.status == 0, ran.out
        assert "Debian GNU/Linux 12" in ran.out
        assert "there is one user only" in ran.out
    finally:
        shutil.rmtree(open_to_all)
