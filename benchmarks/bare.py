"""The bare script that `pytest --recipe` is measured against: the same work and nothing else.

Links one environment, runs one script in a container of each image, all at once, and removes
them. No report, no time limits, no facts, no proof: what a builder would write in an evening.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def prefix(number: int = 0) -> str:
    """Return where the environment of a package is in the containers, 255 characters long."""
    return (f"/opt/bench/{number:02}/" + "placehold_" * 30)[:255]


async def link(package: str, channels: list[str], cache: Path, target: Path, at: str) -> None:
    """Solve for the package and link it into ``target``, to be used at the prefix ``at``."""
    import rattler  # noqa: PLC0415 # its time belongs to the work that is measured

    records = await rattler.solve(
        sources=channels,
        specs=[package],
        platforms=["linux-64", "noarch"],
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    await rattler.install(
        records,
        target,
        cache_dir=cache,
        execute_link_scripts=False,
        show_progress=False,
        alternative_target_prefix=at,
    )


def run(image: str, environments: list[Path], scripts: list[Path]) -> int:
    """Run the scripts in a container of the image, and remove it; return its exit status."""
    import docker  # noqa: PLC0415 # as above

    client = docker.from_env()
    mounts = [
        docker.types.Mount(prefix(number), str(environment), type="bind")
        for number, environment in enumerate(environments)
    ]
    mounts += [
        docker.types.Mount(f"/script{number}.sh", str(script), type="bind", read_only=True)
        for number, script in enumerate(scripts)
    ]
    each = " && ".join(f"bash /script{number}.sh" for number in range(len(scripts)))
    container = client.containers.run(
        image,
        ["bash", "-c", each],
        mounts=mounts,
        network_mode="none",
        init=True,
        working_dir="/tmp",  # noqa: S108 # the container's
        detach=True,
    )
    status = int(container.wait()["StatusCode"])
    container.logs()
    container.remove()
    return status


def main() -> None:
    """Do the work once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", action="append", required=True)
    parser.add_argument("--channel", action="append", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--script", type=Path, action="append", required=True)
    parser.add_argument("--image", action="append", required=True)
    parser.add_argument("--only-link", type=Path, help="link into this folder, and stop")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        environments = [
            asked.only_link or Path(scratch) / str(number) for number in range(len(asked.package))
        ]
        for number, package in enumerate(asked.package):
            at = environments[number]
            asyncio.run(link(package, asked.channel, asked.cache, at, prefix(number)))
        statuses: list[int] = []
        if asked.only_link is None:
            with ThreadPoolExecutor(len(asked.image)) as pool:
                jobs = [pool.submit(run, one, environments, asked.script) for one in asked.image]
                statuses = [job.result() for job in jobs]
    sys.stdout.flush()
    os._exit(1 if any(statuses) else 0)  # py-rattler may crash while the interpreter shuts down


if __name__ == "__main__":
    main()
