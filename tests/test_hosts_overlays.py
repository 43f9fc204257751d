"""Environments that containers share: each sees them all, and writes into its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import quiet
from pytest_manualbuild import hosts
from pytest_manualbuild.hosts import overlays
from pytest_manualbuild.hosts.base import ENVIRONMENTS
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

PAGE = 4096
"""Bytes of memory in which the kernel takes the options of a mount, with a NUL at their end."""
HOST = Host(name="a", kind="docker", subdir="linux-64", image="manualbuild/debian-12:test")


def linked(folder: Path, count: int) -> list[LinkedEnvironment]:
    """Make so many environments, below the folder as they are in containers."""
    made = []
    for number in range(count):
        prefix = f"{ENVIRONMENTS}/{number:08}/_test_env"
        path = folder / f"layer{number}" / f"{number:08}/_test_env"
        (path / "conda-meta").mkdir(parents=True)
        (path / "number").write_text(f"{number}\n")
        made.append(LinkedEnvironment(path=str(path), prefix=prefix, packages=()))
    return made


@pytest.mark.parametrize("count", [0, 1, 20, 300])
def test_the_options_of_no_mount_are_longer_than_the_kernel_takes(
    tmp_path: Path, count: int
) -> None:
    environments = linked(tmp_path / "cache", count)
    own = tmp_path / "own"
    own.mkdir()

    made = overlays.here(own, environments)

    assert sum(len(one.lowers) for one in made) == count
    assert all(len(one.options["o"]) < PAGE for one in made)
    assert len(made) == (count > 0) or count == 300


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_more_environments_than_one_overlay_can_have_are_all_there_for_each_host(
    run: Run, tmp_path: Path
) -> None:
    environments = linked(tmp_path, 70)
    provider = hosts.provider("docker")
    look = f"cat {ENVIRONMENTS}/*/_test_env/number"
    first, second = (provider.start(HOST, run, environments, quiet) for _ in "12")
    try:
        seen = [first.run(look, timeout_s=9).stdout]
        first.run(f"for one in {ENVIRONMENTS}/*; do echo x >$one/_test_env/number; done;"
                  f" rm -r {ENVIRONMENTS}/00000003", timeout_s=9)  # fmt: skip
        seen += [one.run(look, timeout_s=9).stdout for one in (second, first)]
    finally:
        first.close()
        second.close()

    assert numbers(seen[0]) == numbers(seen[1]) == [str(number) for number in range(70)]
    assert numbers(seen[2]) == ["x"] * 69
    assert all((Path(one.path) / "number").read_text() != "x\n" for one in environments)


def numbers(said: bytes) -> Sequence[str]:
    return said.decode().split()


@pytest.mark.parametrize(
    ("engine", "variable", "here"),
    [(None, None, True), (None, "", True), (None, "tcp://far:1", False), ("unix:///s", "x", True)],
)
def test_which_engines_see_the_folders_of_this_machine(
    engine: str | None, variable: str | None, *, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
    else:
        monkeypatch.setenv("DOCKER_HOST", variable)

    assert overlays.on_this_machine(engine) is here
