"""The child process in which recipes are rendered: a stranger's program, within limits.

One JSON request a line comes in, one JSON answer a line goes out. The process cannot write
a file, start a program, open a connection, or read outside of the folders that a request names;
its memory and its time are limited by the system.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import engine

MOST_MEMORY = 256 * 1024 * 1024
CPU_S = 5
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ACTS = (
    *("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "signal.", "urllib."),
    *("http.", "ftplib.", "smtplib.", "sqlite3.", "webbrowser.", "tempfile.", "mmap."),
)
_READS = ("os.listdir", "os.scandir")
_roots: list[str] = []


def _guard(event: str, given: tuple[Any, ...]) -> None:
    """Refuse whatever Python is about to do to the world outside of the recipe."""
    if event == "open":
        path, _, flags = given
        if isinstance(flags, int) and flags & _WRITES:
            raise PermissionError("a recipe may not write files")
    elif event in _READS:
        path = given[0]
    elif event.startswith(_ACTS):
        raise PermissionError(f"a recipe may not use {event}")
    else:
        return
    if isinstance(path, (str, bytes, os.PathLike)):
        real = os.path.realpath(os.fsdecode(path))
        if not any(real == root or real.startswith(root + os.sep) for root in _roots):
            raise PermissionError("a recipe may not read files outside of its folder")


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MOST_MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # macOS has no limit of address space that holds; the parent's deadline does.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def _time() -> None:
    """Give the process so many seconds more, from now."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime) + CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(asked: dict[str, Any]) -> str:
    try:
        said: dict[str, Any] = {
            "packages": engine.render(
                Path(asked["folder"]),
                subdir=asked["subdir"],
                configs=[Path(path) for path in asked["configs"]],
                exclusive=Path(asked["exclusive"]) if asked["exclusive"] else None,
                variant=asked["variant"],
                config=asked["config"],
            )
        }
        return json.dumps(said)
    except RecipeError as error:
        said = {"problem": error.problem, "remedy": error.remedy}
    except (Exception, SystemExit) as error:  # noqa: BLE001 # a stranger's text can raise anything
        words = str(error).splitlines()[0][:200] if str(error) else ""
        file = Path(asked["folder"], "meta.yaml")
        said = {
            "problem": f"{file}: cannot be rendered ({type(error).__name__}: {words}).",
            "remedy": "Look for what is odd in it.",
        }
    return json.dumps(said)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    _limit()
    sys.setrecursionlimit(1_000)
    own = {*sys.path, sys.prefix, sys.base_prefix, str(Path(engine.__file__).parents[2])}
    own_roots = [os.path.realpath(path) for path in own if path]
    sys.addaudithook(_guard)
    for line in sys.stdin:
        asked = json.loads(line)
        given = [asked["folder"], *asked["configs"], *filter(None, [asked["exclusive"]])]
        _roots[:] = [*own_roots, *map(os.path.realpath, given)]
        _time()
        text = _answer(asked) + "\n"
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
