"""Measures the scan and the audit of large packages: ``python benchmarks/audit.py [MEGABYTES]``.

Each runs in processes of its own, three times, so that its memory can be told and the quickest
is not slowed by what else the machine does. The libraries are this machine's own, or those of
the wheels below the folder that MANUALBUILD_TEST_WHEELS names (see ``tests/README.md``).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import builder

RUNS = 3
_MEASURED = """
import resource, sys, time
from pathlib import Path
from pytest_manualbuild.audit import audit, leaks
from pytest_manualbuild.audit.binaries import Binaries
from pytest_manualbuild.package.archive import scan

def binaries(path):
    with Binaries() as found:
        def look(name, content):
            for _ in found.watch(name, content):
                pass
        scan(path, look)
        found.finish()

started = time.perf_counter()
{call}
seconds = time.perf_counter() - started
cpu = time.process_time()
child = resource.getrusage(resource.RUSAGE_CHILDREN)
its = child.ru_utime + child.ru_stime
status = Path("/proc/self/status").read_text()  # getrusage counts the parent's, too
memory = int(status.split("VmHWM:")[1].split()[0]) >> 10
print(
    f"{{seconds:6.2f}} s  (processor: {{cpu:.2f}} s, its child {{its:.2f}} s)"
    f"  {{memory:4}} MiB  (its child {{child.ru_maxrss >> 10}} MiB)"
)
"""
_CALLS = {
    "scan": "scan(Path(sys.argv[1]))",
    "with leaks": "scan(Path(sys.argv[1]), leaks.search)",
    "with binaries": "binaries(Path(sys.argv[1]))",
    "audit": "audit(Path(sys.argv[1]))",
}


def _libraries(megabytes: int) -> dict[str, bytes]:
    kept = Path(os.environ.get("MANUALBUILD_TEST_WHEELS", "/nowhere"))
    found = list(_of_wheels(sorted(kept.rglob("*linux*.whl"))))
    found = found or list(_of_this_machine(megabytes))
    files: dict[str, bytes] = {}
    left = megabytes * 1_000_000
    for number, (name, data) in enumerate(_forever(found)):
        if left <= 0:
            return files
        files[f"lib/{number}-{name}"] = data
        left -= len(data)
    return files


def _of_wheels(wheels: list[Path]) -> Iterator[tuple[str, bytes]]:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as container:
            for name in container.namelist():
                if ".so" in name:
                    yield Path(name).name, container.read(name)


def _of_this_machine(megabytes: int) -> Iterator[tuple[str, bytes]]:
    libraries = [path for path in sorted(Path("/usr/lib").rglob("*.so*")) if path.is_file()]
    random.Random(0).shuffle(libraries)  # noqa: S311 # the same on each run
    left = megabytes * 1_000_000
    for path in libraries:
        if left > 0 and (data := path.read_bytes()).startswith(b"\x7fELF"):
            left -= len(data)
            yield path.name, data


def _forever(found: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    while found:
        yield from found


def _measure(call: str, path: Path) -> str:
    """Return what is said of the quickest of several runs."""
    words = [sys.executable, "-c", _MEASURED.format(call=call), str(path)]
    said = [
        subprocess.run(words, capture_output=True, text=True, check=True).stdout
        for _ in range(RUNS)
    ]
    return min(said, key=lambda line: float(line.split()[0])).rstrip()


def main() -> None:
    """Make the packages, measure, and print."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 250
    cases = {
        f"{megabytes} MB of libraries": _libraries(megabytes),
        "100,000 small files": {f"share/a/{n}.txt": b"%d\n" % n * 20 for n in range(100_000)},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for number, (title, files) in enumerate(cases.items()):
            built = builder.Built(
                recipe=None,
                files={name: builder.Staged(data=data) for name, data in files.items()},
                subdir="linux-64",
                name=f"large{number}",
                version="1",
                depends=(),
            )
            started = time.perf_counter()
            (path,) = builder.write(built, Path(scratch), ".conda")
            took = time.perf_counter() - started
            print(f"{title}: {path.stat().st_size >> 20} MiB, packed in {took:.0f} s")
            for name, call in _CALLS.items():
                print(f"  {name:14} {_measure(call, path)}")


if __name__ == "__main__":
    main()
