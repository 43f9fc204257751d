"""Hosts of kind vagrant: real Vagrant and its docker provider, left as they were found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import vagrantfiles

from conftest import command, manualbuild, quiet, recipe, results, run_pytest, write_package
from pytest_manualbuild import hosts, matrix
from pytest_manualbuild.errors import HostLost, HostUnavailable, MatrixError
from pytest_manualbuild.hosts import vagrant
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host

pytestmark = pytest.mark.docker


def machine(root: Path, **more: str) -> Host:
    return Host(name="vm", kind="vagrant", subdir="linux-64", root=str(root), **more)  # type: ignore[arg-type]


def state(root: Path) -> str:
    said = vagrantfiles.vagrant(root, "status", "--machine-readable")
    return next(line.split(",")[3] for line in said.splitlines() if ",state," in line)


def write_matrix(folder: Path, root: Path, more: str = "") -> None:
    text = f'[hosts.vm]\nkind = "vagrant"\nsubdir = "linux-64"\nroot = "{root}"\n{more}'
    (folder / "vm.toml").write_text(text)


def test_a_machine_that_is_up_is_tested_on_and_stays_up(
    standing: Path, built: Path, tmp_path: Path
) -> None:
    write_matrix(tmp_path, standing)

    ran = run_pytest(
        "--recipe", str(recipe("greet")), "--artifacts", str(built / "greet"),
        "--matrix", "vm.toml", cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 0, ran.out
    report = tmp_path / "manualbuild-report"
    assert {outcome for outcome, _ in results(report).values()} == {"passed"}
    (host,) = json.loads((report / "evidence.json").read_text())["predicate"]["hosts"]
    facts = host["facts"]
    assert facts["origin"] == "no box, provider docker"
    assert facts["host_key"].startswith("ssh-ed25519 SHA256:")
    assert any("it was there before the run" in note for note in facts["notes"])
    assert state(standing) == "running"
    there = vagrantfiles.vagrant(standing, "ssh", "-c", "ls -d /tmp/manualbuild-* || true")
    assert "/tmp/manualbuild-" not in there.replace("/tmp/manualbuild-*", "")


def test_a_machine_of_ours_is_put_back_for_each_package_and_destroyed(
    box: vagrantfiles.Box, tmp_path: Path, run: Run
) -> None:
    repository = f"mb-snapshot-{os.getpid()}"
    root = box.vagrantfile(tmp_path / "vm", before=vagrantfiles.snapshots(repository))
    host, provider = machine(root), hosts.provider("vagrant")
    try:
        facts = provider.probe(host, run, quiet)
        said = []
        for _ in range(2):
            connection = provider.start(host, run, [], quiet)
            done = connection.run("cat /etc/dirty; echo dirt > /etc/dirty", timeout_s=20)
            said.append(done.stdout)
            connection.close()
        with pytest.raises(HostUnavailable, match="in use by another run or host"):
            provider.probe(host, other := Run.begin(), quiet)
        hosts.sweep(other)
        assert state(root) == "running"
        swept = hosts.sweep(run)
    finally:
        images = command("docker", "images", "-q", repository, cwd=root).out.split()
        command("docker", "rmi", "-f", *images, cwd=root)

    assert said == [b"", b""]
    assert facts.os_id == "debian"
    assert not any("nothing but our folder is removed" in note for note in facts.notes)
    assert len(images) == 1
    assert swept == [f"machine default of {root}"]
    assert state(root) == "not_created"


def test_a_machine_that_was_off_is_switched_off_again(standing: Path, run: Run) -> None:
    container = vagrantfiles.container(standing)
    command("docker", "stop", "-t", "0", container, cwd=standing)
    try:
        hosts.provider("vagrant").probe(machine(standing), run, quiet)
        assert hosts.sweep(run) == [f"machine default of {standing} (halted)"]
        assert state(standing) == "stopped"
    finally:
        command("docker", "start", container, cwd=standing)


def test_what_a_killed_run_left_is_swept(box: vagrantfiles.Box, tmp_path: Path) -> None:
    root = box.vagrantfile(tmp_path / "vm")
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    write_matrix(tmp_path, root)
    environ = {"MANUALBUILD_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "vm.toml"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **environ},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (root / ".vagrant/machines/default/docker/id").exists():  # `up` is under way
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    swept = manualbuild("hosts", "sweep", cwd=tmp_path, **environ)

    assert f"machine default of {root}" in swept.out
    assert state(root) == "not_created"
    assert list((tmp_path / "cache/runs").iterdir()) == []


@pytest.mark.parametrize(
    ("vagrantfile", "more", "says"),
    [
        (None, {}, "Make `root` in the matrix the folder of a Vagrantfile"),
        ("not ruby (", {}, "`vagrant status` failed: .*There is a syntax error"),
        ("", {"machine": "nope"}, "The machine with the name 'nope' was not found"),
        (
            "config.vm.define 'one'; config.vm.define 'two'",
            {},
            "Name one with `machine`.*: one, two",
        ),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(
    box: vagrantfiles.Box, tmp_path: Path, run: Run, vagrantfile: str | None,
    more: dict[str, str], says: str,
) -> None:  # fmt: skip
    (tmp_path / "vm").mkdir()
    if vagrantfile is not None:
        box.vagrantfile(tmp_path / "vm", more=vagrantfile)

    with pytest.raises(HostUnavailable, match=says) as caught:
        hosts.provider("vagrant").probe(machine(tmp_path / "vm", **more), run, quiet)

    assert "\n" not in str(caught.value)
    assert hosts.sweep(run) == []


def test_a_machine_whose_name_means_another_one_to_vagrant_is_refused(
    standing: Path, box: vagrantfiles.Box, tmp_path: Path, run: Run
) -> None:
    (place,) = (standing / ".vagrant/machines/default/docker").glob("index_uuid")
    name = place.read_text()[:8]
    root = box.vagrantfile(tmp_path / "vm", more=f"config.vm.define '{name}'")

    with pytest.raises(HostUnavailable, match=f"takes '{name}' for the machine 'default' of"):
        hosts.provider("vagrant").probe(machine(root, machine=name), run, quiet)


def test_a_machine_that_does_not_come_up_is_one_clear_line_and_gone(
    box: vagrantfiles.Box, tmp_path: Path, run: Run
) -> None:
    root = vagrantfiles.Box(image="manualbuild/none:test", key=box.key).vagrantfile(tmp_path / "vm")

    with pytest.raises(HostUnavailable, match="`vagrant up default` failed") as caught:
        hosts.provider("vagrant").probe(machine(root), run, quiet)

    assert "\n" not in str(caught.value)
    hosts.sweep(run)
    assert state(root) == "not_created"


def test_a_machine_that_shares_its_vagrantfile_is_refused(
    box: vagrantfiles.Box, tmp_path: Path, run: Run
) -> None:
    root = box.vagrantfile(tmp_path / "vm", more="")

    with pytest.raises(HostUnavailable, match="tests could change its Vagrantfile"):
        hosts.provider("vagrant").probe(machine(root), run, quiet)

    assert [path.name for path in root.iterdir() if "shared" in path.name] == []


def test_a_snapshot_that_cannot_be_had_is_refused(standing: Path, run: Run) -> None:
    with pytest.raises(HostUnavailable, match=r"provider doesn't support snapshots.*Remove"):
        hosts.provider("vagrant").start(machine(standing, snapshot="clean"), run, [], quiet)


def test_without_vagrant_the_program_is_named(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostUnavailable, match=r"the program vagrant is not on PATH. Install"):
        hosts.provider("vagrant").probe(machine(tmp_path), run, quiet)


def test_a_machine_that_is_lost_in_a_sweep_keeps_no_other_from_it(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def left_as_found(_run: Run, _vagrant: object, entry: dict[str, str]) -> list[str]:
        found.append(entry["host"])
        if len(found) == 1:
            raise HostLost("its processes cannot be killed", remedy="Look at it.")
        return []

    monkeypatch.setattr(vagrant, "_left_as_found", left_as_found)
    for name in ("one", "two"):
        run.expect("vagrant", host=name, root=str(tmp_path), calls=str(tmp_path))

    with pytest.raises(HostLost):
        hosts.provider("vagrant").sweep(run)

    assert found == ["one", "two"]
    assert [entry["host"] for entry in run.made("vagrant")] == ["one"]
    hosts.provider("vagrant").sweep(run)
    assert run.made("vagrant") == []


def test_the_keys_of_the_matrix() -> None:
    with pytest.raises(MatrixError, match=r"hosts.vm.root is missing"):
        matrix.parse('[hosts.vm]\nkind = "vagrant"\nsubdir = "linux-64"\n', "vm.toml")
