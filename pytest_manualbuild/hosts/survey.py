"""Asks many hosts at once what they are, each within a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence

import msgspec

from pytest_manualbuild import hosts
from pytest_manualbuild.errors import HostError
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import with_host


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one host said, or why it said nothing."""

    host: Host
    took_s: float
    facts: Facts | None = None
    problem: str = ""
    """When there are no facts: why not, and what to do."""


class _Question(threading.Thread):
    """One host asked; nobody waits for the thread, since what hangs cannot be ended."""

    def __init__(self, host: Host, run: Run) -> None:
        super().__init__(daemon=True, name=f"manualbuild-ask-{host.name}")
        self._host, self._run = host, run
        self._doing = "connecting"
        self._began_s = time.monotonic()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def run(self) -> None:
        facts, problem = None, ""
        try:
            with with_host(self._host):
                facts = hosts.probe(self._host, self._run, self._progress)
        except HostError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 # the others are asked nevertheless
            problem = f"Internal error: {type(error).__name__}: {error}. Please report it."
        self._answers.put(self._answer(facts, problem))

    def _progress(self, doing: str) -> None:
        self._doing = doing

    def _answer(self, facts: Facts | None, problem: str) -> Answer:
        took_s = time.monotonic() - self._began_s
        return Answer(host=self._host, took_s=took_s, facts=facts, problem=problem)

    def answer(self, limit_s: float) -> Answer:
        """Return the answer, or that there was none within ``limit_s`` seconds of the start."""
        left_s = max(0.0, self._began_s + limit_s - time.monotonic())
        try:
            return self._answers.get(timeout=left_s)
        except queue.Empty:
            return self._answer(
                None,
                f"{self._host.name}: no answer within {limit_s:g} s ({self._doing})."
                " Look at the host, or give it longer with --timeout.",
            )


def ask(wanted: Sequence[Host], run: Run, *, limit_s: float) -> Iterator[Answer]:
    """Yield each host's answer, in their order; all are asked at once.

    A host may take ``limit_s`` seconds, in which a missing image is fetched as for a run.
    """
    hosts.load({host.kind for host in wanted})
    questions = [_Question(host, run) for host in wanted]
    for question in questions:
        question.start()
    for question in questions:
        yield question.answer(limit_s)
