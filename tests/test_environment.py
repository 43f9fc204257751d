"""Environments: hosts share what was linked once, and only as long as nobody touched it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conftest import command, without_rights, write_package
from pytest_manualbuild import checks, hosts, package
from pytest_manualbuild.environment import files
from pytest_manualbuild.environment.environments import Environments, index_channel
from pytest_manualbuild.environment.solver import Solver
from pytest_manualbuild.errors import EnvironmentBroken
from pytest_manualbuild.execution.ready import Preparation
from pytest_manualbuild.hosts.base import in_own_root
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Artifact, Facts, Host, PlannedPackage, TestSection
from pytest_manualbuild.package import archive
from pytest_manualbuild.records import CheckResult

TESTS = "test:\n  commands:\n    - 'true'\n"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A package with one file."""
    recipe = write_package(tmp_path, TESTS)
    (path,) = package.find(recipe, None)
    return package.read(path)


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Environments]:
    """What makes environments, in a cache of their own."""
    with Environments(tmp_path / "cache", ()) as made:
        yield made


def another(tmp_path: Path, test: str, folder: str, **what: Any) -> Artifact:
    """Build one more package, in a folder of its own."""
    (tmp_path / folder).mkdir()
    (path,) = package.find(write_package(tmp_path / folder, test, **what), None)
    return package.read(path)


def linked(environments: Environments, artifact: Artifact) -> Path:
    return Path(
        environments.prepare(
            artifact,
            requires=(),
            virtual_packages=(("__linux", "6.1"), ("__unix", "0")),
            subdir="linux-64",
            placement=in_own_root("0dd" * 8),
            progress=lambda _: None,
        ).path
    )


def test_a_channel_that_names_no_sha256_does_not_hide_how_long_a_prefix_may_be(
    tmp_path: Path,
) -> None:
    import builder

    placeholder = "/opt/" + "short_" * 15
    built = builder.Built(
        recipe=None,
        files={"bin/tool": builder.Staged(data=f"\0{placeholder}\0".encode())},
        subdir="linux-64",
        name="tool",
        version="1",
        placeholder=placeholder,
    )
    channel = tmp_path / "channel"
    builder.write(built, channel, ".conda")
    index_channel(channel)
    for path in channel.glob("*/repodata.json"):
        described = json.loads(path.read_text())
        for record in described["packages.conda"].values():
            del record["sha256"]
        path.write_text(json.dumps(described))

    with Environments(tmp_path / "cache", [channel.as_uri()]) as environments:
        made = environments.prepare(
            None,
            requires=["tool"],
            virtual_packages=(),
            subdir="linux-64",
            placement=in_own_root("0dd" * 8),
            progress=lambda _: None,
        )

    assert len(made.prefix) == len(placeholder)


def alter(path: Path) -> None:
    """Change a file's bytes, and hide it as well as its owner can."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_what_a_host_s_tests_did_to_a_shared_environment_reaches_no_other_host(
    environments: Environments, artifact: Artifact
) -> None:
    first = linked(environments, artifact)
    # Its own inode: the file would also be altered in the package cache, from which it is linked.
    file = first / "share/odd.txt"
    file.unlink()
    file.write_bytes(b"odd\n")
    assert linked(environments, artifact) == first

    alter(file)

    assert linked(environments, artifact) == first
    assert file.read_bytes() == b"odd\n"


def test_what_was_altered_in_an_environment_reaches_no_later_run_either(tmp_path: Path) -> None:
    """Not even what is linked in another form, is a link, or was never there."""
    import builder

    staged = {"bin/tool": f"#!{builder.PLACEHOLDER}\ngood\n"}
    artifact = another(tmp_path, TESTS, "prefixed", subdir="linux-64", staged=staged)
    with Environments(tmp_path / "cache", ()) as first:
        prefix = linked(first, artifact)
    inode = prefix.stat().st_ino
    with Environments(tmp_path / "cache", ()) as second:
        assert linked(second, artifact).stat().st_ino == inode  # linked once

    tool = prefix / "bin/tool"
    tool.write_text(tool.read_text().replace("good", "evil"))
    with Environments(tmp_path / "cache", ()) as third:
        assert "good" in (linked(third, artifact) / "bin/tool").read_text()

    (prefix / "bin/more").symlink_to("tool")
    with Environments(tmp_path / "cache", ()) as fourth:
        assert not (linked(fourth, artifact) / "bin/more").is_symlink()


def test_a_package_that_is_altered_during_a_run_is_not_read(
    environments: Environments, artifact: Artifact
) -> None:
    with environments.packages.reading(artifact) as path:
        assert str(path) == artifact.path

    alter(path)

    with (
        pytest.raises(EnvironmentBroken, match="changed since the run was planned"),
        environments.packages.reading(artifact),
    ):
        pass


def test_a_package_that_goes_away_during_a_run_is_an_error_that_names_it(
    environments: Environments, artifact: Artifact
) -> None:
    Path(artifact.path).unlink()

    with pytest.raises(
        EnvironmentBroken, match=f"{artifact.filename}: cannot be read: No such file"
    ):
        linked(environments, artifact)


def test_hosts_of_one_solution_have_one_environment_whose_bytes_are_read_once(
    environments: Environments, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = linked(environments, artifact)
    for module in (files, package):
        monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail(f"{path} is read again"))

    assert linked(environments, artifact) == first


@pytest.mark.parametrize("there", [True, False])
def test_the_disk_gets_its_work_early_where_a_package_is_large(
    environments: Environments, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    monkeypatch.setattr(files, "LARGE", 0)
    if not there:  # a system without `sync` does its work later
        monkeypatch.setenv("PATH", "/nowhere")
    begun: list[list[str]] = []
    real = subprocess.run

    def run(words: list[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
        begun.append(words)
        return real(words, **how)

    monkeypatch.setattr(subprocess, "run", run)

    assert (linked(environments, artifact) / "conda-meta").is_dir()

    for thread in threading.enumerate():
        if thread.name == "manualbuild-sync":
            thread.join(60)
            assert not thread.is_alive()
    ((_, _, folder),) = begun
    assert Path(folder).name == "pkgs"


def test_a_package_that_is_replaced_while_it_is_linked_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was unpacked from other bytes may stand in for the package in a later run."""
    placeholder = "/opt/placeholder_" * 15
    staged = {"bin/tool": f"#!{placeholder}\ngood\n"}
    recipe = write_package(tmp_path, TESTS, subdir="linux-64", staged=staged)
    (path,) = package.find(recipe, None)
    artifact = package.read(path)
    evil_folder = tmp_path / "evil"
    evil_folder.mkdir()
    write_package(
        evil_folder, TESTS, subdir="linux-64", staged={"bin/tool": f"#!{placeholder}\nevil\n"}
    )
    (evil,) = evil_folder.rglob("*.conda")
    good = Path(artifact.path).read_bytes()
    ask = Solver.ask

    def tampering(self: Solver, verb: str, timeout_s: float, **what: object) -> dict[str, Any]:
        if verb == "link":
            shutil.copyfile(evil, artifact.path)
        return ask(self, verb, timeout_s, **what)

    with Environments(tmp_path / "cache", ()) as first, monkeypatch.context() as patch:
        patch.setattr(Solver, "ask", tampering)
        with pytest.raises(EnvironmentBroken, match="changed while it was read"):
            linked(first, artifact)
    Path(artifact.path).write_bytes(good)

    with Environments(tmp_path / "cache", ()) as second:
        assert "good" in (linked(second, artifact) / "bin/tool").read_text()


def test_a_package_that_another_one_needs_is_not_replaced_either_while_both_are_linked(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = f"requirements:\n  run:\n    - odd\n{TESTS}"
    needing = another(tmp_path, needs, "needing", name="needing", staged={"share/odd.txt": ""})
    evil = another(tmp_path, TESTS, "evil", staged={"share/odd.txt": "evil\n"})
    good = Path(artifact.path).read_bytes()
    ask = Solver.ask

    def tampering(self: Solver, verb: str, timeout_s: float, **what: object) -> dict[str, Any]:
        if verb != "link":
            return ask(self, verb, timeout_s, **what)
        shutil.copyfile(evil.path, artifact.path)
        said = ask(self, verb, timeout_s, **what)
        Path(artifact.path).write_bytes(good)
        return said

    with Environments(tmp_path / "cache", ()) as made:
        made.expect([artifact, needing])
        with monkeypatch.context() as patch:
            patch.setattr(Solver, "ask", tampering)
            with pytest.raises(EnvironmentBroken, match=f"{artifact.filename}: it changed while"):
                linked(made, needing)

        assert (linked(made, artifact) / "share/odd.txt").read_text() == "odd\n"


def test_a_folder_of_packages_that_is_replaced_for_a_moment_brings_nothing_of_another_one(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time of the package itself tells of that, and what another one has beside it is linked."""
    evil = another(tmp_path, TESTS, "evil", staged={"bin/more": "evil\n"})
    folder, other, aside = Path(artifact.path).parent, Path(evil.path).parent, tmp_path / "aside"
    ask = Solver.ask

    def tampering(self: Solver, verb: str, timeout_s: float, **what: object) -> dict[str, Any]:
        if verb != "link" or not other.exists():
            return ask(self, verb, timeout_s, **what)
        folder.rename(aside)
        other.rename(folder)
        said = ask(self, verb, timeout_s, **what)
        shutil.rmtree(folder)
        aside.rename(folder)
        return said

    monkeypatch.setattr(Solver, "ask", tampering)
    with Environments(tmp_path / "cache", ()) as made:
        prefix = linked(made, artifact)

    assert not other.exists()
    assert (prefix / "share/odd.txt").is_file()
    assert not (prefix / "bin/more").exists()


@pytest.fixture
def unpack_another(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Have another package of the same name be there after each link into folders of that name.

    As another run brings it that tests one.
    """
    twin = another(tmp_path, TESTS, "twin", staged={"share/odd.txt": "other\n"})
    with Environments(tmp_path / "other", ()) as others:
        linked(others, twin)
    ask = Solver.ask

    def begin(pattern: str) -> None:
        def replacing(self: Solver, verb: str, timeout_s: float, **what: object) -> dict[str, Any]:
            said = ask(self, verb, timeout_s, **what)
            place = Path(str(what.get("cache", "")))
            if place.match(pattern):
                shutil.rmtree(place / artifact.dist)
                shutil.copytree(tmp_path / "other/pkgs" / artifact.dist, place / artifact.dist)
            return said

        monkeypatch.setattr(Solver, "ask", replacing)

    return begin


def test_what_other_runs_unpack_all_the_time_keeps_no_package_from_being_tested(
    environments: Environments, artifact: Artifact, unpack_another: Callable[[str], None]
) -> None:
    unpack_another("pkgs")

    assert (linked(environments, artifact) / "share/odd.txt").read_text() == "odd\n"


def test_no_package_is_blamed_for_another_one_that_is_unpacked_in_its_place(
    environments: Environments, artifact: Artifact, unpack_another: Callable[[str], None]
) -> None:
    unpack_another("*")

    with pytest.raises(EnvironmentBroken, match="another package of that name was unpacked"):
        linked(environments, artifact)


def without_folder(path: Path) -> None:
    """Put a file where the folder of a package is."""
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"")


@pytest.mark.parametrize("replace", [lambda path: path.write_bytes(b"no package"), without_folder])
def test_a_package_that_is_replaced_by_a_broken_one_is_not_what_is_blamed(
    environments: Environments, artifact: Artifact, replace: Callable[[Path], None]
) -> None:
    def read() -> None:
        with environments.packages.reading(artifact) as path:
            replace(path)
            package.paths(path)

    with pytest.raises(EnvironmentBroken, match="changed while it was read"):
        read()


def for_elsewhere(path: Path) -> None:
    """Put a package there that is for no such host."""
    needs = f"requirements:\n  run:\n    - __osx\n{TESTS}"
    folder = path.parent / "elsewhere"
    folder.mkdir()
    (other,) = package.find(write_package(folder, needs), None)
    shutil.copyfile(other, path)


@pytest.mark.parametrize(
    "replace", [lambda path: path.write_bytes(b"no package"), without_folder, for_elsewhere]
)
def test_nor_is_it_where_it_is_replaced_after_it_was_hashed(
    environments: Environments,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    replace: Callable[[Path], None],
) -> None:
    """Of a large package there are seconds from the one to the other."""
    info_members = archive.info_members

    def late(path: Path) -> list[tuple[str, bytes]]:
        replace(path)
        return info_members(path)

    monkeypatch.setattr(archive, "info_members", late)

    with pytest.raises(EnvironmentBroken, match="changed while it was read"):
        linked(environments, artifact)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("worse")])
def test_no_package_is_blamed_for_what_was_unpacked_of_it_earlier(
    environments: Environments, artifact: Artifact, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    linked(environments, artifact)
    shutil.rmtree(tmp_path / "cache/environments")
    damage(tmp_path / "cache/pkgs" / artifact.dist / "share/odd.txt")

    assert (linked(environments, artifact) / "share/odd.txt").read_text() == "odd\n"


@pytest.mark.parametrize("tested", [True, False])
def test_a_package_is_tested_also_where_what_was_unpacked_of_another_one_is_damaged(
    tmp_path: Path, *, tested: bool
) -> None:
    needed = another(tmp_path, TESTS, "needed", name="needed", staged={"share/more.txt": "more\n"})
    index_channel(Path(needed.path).parents[1])
    needs = f"requirements:\n  run:\n    - needed\n{TESTS}"
    needing = another(tmp_path, needs, "needing", name="needing")
    channels = () if tested else (Path(needed.path).parents[1].as_uri(),)

    def again() -> Path:
        with Environments(tmp_path / "cache", channels) as environments:
            environments.expect([needed, needing] if tested else [needing])
            return linked(environments, needing)

    again()
    shutil.rmtree(tmp_path / "cache/environments")
    (tmp_path / "cache/pkgs" / needed.dist / "share/more.txt").unlink()

    assert (again() / "share/more.txt").read_text() == "more\n"


def test_no_package_is_blamed_for_one_that_has_its_name_in_its_own(tmp_path: Path) -> None:
    listed = json.dumps({"paths": [{"_path": "gone", "path_type": "hardlink"}], "paths_version": 1})
    broken = another(tmp_path, TESTS, "py", name="pyodd", info={"info/paths.json": listed})
    index_channel(Path(broken.path).parents[1])
    needing = another(tmp_path, f"requirements:\n  run:\n    - pyodd\n{TESTS}", "odd")
    channels = (Path(broken.path).parents[1].as_uri(),)

    with (
        Environments(tmp_path / "cache", channels) as environments,
        pytest.raises(EnvironmentBroken, match="failed to link pyodd-1-0"),
    ):
        linked(environments, needing)


def test_what_was_unpacked_of_other_bytes_stands_in_for_no_package(
    environments: Environments, tmp_path: Path
) -> None:
    """A run that was killed may have left it; files with a prefix are written anew when linked."""
    import builder

    staged = {"bin/tool": f"#!{builder.PLACEHOLDER}\ngood\n"}
    artifact = another(tmp_path, TESTS, "prefixed", subdir="linux-64", staged=staged)
    linked(environments, artifact)
    shutil.rmtree(tmp_path / "cache/environments")
    tool = tmp_path / "cache/pkgs" / artifact.dist / "bin/tool"
    tool.write_text(tool.read_text().replace("good", "evil"))

    assert "good" in (linked(environments, artifact) / "bin/tool").read_text()


def test_what_was_unpacked_of_a_needed_package_is_compared_again_once_it_was_altered(
    tmp_path: Path,
) -> None:
    needed = another(tmp_path, TESTS, "needed", name="needed", staged={"share/needed": "good\n"})
    needs = f"requirements:\n  run:\n    - needed\n{TESTS}"
    first, second = (another(tmp_path, needs, name, name=name) for name in ("first", "second"))
    with Environments(tmp_path / "cache", ()) as made:
        made.expect([needed, first, second])
        linked(made, first)
        file = tmp_path / "cache/pkgs" / needed.dist / "share/needed"
        file.unlink()
        file.write_text("evil\n")

        assert (linked(made, second) / "share/needed").read_text() == "good\n"


def test_a_package_may_lie_where_no_name_is_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        artifact = another(tmp_path, TESTS, os.fsdecode(b"\xff"))
    except OSError:
        pytest.skip("this system has no such names")
    monkeypatch.chdir(Path(artifact.path).parent)

    with Environments(tmp_path / "cache", ()) as environments:
        assert (linked(environments, artifact) / "share/odd.txt").is_file()


def test_two_packages_never_share_a_folder_on_a_host(
    environments: Environments, artifact: Artifact, tmp_path: Path, run: Run
) -> None:
    """Their hashes may begin alike: then each would be tested with the other's files, too."""
    twin = another(tmp_path, TESTS, "twin", name="twin")
    alike = msgspec.structs.replace(twin, sha256=artifact.sha256[:8] + twin.sha256[8:])
    sections = (TestSection(label="", commands=("true",)),)
    planned = [
        PlannedPackage(
            artifact=one, label=one.name, sections=sections, checks=checks.checks(sections)
        )
        for one in (artifact, alike)
    ]
    given: list[CheckResult] = []
    preparation = Preparation(
        host=Host(name="here", kind="docker", subdir="linux-64", image="a"),
        run=run,
        provider=hosts.provider("docker"),
        facts=Facts(arch="x86_64", kernel="6.1"),
        recipe=tmp_path,
        environments=environments,
        selected={("here", one.artifact.key, "install") for one in planned},
        progress=lambda _: None,
        give=given.append,
    )

    preparation.ready(planned[:1])
    assert given == []
    preparation.ready(planned[1:])

    assert [one.outcome for one in given] == ["error", "error"]
    assert all("have the same folder on the host" in one.message for one in given)


def test_runs_that_begin_together_with_an_empty_cache_share_one_environment(tmp_path: Path) -> None:
    recipe = write_package(tmp_path, TESTS, staged={"share/big": os.urandom(8 << 20)})
    (path,) = package.find(recipe, None)
    artifact = package.read(path)

    def run(_: int) -> Path:
        with Environments(tmp_path / "cache", ()) as made:
            return linked(made, artifact)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(run, range(4)))) == 1


def test_a_run_that_is_killed_while_it_links_leaves_nothing_for_ever(
    environments: Environments, artifact: Artifact, tmp_path: Path
) -> None:
    program = f"""
import os, signal
from pathlib import Path
from pytest_manualbuild import package
from pytest_manualbuild.environment.solver import Solver
from test_environment import Environments, linked
ask = Solver.ask
def killed(self, verb, *args, **what):
    said = ask(self, verb, *args, **what)
    if verb == "link":
        os.kill(os.getpid(), signal.SIGKILL)
    return said
Solver.ask = killed
with Environments(Path({str(tmp_path / "cache")!r}), ()) as made:
    linked(made, package.read(Path({artifact.path!r})))
"""
    ran = command(sys.executable, "-c", program, cwd=Path(__file__).parent)
    assert ran.status == -signal.SIGKILL, ran.out
    place = tmp_path / "cache/environments"
    assert any(path.is_dir() for path in place.iterdir())

    linked(environments, another(tmp_path, TESTS, "twin", name="twin"))

    assert len([path for path in place.iterdir() if path.is_dir()]) == 1
    linked(environments, artifact)
    assert len([path for path in place.iterdir() if path.is_dir()]) == 2


def test_a_file_that_nobody_may_read_is_no_fault_of_its_package(tmp_path: Path) -> None:
    """It can be installed, as programs of others often are, and cannot be compared."""
    (tmp_path / "program").write_bytes(b"program")
    entry = {"_path": "program", "path_type": "hardlink"}
    entry["sha256"] = files.sha256_of(tmp_path / "program")
    (tmp_path / "program").chmod(0o111)
    program = f"""
from pathlib import Path
from pytest_manualbuild.environment import files
print(files.first_difference(Path({str(tmp_path)!r}), [{entry!r}]))
"""

    ran = without_rights(sys.executable, "-c", program, cwd=tmp_path)

    assert "EnvironmentBroken: program of the package may not be read" in ran.out


def test_of_many_files_the_first_that_differs_is_named(tmp_path: Path) -> None:
    entries = []
    for number in range(1000):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes([number % 251]))
        entries.append(
            {"_path": path.name, "path_type": "hardlink", "sha256": files.sha256_of(path)}
        )
    assert not files.first_difference(tmp_path, entries)
    for number in (999, 700, 3):  # of each thread's share
        (tmp_path / f"{number}").write_bytes(b"altered")
        assert files.first_difference(tmp_path, entries) == f"{number}"
    (tmp_path / "2").unlink()
    assert files.first_difference(tmp_path, entries) == "2"
