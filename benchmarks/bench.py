"""Measures `pytest --recipe` against a bare script, and prints ratios of one interleaved run.

Needs a Docker engine and the images of tests/ci.toml. Times are of whole processes, start-up
included; the machine's noise is the distance from minimum to maximum. `--help` lists options.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bare
import works
from works import ROOT, Ground, Work

# What other packages bring for other people's tests is no part of what is measured: the plugins of
# Hypothesis and anyio add 0.1 s each to every run. docs/look-and-repeat.md says so to users.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p",
          "no:hypothesispytest", "-p", "no:anyio")  # fmt: skip
WORKS = {
    "greet": (works.greet, 1.25),
    "python": (works.python, 1.25),
    "heavy": (works.heavy, 1.25),
    "many": (works.many, 1.5),
}
"""What is measured by name, and how many times the bare script's time it may take."""
FRESH = ("heavy", "many")
"""Those that are measured as after a build: neither way has seen the packages before."""
SHORT_S = 2.0
"""Where the bare script takes less, `greet` and `python` may take 0.5 s more than it instead."""


def run(*words: str, cwd: Path, expect: int = 0, **variables: str) -> float:
    """Run a command; return its wall time in seconds. Stops the benchmark if it fails."""
    # Python keeps what it compiled and gathers what it prints, as for users, even where this
    # shell says otherwise.
    unusual = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    environ = {k: v for k, v in os.environ.items() if k not in unusual} | variables
    began_s = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began_s
    if done.returncode != expect:
        sys.exit(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return took_s


def fresh(ground: Ground) -> Path:
    """Return a new folder for a cache.

    None is removed before all is measured: ext4 without a journal keeps away from the inodes of
    files that were deleted up to six minutes ago, at the cost of whoever makes the next ones. Where
    that is the file system of temporary files, leave as much time after another run of this.
    """
    os.sync()  # what was written before is nobody's burden
    return Path(tempfile.mkdtemp(dir=ground.scratch, prefix="cache-"))


def bare_words(ground: Ground, work: Work) -> list[str]:
    """Return the command of the bare script."""
    cache = fresh(ground) if work.name in FRESH else ground.scratch / "bare-cache"
    words = [sys.executable, str(Path(bare.__file__)), "--cache", str(cache)]
    words += [word for name in work.packages for word in ("--package", name)]
    words += [word for path in work.scripts(ground.scratch) for word in ("--script", str(path))]
    words += [word for channel in work.channels for word in ("--channel", channel)]
    return words + [word for image in ground.images for word in ("--image", image)]


def bare_way(ground: Ground, work: Work) -> float:
    """Time the bare script."""
    return run(*bare_words(ground, work), cwd=ground.scratch)


def our_way(ground: Ground, work: Work, cache: Path | None = None) -> float:
    """Time `pytest --recipe`, with a new report: an older one would have to be removed first."""
    cache = cache or ground.scratch / "cache"
    report = Path(tempfile.mkdtemp(dir=ground.scratch, prefix="report-"))
    (ground.scratch / f"report-{work.name}").unlink(missing_ok=True)
    (ground.scratch / f"report-{work.name}").symlink_to(report)
    return run(
        *PYTEST,
        "--recipe", str(work.recipe), "--artifacts", str(work.artifacts),
        "--matrix", str(ground.matrix), "--evidence", str(report),
        *(word for channel in work.channels[1:] for word in ("--channel", channel)),
        cwd=ground.scratch, MANUALBUILD_CACHE=str(cache),
    )  # fmt: skip


def our_way_linking(ground: Ground, work: Work) -> float:
    """Time `pytest --recipe` when the environment must be linked anew, as the bare script does."""
    if work.name not in FRESH:
        shutil.rmtree(ground.scratch / "cache/environments", ignore_errors=True)
        return our_way(ground, work)
    cache = fresh(ground)
    # The bare script asks no image what it is, and who builds again need not either.
    if (known := ground.scratch / "cache/facts").is_dir():
        shutil.copytree(known, cache / "facts")
    return our_way(ground, work, cache)


TESTINFRA = """\
import pytest

@pytest.mark.parametrize("command", {commands!r})
def test_command(host, command):
    host.run_expect([0], "export PATH={prefix}/bin:$PATH PREFIX={prefix}; {exports}" + command)
"""


def testinfra_way(ground: Ground, work: Work) -> float:
    """Time pytest with testinfra's own docker backend, one item for each command."""
    words = bare_words(ground, work)
    began_s = time.perf_counter()
    folder = Path(tempfile.mkdtemp(dir=ground.scratch))
    environment = folder / "prefix"
    run(*words, "--only-link", str(environment), cwd=folder)
    imports = [f"python -c 'import {name}'" for name in work.imports]
    text = TESTINFRA.format(
        commands=[*imports, *work.commands],
        prefix=bare.prefix(),
        # Its items share no shell, so what one exports is given to all.
        exports="".join(f"{one}; " for one in work.commands if one.startswith("export ")),
    )
    (folder / "test_work.py").write_text(text)

    def start(image: str) -> str:
        done = subprocess.run(
            ["docker", "run", "-d", "--rm", "--init", "--network", "none", "-v",
             f"{environment}:{bare.prefix()}", image, "sleep", "600"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def remove(container: str) -> None:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)

    with ThreadPoolExecutor(len(ground.images)) as pool:
        containers = list(pool.map(start, ground.images))
        try:
            hosts = ",".join(f"docker://{one}" for one in containers)
            run(
                *PYTEST, "-p",
                "no:manualbuild", f"--hosts={hosts}", "--rootdir", str(folder), str(folder),
                cwd=folder,
            )  # fmt: skip
        finally:
            list(pool.map(remove, containers))
    return time.perf_counter() - began_s


def plugin_cost(ground: Ground, rounds: int) -> None:
    """Print the time of a pytest run of one empty test without and with the plugin, interleaved."""
    folder = ground.scratch / "empty"
    folder.mkdir(exist_ok=True)
    (folder / "test_empty.py").write_text("def test_empty():\n    pass\n")
    words = [*PYTEST]
    words += ["--rootdir", str(folder)]
    found: list[list[float]] = [[], []]
    for _ in range(rounds):
        found[0].append(run(*words, "-p", "no:manualbuild", cwd=folder))
        found[1].append(run(*words, cwd=folder))
    print("\na pytest run of one empty test, without --recipe")
    row("without the plugin", found[0])
    row("with it", found[1], found[0])


def row(name: str, times: Sequence[float], base: Sequence[float] | None = None) -> None:
    """Print one line of the table, with its ratio to the base."""
    median = statistics.median(times)
    line = f"  {name:<38} {min(times):7.2f} {median:7.2f} {max(times):7.2f} s"
    if base is not None:
        other = statistics.median(base)
        line += f"   {median / other:5.2f} x   {median - other:+6.2f} s"
    print(line, flush=True)


def compare(ground: Ground, work: Work, rounds: int, most: float) -> bool:
    """Measure every way of doing the work, interleaved; return whether ours is fast enough.

    ``most`` is the ratio to the bare script that is allowed where that takes long enough.
    """
    ways: dict[str, Callable[[Ground, Work], float]] = {
        "bare script": bare_way,
        "pytest --recipe, linking anew": our_way_linking,
        "pytest --recipe": our_way,
    }
    if len(work.packages) == 1:
        ways["pytest + testinfra, an item a command"] = testinfra_way
    packages = f"{len(work.packages)} packages with " if len(work.packages) > 1 else ""
    print(f"\n{work.name}: {packages}{len(work.imports)} imports and {len(work.commands)} commands,"
          f" {len(ground.images)} containers, {rounds} rounds")  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(ground, work)  # caches, and the kernel's
    phases: list[dict[str, float]] = []
    turns = list(ways.items())
    for _ in range(rounds):
        # Whoever writes much leaves the disk busy for the next one: each comes after each other.
        turns.append(turns.pop(0))
        for name, way in turns:
            times[name].append(way(ground, work))
            if name == "pytest --recipe, linking anew":
                phases.append(read_phases(ground, work))
    print(f"  {'':<38} {'least':>7} {'median':>7} {'most':>7}")
    base = times["bare script"]
    for name, found in times.items():
        row(name, found, None if found is base else base)
    names = dict.fromkeys(name for one in phases for name in one)
    shown = [f"{name} {statistics.median(p.get(name, 0) for p in phases):.2f}" for name in names]
    print(f"  phases of the slowest host (s, linking anew): {', '.join(shown)}")
    ours, bares = (
        statistics.median(times[name]) for name in ("pytest --recipe, linking anew", "bare script")
    )
    short = bares < SHORT_S and work.name not in FRESH
    allowed = bares + 0.5 if short else most * bares
    print(f"  allowed {allowed:.2f} s: {'kept' if ours <= allowed else 'MISSED'}")
    return ours <= allowed


def read_phases(ground: Ground, work: Work) -> dict[str, float]:
    """Return the longest time that any host spent in each phase of the last run."""
    report = ground.scratch / f"report-{work.name}" / "evidence.json"
    hosts = json.loads(report.read_text())["predicate"]["hosts"]
    names = dict.fromkeys(name for host in hosts for name in host["phases_s"])
    return {name: max(host["phases_s"].get(name, 0) for host in hosts) for name in names}


def per_check(ground: Ground, rounds: int) -> None:
    """Print what one more check costs: many trivial commands against few, and against bare."""
    print("\nwhat one more check costs on each of the containers, `:` as the command")
    few, many = (works.trivial(ground, count) for count in (10, 410))
    found: dict[str, list[float]] = {"bare script": [], "pytest --recipe": []}
    for _ in range(rounds):
        for name, way in (("bare script", bare_way), ("pytest --recipe", our_way)):
            found[name].append((way(ground, many) - way(ground, few)) / 400 * 1000)
    for name, times in found.items():
        print(f"  {name:<38} {min(times):7.2f} {statistics.median(times):7.2f}"
              f" {max(times):7.2f} ms")  # fmt: skip


def images() -> tuple[str, ...]:
    """Return the images of the tests that are there, four in all; some may come twice."""
    tables = tomllib.loads((ROOT / "tests" / "ci.toml").read_text())["hosts"].values()
    wanted = [table["image"] for table in tables]
    there = [
        one
        for one in wanted
        if subprocess.run(
            ["docker", "image", "inspect", one], capture_output=True, check=False
        ).returncode == 0
    ]  # fmt: skip
    if not there:
        sys.exit(f"None of the images {', '.join(wanted)} is here: .ci/images makes them.")
    return tuple((there * len(wanted))[: len(wanted)])


def main() -> None:
    """Measure, and end with status 1 when the allowance was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=(*WORKS, "check", "plugin"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="manualbuild-bench-") as folder:
        scratch = Path(folder)
        found = images()
        matrix = scratch / "matrix.toml"
        matrix.write_text("".join(
            f'[hosts.c{number}]\nkind = "docker"\nsubdir = "linux-64"\nimage = "{image}"\n'
            for number, image in enumerate(found)
        ))  # fmt: skip
        ground = Ground(scratch=scratch, images=found, matrix=matrix)
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"{os.cpu_count()} cores, load {load}; {', '.join(found)}")
        kept = [
            compare(ground, make(ground), asked.rounds, most)
            for name, (make, most) in WORKS.items()
            if asked.only in (None, name)
        ]
        if asked.only in (None, "check"):
            per_check(ground, asked.rounds)
        if asked.only in (None, "plugin"):
            plugin_cost(ground, 3 * asked.rounds)
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
