"""``manualbuild build``: packages made by hand, with a record that joins the evidence."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from conftest import LOCAL, META, command, manualbuild, run_local, write_package
from pytest_manualbuild import build_record, package
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.recipe.folder import folder_sha256

IMAGE = "manualbuild/debian-12:test"
# What conda-forge's script does, without a pull and without conda: a container makes the package.
SCRIPT = """\
set -eo pipefail
: "${CONFIG:?}" "${DOCKER_IMAGE:?}" "${CI:?}"
test "${UPLOAD_PACKAGES}" = False
docker run --network none --user "$(id -u)" ${CONDA_FORGE_DOCKER_RUN_ARGS} \\
    -v "$PWD":/home/conda/feedstock_root "${DOCKER_IMAGE}" \\
    bash /home/conda/feedstock_root/.scripts/build_steps.sh
"""
STEPS = """\
set -e
echo "building on $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
cd /home/conda/feedstock_root/stage
echo odd > share/odd.txt
mkdir -p ../build_artifacts/noarch ../build_artifacts/broken
tar -cf ../build_artifacts/noarch/odd-1-0.tar info share
touch ../build_artifacts/broken/odd-1-0.tar.bz2
"""
PACK = """\
python3 -c 'import bz2, sys; sys.stdout.buffer.write(bz2.compress(sys.stdin.buffer.read()))' \\
    < build_artifacts/noarch/odd-1-0.tar > build_artifacts/noarch/odd-1-0.tar.bz2
rm build_artifacts/noarch/odd-1-0.tar
"""


def feedstock(folder: Path, *, script: str = SCRIPT + PACK, steps: str = STEPS) -> Path:
    """Write a feedstock, with the files of its package but for the one that is built."""
    import builder

    files = {
        "recipe/meta.yaml": META,
        ".scripts/run_docker_build.sh": script,
        ".scripts/build_steps.sh": steps,
        ".ci_support/linux_64_.yaml": f"docker_image:\n- {IMAGE}\n",
        ".gitignore": "stage\nbuild_artifacts\n",
        "local.toml": LOCAL,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    staged = {"share/odd.txt": builder.Staged(data=b"odd\n")}
    _, contents = builder.contents(
        builder.Built(recipe=folder / "recipe", files=staged, subdir="noarch")
    )
    for name, file in contents.items():
        (folder / "stage" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "stage" / name).write_bytes(file.data)
    (folder / "stage/share/odd.txt").unlink()
    return folder


def record_of(folder: Path, name: str = "linux_64_") -> dict[str, object]:
    path = folder / f"build_artifacts/manualbuild/{name}/build.json"
    found: dict[str, object] = json.loads(path.read_text())
    return found


def containers() -> str:
    return command("docker", "ps", "-aq", "--filter", "label=manualbuild.build", cwd=Path("/")).out


@pytest.mark.usefixtures("engine")
def test_a_feedstock_is_built_recorded_tested_and_requested(tmp_path: Path) -> None:
    feedstock(tmp_path)
    git = ("git", "-c", "user.name=jane", "-c", "user.email=jane@example.org")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "Start")):
        assert command(*git, *words, cwd=tmp_path).status == 0

    ran = manualbuild("build", ".", cwd=tmp_path, ANACONDA_API_TOKEN="secret")

    assert ran.status == 0, ran.out
    assert "building on" in ran.out
    record = record_of(tmp_path)
    built = (tmp_path / "build_artifacts/noarch/odd-1-0.tar.bz2").read_bytes()
    digest = hashlib.sha256(built).hexdigest()
    assert record["packages"] == [
        {"key": "noarch/odd-1-0.tar.bz2", "sha256": digest, "size": len(built)}
    ]
    assert (record["state"], record["exit_status"], record["tool"]) == ("built", 0, "feedstock")
    commit = command("git", "rev-parse", "HEAD", cwd=tmp_path).out.strip()
    assert record["sources"] == {"commit": commit, "dirty": False, "folder": ""}
    assert record["recipe_sha256"] == folder_sha256(tmp_path / "recipe")
    config = (tmp_path / ".ci_support/linux_64_.yaml").read_bytes()
    assert record["config"] == {
        "name": "linux_64_.yaml",
        "sha256": hashlib.sha256(config).hexdigest(),
    }
    image = command("docker", "image", "inspect", "-f", "{{.Id}}", IMAGE, cwd=tmp_path).out.strip()
    assert record["image"] == {"name": IMAGE, "id": image, "digests": []}
    log = (tmp_path / "build_artifacts/manualbuild/linux_64_/log.txt").read_bytes()
    assert record["log_sha256"] == hashlib.sha256(log).hexdigest()
    assert "Debian GNU/Linux 12" in log.decode()
    assert "secret" not in json.dumps(record)
    assert containers() == ""

    ran = run_local(tmp_path, "--evidence", "report")
    assert ran.status == 0, ran.out
    logs = json.loads((tmp_path / "report/evidence.json").read_text())["predicate"]["logs"]
    joined = (tmp_path / "report/logs/build-linux_64_.json").read_bytes()
    assert logs["logs/build-linux_64_.json"] == hashlib.sha256(joined).hexdigest()
    ran = manualbuild("request", "report", "--user", "jane", cwd=tmp_path)
    assert ran.status == 0, ran.out
    asked = (tmp_path / "report/request/checklist.md").read_text()
    assert f"log.txt, sha256 {record['log_sha256']}" in asked
    assert commit in asked

    (tmp_path / "report/logs/build-linux_64_.json").write_bytes(joined.replace(b"2", b"3"))
    ran = manualbuild("verify", "report", cwd=tmp_path)
    assert (ran.status, "build-linux_64_.json" in ran.out) == (1, True), ran.out


def test_a_record_of_other_bytes_is_not_about_a_package(tmp_path: Path) -> None:
    write_package(tmp_path, "test: {}")
    path = next(tmp_path.glob("build_artifacts/noarch/*"))
    artifact = package.read(path)
    record = build_record.Record(
        made_by="", tool="feedstock", state="built", started="", command=(), environment={},
        recipe_sha256="", sources=None, config=None,
        packages=(build_record.BuiltFile.of(path),),
    )  # fmt: skip
    place = tmp_path / "build_artifacts/manualbuild/one"
    place.mkdir(parents=True)
    build_record.write(place / "build.json", record)
    assert [name for name, _ in build_record.of_packages([artifact])] == ["one"]

    assert list(build_record.of_packages([replace(artifact, sha256="0" * 64)])) == []


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("script", "steps", "said", "state"),
    [
        (SCRIPT, "echo broken; exit 3", "the build ended with status 3. Its log is", "failed"),
        (SCRIPT, "true", "the build made no package in", "failed"),
        (SCRIPT + PACK + "echo >> recipe/meta.yaml", STEPS, "the recipe changed while", "failed"),
    ],
)
def test_a_build_that_fails_says_so_in_one_line(
    tmp_path: Path, script: str, steps: str, said: str, state: str
) -> None:
    feedstock(tmp_path, script=script, steps=steps)

    ran = manualbuild("build", ".", cwd=tmp_path)

    assert ran.status == 1
    assert said in ran.out.splitlines()[-1]
    assert record_of(tmp_path)["state"] == state
    assert containers() == ""


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, b"manualbuild: interrupted."),
        (signal.SIGTERM, b"manualbuild: ended by SIGTERM."),
    ],
)
def test_an_interrupted_build_leaves_no_container_and_says_so(
    tmp_path: Path, number: signal.Signals, told: bytes
) -> None:
    feedstock(tmp_path, steps="echo under way; trap '' INT TERM; sleep 600 & wait; wait")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_manualbuild.cli", "build", "."],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    while b"under way" not in (line := process.stdout.readline()):
        assert line, "it ended by itself"

    process.send_signal(number)
    said, _ = process.communicate(timeout=60)

    assert (process.returncode, said.splitlines()[-1]) == (128 + number, told)
    record = record_of(tmp_path)
    assert (record["state"], record["exit_status"], record["packages"]) == ("interrupted", None, [])
    assert containers() == ""


# Ctrl-C at the worst moment: when the lock of who waits for the build was just taken. And, where
# no such moment comes, two seconds later.
WORST = """\
import os, signal, subprocess, sys, threading
from pytest_manualbuild import cli

def lines(frame, event, _):
    popen = frame.f_locals["self"]
    if popen._waitpid_lock.locked() and "run_docker_build" in str(popen.args):
        later.cancel()
        raise KeyboardInterrupt
    return lines

def calls(frame, event, _):
    return lines if frame.f_code is subprocess.Popen._wait.__code__ else None

later = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
later.start()
sys.settrace(calls)
sys.exit(cli.main(["build", "."]))
"""


@pytest.mark.usefixtures("engine")
def test_a_build_that_is_interrupted_at_the_worst_moment_ends(tmp_path: Path) -> None:
    feedstock(tmp_path, steps="echo under way; sleep 600")

    ran = command(sys.executable, "-c", WORST, cwd=tmp_path, timeout_s=60)

    assert ran.status == 130, ran.out
    assert record_of(tmp_path)["state"] == "interrupted"
    assert containers() == ""


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        ((), ".ci_support/linux_64_two.yaml", "several variants (there: linux_64_, linux_64_two)"),
        (("--config", "linux_32_"), None, "there is no linux variant 'linux_32_'"),
        (("--config", "linux_64_two"), ".ci_support/linux_64_two.yaml", "names no docker_image"),
        ((), ".scripts/run_docker_build.sh", "there is no such script"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    tmp_path: Path, words: tuple[str, ...], change: str | None, said: str
) -> None:
    feedstock(tmp_path)
    if change and (tmp_path / change).exists():
        (tmp_path / change).unlink()
    elif change:
        (tmp_path / change).write_text("a: [1]\n")

    ran = manualbuild("build", ".", *words, cwd=tmp_path)

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert said in ran.out
    assert not (tmp_path / "build_artifacts").exists()


def test_without_docker_nothing_begins(tmp_path: Path) -> None:
    feedstock(tmp_path)

    ran = manualbuild("build", ".", cwd=tmp_path, PATH=str(tmp_path))

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert "Neither docker nor podman is on PATH" in ran.out


V1 = """\
package: {name: odd, version: "1"}
build:
  noarch: generic
  script: mkdir -p $PREFIX/share && echo %s > $PREFIX/share/odd.txt
tests:
  - script:
      - test -f $PREFIX/share/odd.txt
"""


def test_a_recipe_alone_is_built_by_the_library(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/recipe.yaml").write_text(V1 % "odd")
    (tmp_path / "local.toml").write_text(LOCAL)
    (tmp_path / "channel").mkdir()
    index_channel(tmp_path / "channel")
    channel = (tmp_path / "channel").as_uri()

    ran = manualbuild("build", "recipe", "--channel", channel, cwd=tmp_path)

    assert ran.status == 0, ran.out
    record = record_of(tmp_path, tmp_path.name)
    assert (record["tool"], record["image"], record["sources"]) == ("rattler-build", None, None)
    ran = run_local(tmp_path, "--channel", channel)
    assert ran.status == 0, ran.out
    assert list(tmp_path.glob("manualbuild-report/logs/build-*.json"))

    (tmp_path / "recipe/recipe.yaml").write_text(V1 % "odd && false")
    ran = manualbuild("build", "recipe", "--channel", channel, cwd=tmp_path)
    assert ran.status == 1
    assert "the build ended with status 1" in ran.out.splitlines()[-1]


def test_a_meta_yaml_alone_needs_conda_build(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/meta.yaml").write_text(META)

    ran = manualbuild("build", "recipe", cwd=tmp_path, PATH=str(tmp_path))

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert "needs conda-build, which is not on PATH. Make the environment of environment" in ran.out
