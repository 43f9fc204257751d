"""Talks to the child process that renders recipes (``_render``)."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe.wanted import Wanted

DEADLINE_S = 9.0
"""For one recipe and one set of variants; real ones take a tenth of a second, big ones two."""
MOST_ANSWER = 64 * 1024 * 1024
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Renderer:
    """One child process, started when first needed and again after it had to be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the child now, so that it is ready when it is needed."""
        with self._lock:
            self._started()

    def render(self, folder: Path, wanted: Wanted) -> list[dict[str, Any]]:
        """Return the packages that a recipe's folder describes, as ``engine.render`` does.

        Raises RecipeError for one that cannot be rendered within the limits of memory and time.
        """
        asked = {
            "folder": str(folder),
            "subdir": wanted.subdir,
            "configs": [os.path.realpath(path) for path in wanted.configs],
            "exclusive": os.path.realpath(wanted.exclusive) if wanted.exclusive else None,
            "variant": dict(wanted.variant) if wanted.variant else None,
            "config": wanted.config,
        }
        request = json.dumps(asked) + "\n"
        with self._lock:
            answer = self._ask(request.encode())
        if answer is None:
            raise RecipeError(
                f"{folder}: it takes more than {DEADLINE_S:g} s or too much memory to render.",
                remedy="Look for a loop, a huge value or hundreds of outputs in it.",
            )
        said = json.loads(answer)
        if "problem" in said:
            raise RecipeError(said["problem"], remedy=said["remedy"])
        packages: list[dict[str, Any]] = said["packages"]
        return packages

    def _ask(self, request: bytes) -> bytes | None:
        """Return the child's answer, or None if it died or had to be ended."""
        process = self._started()
        if process.stdin is None or process.stdout is None:
            return None
        answer = b""
        deadline = time.monotonic() + DEADLINE_S
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            process.stdin.write(request)
            process.stdin.flush()
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n") and len(answer) < MOST_ANSWER:
                if not selector.select(timeout=max(0.0, deadline - time.monotonic())):
                    break
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    break
                answer += chunk
        if answer.endswith(b"\n"):
            return answer
        self.close()
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                # -P: a file of the current folder must not stand in for a library
                [sys.executable, "-P", "-s", "-m", "pytest_manualbuild.recipe._render"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
            )
            atexit.register(self.close)
        return self._process

    def close(self) -> None:
        """End the child; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            atexit.unregister(self.close)


renderer = Renderer()
"""The one of this process."""
