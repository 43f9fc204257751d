"""Measures the scan and the audit of large packages: ``python benchmarks/audit.py [MEGABYTES]``.

Each runs in a process of its own, so that its memory can be told. The files are
pieces of this machine's own libraries, and many small ones.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import builder

_MEASURED = """
import resource, sys, time
from pathlib import Path
from pytest_manualbuild.package import archive
from pytest_manualbuild import audit
started = time.perf_counter()
{call}(Path(sys.argv[1]))
seconds = time.perf_counter() - started
status = Path("/proc/self/status").read_text()  # getrusage counts the parent's, too
memory = int(status.split("VmHWM:")[1].split()[0]) >> 10
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
print(f"{{seconds:6.2f}} s  {{memory:4}} MiB  (its child {{child}} MiB)")
"""


def _large(megabytes: int) -> dict[str, bytes]:
    libraries = [path for path in sorted(Path("/usr/lib").rglob("*.so*")) if path.is_file()]
    chosen = random.Random(0)  # noqa: S311 # the same on each run
    chosen.shuffle(libraries)
    files: dict[str, bytes] = {}
    left = megabytes * 1_000_000
    for number, path in enumerate(_forever(libraries)):
        if left <= 0:
            return files
        files[f"lib/{number}-{path.name}"] = path.read_bytes()
        left -= len(files[f"lib/{number}-{path.name}"])
    return files


def _forever(paths: list[Path]) -> Iterator[Path]:
    while paths:
        yield from paths


def main() -> None:
    """Make the packages, measure, and print."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    cases = {
        f"{megabytes} MB of libraries": _large(megabytes),
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
            for call in ("archive.scan", "audit.audit"):
                done = subprocess.run(
                    [sys.executable, "-c", _MEASURED.format(call=call), str(path)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                print(f"  {call:13} {done.stdout.rstrip()}")


if __name__ == "__main__":
    main()
