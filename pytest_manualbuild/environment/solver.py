"""Talks to the child process that runs py-rattler (``_solver``); safe for several threads."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from pytest_manualbuild.errors import EnvironmentBroken

SOLVE_S = 300.0
LINK_S = 900.0


class Solver:
    """One child process, started when first needed and again if it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread()
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._child = 0

    def start(self) -> int:
        """Start the child unless it is there; return its number, another one for each child."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                _close_pipes(self._process)
                self._child += 1
                self._process = subprocess.Popen(
                    # -P: a file of the current folder must not stand in for a library
                    [sys.executable, "-P", "-m", "pytest_manualbuild.environment._solver"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self._reader = threading.Thread(
                    target=self._read, args=(self._process,), daemon=True
                )
                self._reader.start()
            return self._child

    def ask(self, verb: str, timeout_s: float, **what: object) -> dict[str, Any]:
        """Ask the child for something and return its answer, which may hold an ``error``.

        Raises EnvironmentBroken when the child dies or takes longer than ``timeout_s``.
        """
        self.start()
        number = str(next(self._numbers))
        future: Future[dict[str, Any]] = Future()
        line = json.dumps({"id": number, "verb": verb, **what}) + "\n"
        try:
            with self._lock:
                self._waiting[number] = future
                process = self._process
                if process is None or process.stdin is None:
                    raise BrokenPipeError
                process.stdin.write(line.encode())
                process.stdin.flush()
            return future.result(timeout=timeout_s)
        except TimeoutError as error:
            self.close()
            raise EnvironmentBroken(
                f"py-rattler did not finish ({verb}) within {timeout_s:g} s.", remedy="Run again."
            ) from error
        except OSError as error:
            raise _died() from error

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                said = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(said["id"], None)
                if future is not None:
                    future.set_result(said)
        with self._lock:
            left, self._waiting = self._waiting, {}
        for future in left.values():
            if not future.done():
                future.set_exception(_died())

    def close(self) -> None:
        """End the child; safe to call twice."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._reader.join()
            _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes] | None) -> None:
    """Close what led to a child that ended."""
    for pipe in (process.stdin, process.stdout) if process is not None else ():
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _died() -> EnvironmentBroken:
    return EnvironmentBroken("The py-rattler process died.", remedy="Run again.")
