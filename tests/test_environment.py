"""Environments: hosts share what was linked once, and only as long as nobody touched it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import write_package
from pytest_manualbuild import package
from pytest_manualbuild.environment import files
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.hosts.base import Placement
from pytest_manualbuild.model import Artifact

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


def linked(environments: Environments, artifact: Artifact) -> Path:
    return Path(
        environments.prepare(
            artifact,
            requires=(),
            virtual_packages=(("__linux", "6.1"), ("__unix", "0")),
            subdir="linux-64",
            placement=Placement(root="/opt/manualbuild/odd", in_place=False),
            progress=lambda _: None,
        ).path
    )


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


def test_an_altered_copy_of_the_package_is_copied_again(
    environments: Environments, artifact: Artifact
) -> None:
    copy = environments.copy_of(artifact)

    alter(copy)

    assert environments.copy_of(artifact) == copy
    assert files.sha256_of(copy) == artifact.sha256


def test_hosts_of_one_solution_have_one_environment_whose_bytes_are_read_once(
    environments: Environments, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = linked(environments, artifact)
    monkeypatch.setattr(files, "sha256_of", lambda path: pytest.fail(f"{path} is read again"))

    assert linked(environments, artifact) == first
