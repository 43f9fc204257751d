"""A host for the recipe's own test functions: they run on the controller and ask it over a shell.

Each package on each host gets a fresh start of the host with an environment of its own, like any
test section. Whoever asks does so in its own thread, one visit at a time.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from pytest_manualbuild.checks import INSTALL
from pytest_manualbuild.errors import HostError, HostLost
from pytest_manualbuild.execution import activation, display
from pytest_manualbuild.execution.display import Display
from pytest_manualbuild.execution.keeping import Stay
from pytest_manualbuild.execution.ready import Preparation, Section, cause_of, result
from pytest_manualbuild.execution.results import Place
from pytest_manualbuild.execution.section import Limits, SectionRun
from pytest_manualbuild.hosts.base import CommandResult, Connection
from pytest_manualbuild.hosts.kept import ENTER
from pytest_manualbuild.model import Artifact, Host
from pytest_manualbuild.records import CheckResult, LinkedEnvironment, Outcome


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """A host that is up, with the environment of one package."""

    host: Host
    package: Artifact
    environment: LinkedEnvironment
    connection: Connection
    """Whose ``run`` has the environment active, in the folder of the tests."""
    display: Display | None
    """The display of a package that needs one."""
    failures: list[str] = msgspec.field(default_factory=list)
    """What failed during the visit; whoever runs the functions adds to it."""


class _Active:
    """A connection that activates the environment before each script that it runs."""

    def __init__(self, connection: Connection, folder: str) -> None:
        self._connection = connection
        self._enter = f". {shlex.quote(f'{folder}/{ENTER}')} >/dev/null 2>&1"

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a script in the environment."""
        return self._connection.run(f"{self._enter}\n{script}", timeout_s=timeout_s)


@contextlib.contextmanager
def visit(
    preparation: Preparation,
    section: Section,
    stay: Stay,
    place: Place,
    limits: Limits,
    failed: Callable[[], bool],
) -> Iterator[Visit | None]:
    """Start the host and activate the environment; None when that failed: the results are given."""
    try:
        connection = _start(preparation, section, stay)
    except HostError as error:
        _all(section, stay.host, error)
        connection = None
    if connection is None:
        yield None
        return
    folder, environments = place.folder, preparation.of(section)
    there = None
    try:
        there = _entered(connection, section, stay, place, limits, environments)
        yield there
        with contextlib.suppress(HostLost):
            if there is not None and there.display is not None:
                there.display.stop(connection)
            connection.settle()
            stay.clean = True
    finally:
        stay.ran(
            section.planned,
            environments,
            folder,
            failed=bool(there.failures) if there else failed(),
        )
        stay.end(connection)


def _start(preparation: Preparation, section: Section, stay: Stay) -> Connection | None:
    # What was linked in place for the other tests went away with them.
    if not preparation.link(section):
        return None
    environments = preparation.of(section)
    return stay.start(preparation.provider, environments, preparation.progress, [section.planned])


def _entered(
    connection: Connection,
    section: Section,
    stay: Stay,
    place: Place,
    limits: Limits,
    environments: list[LinkedEnvironment],
) -> Visit | None:
    """Activate the environment as every test section does, with link scripts and all."""
    planned, (environment, *_) = section.planned, environments
    stay.clean = False
    given: list[CheckResult] = []
    run = SectionRun(
        replace(planned, checks=(INSTALL,)),
        environment,
        place,
        given.append,
        limits=limits,
        stopped=lambda: False,
        warn=stay.warn,
    )
    try:
        run.run(connection, {})
        shown = display.start(connection, planned, stay.host.name)
        enter = shown.known if shown else ""
        enter += activation.enter(planned, environment, None, place.folder, stay.host.name)
        connection.put(place.folder, {ENTER: enter.encode()})
    except HostError as error:
        _all(section, stay.host, error)
        return None
    if given[0].outcome is not Outcome.PASSED:
        for check in planned.checks:
            section.give(replace(given[0], check=check.name))
        return None
    active: Connection = _Active(connection, place.folder)  # type: ignore[assignment] # by getattr
    return Visit(
        host=stay.host,
        package=planned.artifact,
        environment=environment,
        connection=active,
        display=shown,
    )


def _all(section: Section, host: Host, error: HostError) -> None:
    for check in section.planned.checks:
        section.give(
            result(host, section.planned, check, Outcome.ERROR, cause_of(error), str(error))
        )
