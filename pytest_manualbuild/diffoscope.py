"""Has diffoscope, where it is installed, say in what files of two builds differ.

A program of its own, and slow: it gets the differing files and nothing else, no variable of the
caller's environment but PATH, and limits on time and on what it says.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_manualbuild.package import archive

LIMIT_S = 120.0
"""For all files together."""
MOST_CONTENT = 64 << 20
"""How much of each package's differing files it gets."""
MOST_TEXT = 64 << 10
_SAME, _DIFFERENT = 0, 1


def explain(
    first: Path, second: Path, files: Sequence[str], *, limit_s: float = LIMIT_S
) -> str | None:
    """Return what diffoscope says of these files of two packages.

    None where it is not installed, or where there is nothing to ask. Raises ArtifactError.
    """
    program = shutil.which("diffoscope")
    if program is None or not files:
        return None
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        folders = [Path(scratch) / name for name in ("first", "second")]
        for package, folder in zip((first, second), folders, strict=True):
            _write(package, folder, files)
        options = ["--exclude-directory-metadata=yes", f"--max-text-report-size={MOST_TEXT}"]
        return _run([program, *options, "--text", "-", "first", "second"], Path(scratch), limit_s)


def _write(package: Path, folder: Path, files: Sequence[str]) -> None:
    """Write files of a package, as far as there is room for them."""
    folder.mkdir()
    left, wanted = MOST_CONTENT, frozenset(files)

    def look(name: str, content: Iterator[memoryview]) -> None:
        nonlocal left
        if name not in wanted:
            return
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for piece in content:
                left -= file.write(piece[: max(left, 0)])

    archive.scan(package, look)


def _run(command: Sequence[str], folder: Path, limit_s: float) -> str:
    environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    said = folder / "said"
    with said.open("wb") as output, subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"diffoscope did not end within {limit_s:.0f} s."
        finally:
            _end(process)
    if status not in (_SAME, _DIFFERENT):
        return f"diffoscope ended with status {status}."
    with said.open("rb") as file:
        return file.read(MOST_TEXT).decode(errors="backslashreplace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
