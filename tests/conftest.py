"""What many tests need: real packages, a channel with Python, an engine, a cache of our own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import impatience
import pytest
import sshd
import vagrantfiles

from pytest_manualbuild import hosts, shells
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.hosts import ssh
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Facts

if TYPE_CHECKING:
    from faults import Case
    from windows_ssh import WindowsSsh
    from windows_winrm import WindowsWinrm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
SHARED = ROOT.parent / "shared"
# A machine that is slow or busy is no failure of what is tested.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("any-machine")
# A shell that starts all this in the background has Ctrl-C ignored, also for what is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
FORMAT = os.environ.get("MANUALBUILD_TEST_FORMAT", ".conda")
"""Of the packages that tests build; `tox run -e formats` runs those of the rules with the other."""
LOCAL = '[hosts.here]\nkind = "local"\n'
META = """
package:
  name: odd
  version: '1'
build:
  noarch: generic
test:
  commands:
    - test -f $PREFIX/share/odd.txt
    - 'true'
"""


LONGEST = (
    "test_faults_", "test_kinds_", "test_upload", "test_run", "test_hostile_packages",
    "test_keep", "test_hosts", "test_v1_run", "test_v1_gate", "test_people",
    "test_semantics", "test_activation", "test_recipe_tests",
)  # fmt: skip
"""How the names of the files begin that take longest, each half a minute or so."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the longest files first in workers: else two would wait at the end for one of them."""
    if not hasattr(config, "workerinput"):
        return

    def turn(item: pytest.Item) -> int:
        name = item.path.name
        return next((n for n, one in enumerate(LONGEST) if name.startswith(one)), len(LONGEST))

    items.sort(key=turn)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ran to its end."""

    status: int
    out: str


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANUALBUILD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example packages, in a folder for each recipe."""
    import packages

    folder = tmp_path_factory.mktemp("built")
    for name in ("greet", "greet-declared", "greet-undeclared", "purehello"):
        if name == "purehello" or packages.can_compile():
            packages.build(name, folder / name)
    return folder


@pytest.fixture(scope="session")
def python_channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel that holds Python: the portable one where it is at hand."""
    import packages

    from pytest_manualbuild.environment.environments import index_channel

    folder = tmp_path_factory.mktemp("python-channel") / "channel"
    if not (SHARED / "channel").is_dir():
        return packages.python_channel(folder)
    for path in (SHARED / "channel").glob("*/*"):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    index_channel(folder)
    return folder.as_uri()


def quiet(_: str) -> None:
    """Show no progress."""


@pytest.fixture
def run() -> Iterator[Run]:
    """A run that is swept at the end, and leaves no record."""
    begun = Run.begin()
    yield begun
    hosts.sweep(begun)
    assert not begun.folder.exists(), "the sweep could not reach a host"


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip where no Docker engine answers or the test images are missing."""
    # In a process of its own: the client of an engine that does not answer leaves a socket open.
    program = "import docker; print(*(t for i in docker.from_env().images.list() for t in i.tags))"
    asked = command(sys.executable, "-c", program, cwd=ROOT, timeout_s=60)
    if asked.status != 0:
        pytest.skip(f"no Docker engine answers: {asked.out.splitlines()[-1]}")
    tags = set(asked.out.split())
    missing = {f"manualbuild/debian-{number}:test" for number in (11, 12, 13)} - tags
    if missing:
        pytest.skip(f"images are missing: {', '.join(sorted(missing))}")


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tarball of Debian 12's root: that of `.ci/images`, or out of the engine's image."""
    cache = Path(os.environ.get("MANUALBUILD_IMAGE_CACHE", "~/.cache/manualbuild-images"))
    kept = sorted(cache.expanduser().glob("bookworm-*.tar.zst"))
    if kept and shutil.which("zstd"):
        return kept[-1]
    if not shutil.which("docker"):
        pytest.skip("no root folder: neither .ci/images nor docker is there")
    path = tmp_path_factory.mktemp("tarball") / "root.tar"
    image = "manualbuild/debian-12:test"
    made = command("docker", "create", image, "true", cwd=path.parent)
    if made.status != 0:
        pytest.skip(f"no root folder: the engine gives no {image}: {made.out}")
    name = made.out.split()[-1]
    exported = command("docker", "export", "-o", str(path), name, cwd=path.parent)
    command("docker", "rm", "-f", name, cwd=path.parent)
    assert exported.status == 0, exported.out
    return path


@pytest.fixture(scope="session")
def rootfs(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian 12's root folder; skip where this machine cannot make a host of it."""
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is missing")
    folder = tmp_path_factory.mktemp("rootfs")
    tried = command("unshare", "--mount", "true", cwd=folder)
    if tried.status != 0:
        pytest.skip(f"mount namespaces cannot be made: {tried.out}")
    unpacked = command(
        "tar", "-xf", str(tarball), "--exclude=./dev/*", "--exclude=dev/*", cwd=folder
    )
    assert unpacked.status == 0, unpacked.out
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def sshd_program() -> None:
    """Skip where there is no ssh server to start."""
    if not sshd.PROGRAM or not shutil.which("ssh") or not Path("/proc/self/task").is_dir():
        pytest.skip("OpenSSH's server, client or /proc is missing")


@pytest.fixture
def ssh_server(sshd_program: None, tmp_path: Path) -> Iterator[sshd.Sshd]:
    """A server that runs, for one test."""
    del sshd_program
    server = sshd.make(tmp_path / "sshd")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def box(
    engine: None, sshd_program: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[vagrantfiles.Box]:
    """What machines of a Vagrantfile are made from; skip where Vagrant is missing."""
    del engine, sshd_program
    if not shutil.which("vagrant"):
        pytest.skip("vagrant is missing")
    made = vagrantfiles.make(tmp_path_factory.mktemp("box"))
    with pytest.MonkeyPatch.context() as patch:
        # Vagrant keeps an index of all machines, where a name may be the beginning of another's id.
        # All workers share it, since by it those that come up at once agree on their ports.
        base = tmp_path_factory.getbasetemp()
        base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        patch.setenv("VAGRANT_HOME", str(base / "vagrant-home"))
        yield made
    command("docker", "rmi", "-f", made.image, cwd=ROOT)


@pytest.fixture(scope="session")
def standing(box: vagrantfiles.Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Vagrant machine that its user has brought up."""
    folder = box.vagrantfile(tmp_path_factory.mktemp("standing") / "vagrant")
    vagrantfiles.vagrant(folder, "up")
    yield folder
    vagrantfiles.vagrant(folder, "destroy", "--force")


@pytest.fixture(scope="session")
def windows_programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Real programs for Windows, by their path in a package."""
    import windows_hosts

    folder = tmp_path_factory.mktemp("programs")
    return {
        "Library/bin/code.exe": windows_hosts.program(folder),
        "Library/bin/lacks.exe": windows_hosts.program(folder, "LACKS"),
        "Library/bin/hangs.exe": windows_hosts.program(folder, "HANGS"),
    }


@pytest.fixture(scope="session")
def windows_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WindowsSsh]:
    """A stand-in for a machine of Windows with an ssh server; skip where wine is missing."""
    if not shutil.which("wine") or not shutil.which("sftp"):
        pytest.skip("wine or OpenSSH's client is missing")
    import windows_ssh

    machine = windows_ssh.make(tmp_path_factory.mktemp("windows") / "machine")
    yield machine
    machine.halt()


@pytest.fixture
def windows_server(windows_machine: WindowsSsh) -> Iterator[WindowsSsh]:
    """That machine for one test, after which nothing is left on it."""
    sshd.trust(windows_machine)
    windows_machine.start()
    yield windows_machine
    windows_machine.stop()
    left = windows_machine.left()
    windows_machine.clean()
    assert left == []


@pytest.fixture
def winrm_server(
    windows_machine: WindowsSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WindowsWinrm]:
    """The same stand-in behind an emulation of WinRM; after the test nothing is left on it."""
    import windows_hosts
    import windows_winrm

    windows_hosts.install_tools(windows_machine.drive, tmp_path)
    machine = windows_winrm.WindowsWinrm(
        folder=windows_machine.folder, port=sshd.free_port(), bears=windows_machine.bears
    )
    machine.start()
    monkeypatch.setenv("WINDOWS_PASSWORD", windows_winrm.PASSWORD)
    yield machine
    machine.switch_on()
    windows_machine.bears = machine.bears
    machine.stop()
    left = machine.left()
    machine.clean()
    assert left == []


APPLETS = (
    "sh", "tar", "gzip", "base64", "mkdir", "rmdir", "cat", "env", "sed", "uname", "id", "ls",
    "rm", "tr", "grep", "chmod", "sleep", "head", "cut", "sha256sum", "readlink", "seq", "true",
    "mv",
)  # fmt: skip


def tiny_root(root: Path) -> None:
    """Make a root folder with busybox and bash; skip where one of them is missing."""
    busybox, bash = shutil.which("busybox"), shutil.which("bash")
    if not busybox or not bash:
        pytest.skip("busybox or bash is missing")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(busybox, root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    shutil.copy(bash, root / "bin/bash")
    needed = command("ldd", bash, cwd=root).out.split()
    for library in {word for word in needed if word.startswith("/")}:
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Give a folder on a disk of that size."""
    folder.mkdir(exist_ok=True)
    if command(
        "mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder), cwd=folder
    ).status:
        pytest.skip("a small disk cannot be mounted")
    try:
        yield folder
    finally:
        command("umount", "-l", str(folder), cwd=folder.parent)


def recipe(name: str) -> Path:
    """Return an example's recipe."""
    return ROOT / "examples" / "recipes" / name


def command(*words: str, cwd: Path, timeout_s: float = 180, **environ: str) -> Ran:
    """Run a program to its end, with its output in one text."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ran(status=done.returncode, out=done.stdout)


def run_pytest(*words: str, cwd: Path, timeout_s: float = 180) -> Ran:
    """Run pytest as a user would."""
    return command(
        # The plugins of Hypothesis and anyio have no part in it and take a tenth of a second each.
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest",
        "-p", "no:anyio", *words, cwd=cwd, timeout_s=timeout_s,
    )  # fmt: skip


def manualbuild(*words: str, cwd: Path, **environ: str) -> Ran:
    """Run the command-line tool as a user would."""
    return command(
        sys.executable, "-m", "pytest_manualbuild.cli", *words, cwd=cwd, timeout_s=180, **environ
    )


def manualbuild_without_rights(*words: str, cwd: Path) -> Ran:
    """Run a verb of ours for which, to root as well, the modes of files hold."""
    return without_rights(sys.executable, "-m", "pytest_manualbuild.cli", *words, cwd=cwd)


def without_rights(*words: str, cwd: Path) -> Ran:
    """Run a program for which, to root as well, the modes of files hold."""
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and there is no setpriv")
    return command(*(drop if os.geteuid() == 0 else ()), *words, cwd=cwd)


def write_package(
    tmp_path: Path,
    test: str,
    files: dict[str, str] | None = None,
    *,
    name: str = "odd",
    staged: Mapping[str, str | bytes] | None = None,
    info: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
    subdir: str = "noarch",
) -> Path:
    """Write a recipe of a package with this test section, and build it.

    ``files`` go into the recipe, ``staged`` and ``links`` into the package, ``info`` into its
    ``info/``.
    """
    folder = tmp_path / "recipe"
    folder.mkdir()
    build = "noarch: generic" if subdir == "noarch" else "number: 0"
    (folder / "meta.yaml").write_text(
        f"package:\n  name: {name}\n  version: '1'\nbuild:\n  {build}\n{test}"
    )
    for path, text in (files or {}).items():
        (folder / path).write_text(text)
    (tmp_path / "local.toml").write_text(LOCAL)
    import builder

    texts = {"share/odd.txt": "odd\n", **(staged or {})}
    built = builder.Built(
        recipe=folder,
        files={path: builder.Staged(data=text.encode() if isinstance(text, str) else text,
                                    executable=path.startswith("bin/"))
               for path, text in texts.items()}
        | {path: builder.Staged(data=b"", link=to) for path, to in (links or {}).items()},
        subdir=subdir,
        info={path: text.encode() for path, text in (info or {}).items()},
    )  # fmt: skip
    builder.write(built, tmp_path / "build_artifacts", FORMAT)
    return folder


def run_local(tmp_path: Path, *words: str) -> Ran:
    return run_pytest("--recipe", "recipe", "--matrix", "local.toml", *words, cwd=tmp_path)


def results(folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (outcome, cause) by (host, check) of a report."""
    stored = json.loads((folder / "evidence.json").read_text())["predicate"]["results"]
    return {(r["host"], r["check"]): (r["outcome"], r["cause"]) for r in stored}


def outcomes(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Return (outcome, cause) by check of the report there, which has one host."""
    return {check: said for (_, check), said in results(tmp_path / "manualbuild-report").items()}


def build(
    tmp_path: Path, text: str = META, into: str = "build_artifacts", extension: str = ".conda"
) -> Path:
    """Build the package with this recipe inside."""
    import builder

    folder = tmp_path / f"recipe-of-{into}"
    folder.mkdir(exist_ok=True)
    (folder / "meta.yaml").write_text(text)
    staged = {"share/odd.txt": builder.Staged(data=b"odd\n")}
    built = builder.Built(recipe=folder, files=staged, subdir="noarch")
    return builder.write(built, tmp_path / into, extension)[0]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package and a report of it that the gate accepts."""
    folder = tmp_path_factory.mktemp("good")
    build(folder)
    (folder / "local.toml").write_text(LOCAL)
    ran = run_pytest(
        "--recipe", "recipe-of-build_artifacts", "--matrix", "local.toml", "--evidence", "report",
        "--artifacts", "build_artifacts", cwd=folder,
    )  # fmt: skip
    assert ran.status == 0, ran.out
    return folder


@pytest.fixture
def case(good: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(good, tmp_path / "case")
    return tmp_path / "case"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SSH keys of several people, of several kinds, each with its public half."""
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (("alice", "ed25519"), ("bob", "ecdsa"), ("carol", "rsa"),
                       ("dave", "ed25519"), ("mallory", "ed25519")):  # fmt: skip
        key_pair(folder / name, kind)
    return folder


def key_pair(path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    """Make a key with the real ssh-keygen."""
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def signer(keys: Path, name: str, *roles: str, who: str = "", more: str = "") -> str:
    """Return a line of an allowed_signers file."""
    namespaces = ",".join(f"manualbuild-{role}@v1" for role in roles)
    public = (keys / f"{name}.pub").read_text()
    return f'{who or name} namespaces="{namespaces}"{more} {public}'


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a host that is silent for lost sooner than users would."""
    monkeypatch.setattr(shells, "HEARTBEAT_S", impatience.HEARTBEAT_S)
    monkeypatch.setattr(shells, "SILENCE_S", impatience.SILENCE_S)
    monkeypatch.setattr(ssh, "_END_S", 2.0)


@pytest.fixture(scope="module")
def linker() -> Iterator[Environments]:
    """What makes environments, once for all tests of a file."""
    with Environments(cache_folder(), ()) as made:
        yield made


@pytest.fixture
def odd(
    tmp_path: Path, linker: Environments, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    """A run of an odd package on a host that the test breaks, of which nothing is left after it."""
    del impatient
    import faults

    faults.hasten(monkeypatch)
    with faults.case(tmp_path, linker) as made:
        yield made


@pytest.fixture(params=["ssh", "winrm"])
def far_windows(
    request: pytest.FixtureRequest, odd: Case, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WindowsSsh]:
    """The stand-in for Windows behind one of its servers, to be broken."""
    del odd  # which shortens limits that wine needs, and looks last for what is left
    named = "winrm_server" if request.param == "winrm" else "windows_server"
    server: WindowsSsh = request.getfixturevalue(named)  # which skips where wine is missing
    import windows_faults

    windows_faults.hasten(monkeypatch)
    yield server
    server.switch_on()


@pytest.fixture(scope="module")
def known_facts() -> list[Facts]:
    """What a stand-in for Windows said of itself, once it was asked."""
    return []


@pytest.fixture
def known_windows(
    far_windows: WindowsSsh, known_facts: list[Facts], monkeypatch: pytest.MonkeyPatch
) -> WindowsSsh:
    """The same, which is asked only once what it is: that takes wine its time."""
    import faults
    import windows_faults

    faults.ask_once(windows_faults.kind(far_windows), known_facts, monkeypatch)
    return far_windows
