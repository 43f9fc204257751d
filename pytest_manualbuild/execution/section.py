"""Runs the test section of one package on one host, within its time.

Nothing here starts or stops hosts, and nothing here judges. What the host does
wrong is raised (``HostError``); what the package does wrong is a result.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from pytest_manualbuild.errors import HostLost, Interrupted
from pytest_manualbuild.execution import aftermath, display, posix, windows
from pytest_manualbuild.execution.asked import SHORT_S, Asked, Written
from pytest_manualbuild.execution.marks import Marks
from pytest_manualbuild.execution.results import Place, Results
from pytest_manualbuild.execution.variables import recipe_dir
from pytest_manualbuild.hosts.base import Connection, Event, Exit, Mark, Output, Running
from pytest_manualbuild.model import PlannedPackage
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import CheckResult, LinkedEnvironment

POLL_S = 0.2
"""How often a wait looks up to see whether it should stop; it adds nothing to a result."""
OUTLIVES_S = 1.0
"""How long a host must be there after a test on it was killed from outside."""
_FROM_OUTSIDE = (129, 130, 137, 143, -1073741510, 1073807364)
"""Exit statuses of what was ended: by HUP, INT, KILL or TERM; by a console that closes
(0xC000013A), or by Windows that shuts down (0x40010004)."""
_MOST_HELD = 64


class Dialect(Protocol):
    """A module that writes scripts for one sort of shell."""

    def script(self, asked: Asked, connection: Connection) -> Written:
        """Return the script of a section, and the files that go into its folder of tests."""
        ...

    def work(self, folder: str) -> str:
        """Return the folder of the tests below one of ours."""
        ...

    def look(self, folder: str, prefix: str, following: Sequence[str]) -> str:
        """Return a script that looks at the host after the tests (see ``aftermath``)."""
        ...


_DIALECTS: Mapping[str, Dialect] = {"sh": posix, "cmd": windows}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long tests may take, in seconds."""

    check_s: float = 600.0
    section_s: float = 7200.0


def make_folders(connection: Connection, folders: Sequence[str]) -> None:
    """Make what test sections with these folders of ours will need, all at once."""
    connection.make([_DIALECTS[connection.shell].work(folder) for folder in folders])


def put_recipe(connection: Connection, folder: str, files: Mapping[str, bytes]) -> None:
    """Write the recipe's files where the tests of the section with that folder look for them."""
    connection.put(recipe_dir(_DIALECTS[connection.shell].work(folder)), files)


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
        following: Sequence[LinkedEnvironment] = (),
    ) -> None:
        self._planned = planned
        self._environment = environment
        self._build = build
        self._following = [one.prefix for one in following]
        self._host = place.host
        self._display: display.Display | None = None
        self._folder = place.folder
        self._limits = limits
        self._stopped = stopped
        self._warn = warn
        self._marks = Marks()
        self._held: deque[Event] = deque()
        self._results = Results(planned, place, give)

    def run(
        self, connection: Connection, scripts: Mapping[str, bytes], programs: Collection[str] = ()
    ) -> bool:
        """Run every check; return whether the host is clean enough for the next package.

        ``scripts`` has the recipe's test files by their path, ``programs`` the paths of those
        that can be run by their name. Raises HostError when the host failed; the checks that
        were given no result by then have none.
        """
        dialect = _DIALECTS[connection.shell]
        asked = Asked(
            planned=self._planned,
            environment=self._environment,
            build=self._build,
            folder=self._folder,
            files=scripts,
            programs=programs,
            marks=self._marks,
        )
        written = dialect.script(asked, connection)
        if connection.shell == "sh":  # cmd knows no traps
            self._results.sourced = tuple(one.decode(errors="replace") for one in scripts.values())
        connection.put(dialect.work(self._folder), written.files)
        self._display = display.start(connection, self._planned, self._host)
        known = self._display.known if self._display is not None else ""
        running = connection.start(known + written.script, plain=written.plain)
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
            dialect = _DIALECTS[connection.shell]
            script = dialect.look(self._folder, self._environment.prefix, self._following)
            said = connection.look(script, timeout_s=patient(SHORT_S))
            if connection.shell == "cmd":  # which writes lines
                said = b"\0".join(said.split())
        except HostLost as error:
            self._warn(f"after the tests: {error.problem}")
            return False
        for warning in aftermath.findings(said, left, self._folder):
            self._warn(warning)
        return not aftermath.spoilt(said)

    def _follow(self, running: Running) -> bool:
        began_s = self._results.began_s = time.monotonic()
        clean = True
        while True:
            if self._stopped():
                running.kill()
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            event = self._next(running, trust=not clean)
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

    def _next(self, running: Running, *, trust: bool) -> Event | None:
        """Return the next event; one that tells of a kill only when the host outlived it.

        A host that goes down ends the tests first, and may get to say so. Raises HostLost then.
        With ``trust``, it was this side that killed.
        """
        if not self._held:
            event = running.next_event(POLL_S)
            if trust or not _tells_of_a_kill(event):
                return event
            deadline = time.monotonic() + OUTLIVES_S
            while event is not None and len(self._held) < _MOST_HELD:
                self._held.append(event)
                event = running.next_event(max(0.0, deadline - time.monotonic()))
            # One that went without a word is silent like one where nothing happens.
            running.assure_alive()
        return self._held.popleft()

    def _overran(self, began_s: float) -> str:
        now_s = time.monotonic()
        check_s, section_s = patient(self._limits.check_s), patient(self._limits.section_s)
        if now_s - self._results.began_s > check_s:
            return f"It ran longer than {check_s:g} s"
        if now_s - began_s > section_s:
            return f"The test section ran longer than {section_s:g} s"
        return ""


def _tells_of_a_kill(event: Event | None) -> bool:
    """Say whether something was ended from outside, by a signal or as Windows does it."""
    match event:
        case Exit(status=status):
            return status in _FROM_OUTSIDE
        case Mark(text=text):
            return text.split()[1:2] in [[str(status)] for status in _FROM_OUTSIDE]
        case _:
            return False


def _named(killed: Sequence[str]) -> str:
    return f": {aftermath.listed(killed)}" if killed else ""
