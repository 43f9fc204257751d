"""Measures what hosts of each kind cost: `python benchmarks/kinds.py MATRIX [--on GLOB]`.

For each host of a matrix file: to probe it, to start it, one framed command (median), to deliver
an environment of `--size` MB in 4,000 files, half of it compressible, and to release it. With
`--at-once N`, also N of that host started together, each of which answered, and released.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_manualbuild import hosts, matrix
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

FILES = 4000
SHORT_S = 60.0


def quiet(_: str) -> None:
    """Show no progress."""


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def environment(folder: Path, size: int) -> None:
    """Write files of that size in all, in MB, like those of an environment."""
    (folder / "conda-meta").mkdir(parents=True)
    each = size * 1_000_000 // FILES
    for number in range(FILES):
        (folder / f"file-{number}").write_bytes(os.urandom(each // 2) + b"ab" * (each // 4))


def measure(host: Host, linked: Path, commands: int) -> str:
    """Return one row: seconds of each step, and milliseconds of one command."""
    run = Run.begin()
    provider = hosts.provider(host.kind)
    root = provider.placement(host, run, "0" * 64).root
    placed = LinkedEnvironment(path=str(linked), prefix=f"{root}/environment", packages=())
    try:
        probe_s = timed(lambda: provider.probe(host, run, quiet))
        connections = []
        start_s = timed(lambda: connections.append(provider.start(host, run, [], quiet)))
        (empty,) = connections
        each = [timed(lambda: empty.run("true", timeout_s=SHORT_S)) for _ in range(commands)]
        release_s = timed(empty.close)
        full_s = timed(lambda: connections.append(provider.start(host, run, [placed], quiet)))
        connections[-1].close()
    finally:
        hosts.sweep(run)
    return (
        f"{host.name:20} {probe_s:8.2f} {start_s:8.2f} {1000 * statistics.median(each):10.1f}"
        f" {max(0.0, full_s - start_s):10.2f} {release_s:10.2f}"
    )


def many(host: Host, count: int) -> str:
    """Return a row: how long so many starts at once take until all answered, and to release them.

    The limits that a matrix sets for an engine or a machine do not hold here.
    """
    run = Run.begin()
    provider = hosts.provider(host.kind)
    provider.probe(host, run, quiet)

    def start(_: int) -> Connection:
        connection = provider.start(host, run, [], quiet)
        connection.run("true", timeout_s=SHORT_S)
        return connection

    try:
        with ThreadPoolExecutor(count) as pool:
            connections: list[Connection] = []
            start_s = timed(lambda: connections.extend(pool.map(start, range(count))))
            release_s = timed(lambda: list(pool.map(lambda one: one.close(), connections)))
    finally:
        hosts.sweep(run)
    return f"{count} at once: {host.name:10} {start_s:8.2f} {'':21} {release_s:10.2f}"


def main() -> None:
    """Read the options and print one row a host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("matrix")
    parser.add_argument("--on", default="*", metavar="GLOB")
    parser.add_argument("--size", type=int, default=216, help="of the environment, in MB")
    parser.add_argument("--commands", type=int, default=200)
    parser.add_argument("--at-once", type=int, metavar="N")
    options = parser.parse_args()
    print(f"{'host':20} {'probe s':>8} {'start s':>8} {'command ms':>10} {'deliver s':>10}"
          f" {'release s':>10}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "linked"
        environment(linked, options.size)
        for host in matrix.load(options.matrix).hosts:
            # Environments of local hosts are linked in place: nothing is delivered.
            if fnmatchcase(host.name, options.on) and host.kind != "local":
                print(measure(host, linked, options.commands), flush=True)
                if options.at_once:
                    print(many(host, options.at_once), flush=True)


if __name__ == "__main__":
    main()
