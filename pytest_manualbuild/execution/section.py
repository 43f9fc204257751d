"""Runs the test section of one package on one host, within its time.

Nothing here starts or stops hosts, and nothing here judges. What the host does
wrong is raised (``HostError``); what the package does wrong is a result.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_manualbuild.errors import HostLost, Interrupted
from pytest_manualbuild.execution import activation, aftermath, display
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.execution.results import Place, Results
from pytest_manualbuild.hosts.base import Connection, Exit, Mark, Output, Running
from pytest_manualbuild.languages import LANGUAGES, Site
from pytest_manualbuild.model import CheckResult, LinkedEnvironment, PlannedPackage

POLL_S = 0.2
"""How often a wait looks up to see whether it should stop; it adds nothing to a result."""
SHORT_S = 60.0
"""Time limit of our own small scripts on a host, in seconds."""

# A test may say so with a file of this name (conda-build, build.py).
_END = """\
cd {work}
if [ -e TEST_FAILED ]; then mark {failed}; fi
mark {complete}
exit 0
"""
_PARSES = """\
if [ -z "$(printf %s {text} | bash -n 2>&1 || echo no)" ]; then echo yes; else echo no; fi
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long tests may take, in seconds."""

    check_s: float = 600.0
    section_s: float = 7200.0


class SectionRun:
    """One run of one package's test section: give it a connection, it gives results."""

    def __init__(
        self,
        planned: PlannedPackage,
        environment: LinkedEnvironment,
        place: Place,
        give: Callable[[CheckResult], None],
        *,
        limits: Limits,
        stopped: Callable[[], bool],
        warn: Callable[[str], None],
        build: LinkedEnvironment | None = None,
    ) -> None:
        self._planned = planned
        self._environment = environment
        self._build = build
        self._host = place.host
        self._display: display.Display | None = None
        self._folder = place.folder
        self._work = f"{place.folder}/work"
        self._limits = limits
        self._stopped = stopped
        self._warn = warn
        self._marks = Marks()
        self._results = Results(planned, place, give)

    def run(self, connection: Connection, scripts: Mapping[str, bytes]) -> bool:
        """Run every check; return whether the host is clean enough for the next package.

        ``scripts`` has the recipe's test files by their path. Raises HostError when the host
        failed; the checks that were given no result by then have none.
        """
        self._display = display.start(connection, self._planned, self._host)
        script = self._script(connection, scripts)
        if self._display is not None:
            script = self._display.known + script
        running = connection.start(script)
        try:
            clean = self._follow(running)
        finally:
            self._results.close()
        if clean:
            clean = self._look(connection)
        # The last result comes last of all: who waits for it has heard of the rest.
        self._results.finish()
        return clean

    def _look(self, connection: Connection) -> bool:
        """See what the tests left. All is known of them: whatever goes wrong now is no error."""
        try:
            if self._display is not None:
                self._display.stop(connection)
            left = connection.settle()
            script = aftermath.after(self._folder, self._environment.prefix)
            said = connection.run(script, timeout_s=SHORT_S).stdout
        except HostLost as error:
            self._warn(f"after the tests: {error.problem}")
            return False
        for warning in aftermath.findings(said, left):
            self._warn(warning)
        return True

    def _script(self, connection: Connection, scripts: Mapping[str, bytes]) -> str:
        def parses(texts: Sequence[str]) -> list[bool]:
            # bash only warns of a here-document without its end, so words on stderr count too.
            script = "".join(_PARSES.format(text=shlex.quote(text)) for text in texts)
            said = connection.run(script, timeout_s=SHORT_S).stdout.split()
            return [
                word == b"yes" and not text.endswith("\\")
                for word, text in zip(said, texts, strict=True)
            ]

        site = Site(parses=parses, marks=self._marks)
        script = activation.script(
            self._planned, self._environment, self._build, self._folder, self._marks
        )
        files = dict(scripts)
        for language in LANGUAGES:
            numbered = [
                (number, check)
                for number, check in enumerate(self._planned.checks)
                if check.language == language.NAME
            ]
            if numbered:
                piece = language.piece(numbered, dict(scripts), site)
                script += piece.script
                files.update(piece.files)
        connection.put(self._work, files)
        return script + _END.format(
            work=shlex.quote(self._work),
            failed=self._marks.new(Said.TEST_FAILED),
            complete=self._marks.new(Said.COMPLETE),
        )

    def _follow(self, running: Running) -> bool:
        began_s = self._results.began_s = time.monotonic()
        clean = True
        while True:
            if self._stopped():
                running.kill()
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            event = running.next_event(POLL_S)
            if isinstance(event, Output):
                self._results.output(event.stream, event.data)
            elif isinstance(event, Mark):
                if heard := self._marks.heard(event.text):
                    self._results.heard(heard)
            elif isinstance(event, Exit):
                self._results.over(event.status)
                return clean
            # Not only in silence: a test may write for ever.
            if clean and (overran := self._overran(began_s)):
                # Raises HostLost when the host does not answer: then it is not the package's fault.
                killed = running.kill()
                self._results.overran(f"{overran} and was killed{_named(killed)}.")
                clean = False

    def _overran(self, began_s: float) -> str:
        now_s = time.monotonic()
        if now_s - self._results.began_s > self._limits.check_s:
            return f"It ran longer than {self._limits.check_s:g} s"
        if now_s - began_s > self._limits.section_s:
            return f"The test section ran longer than {self._limits.section_s:g} s"
        return ""


def _named(killed: Sequence[str]) -> str:
    return f": {aftermath.listed(killed)}" if killed else ""
