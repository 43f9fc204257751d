"""The whole road once: build, test, judge, publish, install. Run it with ``tox run -e demo``.

Needs Python and what tox installed, nothing else. Containers join in where a
Docker engine answers; where none does, it says so and goes on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import packages

from pytest_manualbuild import hosts, package
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.errors import HostError
from pytest_manualbuild.hosts.base import Placement
from pytest_manualbuild.hosts.facts import virtual_packages
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.matrix import local_subdir
from pytest_manualbuild.model import Host

OUTPUT = Path("demo-output")
IMAGES = ("debian:11", "debian:12", "debian:13")
OWN_IMAGES = tuple(f"manualbuild/debian-{number}:test" for number in (11, 12, 13))


def say(text: str) -> None:
    """Print a heading at once, so that it stands before what a program prints."""
    print(f"\n=== {text}", flush=True)


def run(*words: str, expect: int | None = 0) -> int:
    """Run a command as a user would, shown first; stop the demo if its status is unexpected."""
    print(f"$ {shlex.join(words)}", flush=True)
    status = subprocess.run(words, check=False).returncode
    print(f"(exit status {status})", flush=True)
    if expect is not None and status != expect:
        sys.exit(f"The demo expected exit status {expect}.")
    return status


def find_containers() -> list[str]:
    """Return the images that are there; say why there is none."""
    import docker  # noqa: PLC0415 # only here

    try:
        client = docker.from_env(timeout=10)
        tags = {tag for image in client.images.list() for tag in image.tags}
        client.close()
    except Exception as error:  # noqa: BLE001 # no engine is no failure of the demo
        print(f"Containers are left out: no Docker engine answers ({error}).")
        return []
    found = [image for image in (*IMAGES, *OWN_IMAGES) if image in tags]
    if not found:
        print(f"Containers are left out: none of {', '.join(IMAGES)} was pulled.")
    return found


def write_matrix(images: list[str]) -> Path:
    """Write a matrix of this machine and of those images, all required."""
    lines = ["# Made by the demo.", "", "[hosts.this-machine]", 'kind = "local"', ""]
    for image in images:
        name = image.split("/")[-1].replace(":test", "").replace(":", "-")
        lines += [f"[hosts.{name}]", 'kind = "docker"', f'subdir = "{local_subdir()}"']
        lines += [f'image = "{image}"', ""]
    path = OUTPUT / "matrix.toml"
    path.write_text("\n".join(lines))
    return path


def check_recipe(name: str, matrix: Path, channel: str, expect: int | None = 0) -> Path:
    """Run the recipe's tests; return the folder of the report."""
    report = OUTPUT / f"report-{name}"
    run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "--recipe", str(packages.RECIPES / name), "--artifacts", str(OUTPUT / "built" / name),
        "--matrix", str(matrix), "--channel", channel, "--evidence", str(report),
        expect=expect,
    )  # fmt: skip
    return report


def install(name: str, filename: str, channels: list[str]) -> None:
    """Install a published package from the channel and run it."""
    machine = Host(name="demo", kind="local", subdir=local_subdir())
    demo_run = Run.begin()
    try:
        facts = hosts.provider("local").probe(machine, demo_run, lambda _: None)
        place = str(demo_run.folder / "installed")
        with Environments(cache_folder(), channels) as environments:
            linked = environments.prepare(
                package.read(OUTPUT / "channel" / filename),
                requires=[],
                virtual_packages=virtual_packages(facts, machine.subdir),
                subdir=machine.subdir,
                placement=Placement(root=place, folder=place, in_place=True),
                progress=lambda _: None,
            )
        environ = {**os.environ, "PATH": f"{linked.prefix}/bin:{os.environ['PATH']}"}
        said = subprocess.run([f"{linked.prefix}/bin/{name}"], env=environ, check=True,
                              capture_output=True, text=True).stdout  # fmt: skip
        print(f"{name} from {OUTPUT / 'channel'} says: {said.strip()}")
    finally:
        demo_run.forget()


def main() -> None:
    """Run the demo."""
    began = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    say("1. Build the example packages")
    names = ["purehello"]
    if packages.can_compile():
        names += ["greet", "greet-undeclared"]
    else:
        print("The C examples are left out: they are for x86_64 Linux.")
    for name in names:
        for path in packages.build(name, OUTPUT / "built" / name, ".conda"):
            print(path)
    channel = packages.python_channel(OUTPUT / "python-channel")
    images = find_containers()
    matrix = write_matrix(images)
    this_machine = write_local(matrix)

    say("2. Test: this machine" + (f" and {', '.join(images)}" if images else " alone"))
    # Our python is this machine's: containers with an older glibc cannot run it.
    accepted = {"purehello": check_recipe("purehello", this_machine, channel)}
    if "greet" in names:
        accepted["greet"] = check_recipe("greet", matrix, channel)

    say("3. Judge: a package that failed, or was changed after its tests, is refused")
    manualbuild = [sys.executable, "-m", "pytest_manualbuild.cli"]
    if images and "greet-undeclared" in names:
        report = check_recipe("greet-undeclared", matrix, channel, expect=None)
        run(*manualbuild, "verify", str(report), expect=1)
    changed = OUTPUT / "changed" / "noarch"
    shutil.copytree(OUTPUT / "built/purehello/noarch", changed)
    for path in changed.glob("*.conda"):
        packages.build("purehello", OUTPUT / "changed", ".conda")
        with path.open("ab") as file:
            file.write(b"\0")
    run(*manualbuild, "verify", str(accepted["purehello"]), "--artifacts", str(OUTPUT / "changed"),
        expect=1)  # fmt: skip

    say("4. Publish what was proven into a channel folder")
    for report in accepted.values():
        run(*manualbuild, "verify", str(report))
        run(*manualbuild, "upload", str(report), "--to", str(OUTPUT / "channel"))

    say("5. Install it from there")
    published = (OUTPUT / "channel").absolute().as_uri()
    install("purehello", "noarch/purehello-1.0-py_0.conda", [published, channel])
    if "greet" in accepted:
        install("greet", "linux-64/greet-1.0-0.conda", [published])
    print(f"\nThe whole road took {time.monotonic() - began:.0f} s. Look around in {OUTPUT}/.")


def write_local(matrix: Path) -> Path:
    """Write the part of the matrix that is this machine."""
    path = matrix.with_name("this-machine.toml")
    path.write_text('[hosts.this-machine]\nkind = "local"\n')
    return path


if __name__ == "__main__":
    try:
        main()
    except HostError as error:
        sys.exit(f"demo: {error}")
