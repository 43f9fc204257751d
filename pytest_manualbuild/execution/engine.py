"""The engine: every selected host at once, results as they come.

The work waits for engines and hosts, so threads serve it, one for each host,
at most ``jobs`` at a time. Whatever happens to a host, each of its checks gets
a result: what did not run is never passed, and what broke the host is never
the package's failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import hosts
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.errors import (
    HostError,
    HostLost,
    Interrupted,
    during,
)
from pytest_manualbuild.execution import notes, testfiles
from pytest_manualbuild.execution.keeping import NEVER, Stay
from pytest_manualbuild.execution.ready import Preparation, Section, cause_of, result
from pytest_manualbuild.execution.results import Place
from pytest_manualbuild.execution.section import (
    Limits,
    SectionRun,
    make_folders,
    put_recipe,
)
from pytest_manualbuild.execution.visit import Visit, visit
from pytest_manualbuild.hosts import limits
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.hosts.facts import INTERNET
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import CheckKey, Facts, Host, Plan, PlannedPackage
from pytest_manualbuild.patience import with_host
from pytest_manualbuild.records import Cause, CheckResult, HostRecord, LinkedEnvironment, Outcome

MOST_JOBS = 16
_SOON_S, _NOW_AND_THEN_S = 0.1, 0.5
"""When a wait first tells what is going on, and how often from then on."""
_DOING = {"provision": "provisioning", "environment": "delivering", "run": "running"}
"""What an error says of the phase in which it came up."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run, as asked for on the command line."""

    evidence: Path
    limits: Limits
    jobs: int | None = None
    """Hosts at a time; None: as many as there are, at most 16."""
    keep: str = NEVER
    """Which hosts stay after their tests: one of ``keeping.POLICIES``."""
    reuse: bool = False
    """Whether hosts that an earlier run kept are used instead of new ones, where that is safe."""


@dataclass(kw_only=True)
class _Desk:
    """What is known of one host while it is at work; becomes its record."""

    host: Host
    state: str = "never-reached"
    doing: str = "waiting"
    facts: Facts | None = None
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    environments: dict[str, LinkedEnvironment] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    started: bool = False
    reused: str = ""
    done: threading.Event = field(default_factory=threading.Event)
    preparation: Preparation | None = None
    visits: dict[str, Section] = field(default_factory=dict)
    """What the recipe's own test functions need, by package key."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            with during(_DOING[name]):
                yield
        finally:
            spent_s = time.monotonic() - began_s
            self.phases_s[name] = round(self.phases_s.get(name, 0.0) + spent_s, 3)

    def progress(self, doing: str) -> None:
        self.doing = doing


class Engine:
    """Runs a plan. Ask for results in any order; each is waited for until it is there."""

    def __init__(
        self,
        plan: Plan,
        environments: Environments,
        run: Run,
        settings: Settings,
        selected: Collection[CheckKey],
    ) -> None:
        self._plan = plan
        self._environments = environments
        self._run = run
        self._settings = settings
        self._futures: dict[CheckKey, Future[CheckResult]] = {key: Future() for key in selected}
        names = list(dict.fromkeys(key[0] for key in selected))
        self._desks = {name: _Desk(host=plan.host(name)) for name in names}
        self._stop = threading.Event()
        hosts.load({desk.host.kind for desk in self._desks.values()})
        jobs = settings.jobs or min(len(names), MOST_JOBS)
        self._pool = ThreadPoolExecutor(max(1, jobs), thread_name_prefix="manualbuild-host")
        self._lock = threading.Lock()

    def start(self, names: Collection[str] | None = None) -> None:
        """Start these hosts (None: all), unless they were started already."""
        with self._lock:
            for name, desk in self._desks.items():
                if not desk.started and (names is None or name in names):
                    desk.started = True
                    self._pool.submit(self._host, desk)

    def result(self, key: CheckKey, waiting: Callable[[str], None] | None = None) -> CheckResult:
        """Wait for a result; ``waiting`` is told now and then what its host is doing."""
        future = self._futures[key]
        patience_s = _SOON_S
        while True:
            try:
                return future.result(timeout=patience_s)
            except TimeoutError:
                if waiting is not None:
                    waiting(self.status())
                patience_s = _NOW_AND_THEN_S

    @contextmanager
    def visit(
        self, name: str, package: str, waiting: Callable[[str], None] | None = None
    ) -> Iterator[Visit | None]:
        """Give a host for a package's test functions, once its other tests are over.

        None: they have their results already, as none of them can run. ``give`` takes those of
        the others.
        """
        desk = self._desks[name]
        while not desk.done.wait(0.5):
            if waiting is not None:
                waiting(self.status())
        preparation, section = desk.preparation, desk.visits.get(package)
        if preparation is None or section is None:
            yield None
            return
        online = desk.host.network or INTERNET in section.planned.needs
        host = replace(desk.host, network=online)
        keys = [(name, package, check.name) for check in section.planned.checks]
        place, stay = self._place(host, preparation, section), self._stay(desk, host)

        def failed() -> bool:
            given = [self._futures[key] for key in keys if key in self._futures]
            bad = {Outcome.FAILED, Outcome.ERROR}
            return any(one.done() and one.result().outcome in bad for one in given)

        with (
            with_host(host),
            limits.turn(host, self._stop.is_set, desk.progress),
            visit(
                preparation,
                section,
                stay,
                place,
                self._settings.limits,
                failed,
            ) as there,
        ):
            desk.reused = desk.reused or stay.reused
            yield there

    def give(self, given: CheckResult) -> None:
        """Take the result of a test function."""
        self._give(given)

    def status(self) -> str:
        """Return in one line what the hosts are doing that are not done."""
        return " · ".join(
            f"{name}: {desk.doing}" for name, desk in self._desks.items() if desk.doing != "done"
        )

    def records(self) -> tuple[HostRecord, ...]:
        """Return what is known of each host, in the order of the plan."""
        return tuple(
            HostRecord(
                name=name,
                state=self._state(desk),
                facts=desk.facts,
                message=desk.message,
                warnings=tuple(desk.warnings),
                environments=dict(desk.environments),
                phases_s=dict(desk.phases_s),
                reused=desk.reused,
            )
            for name, desk in self._desks.items()
        )

    def _state(self, desk: _Desk) -> str:
        given = all(
            future.done() for key, future in self._futures.items() if key[0] == desk.host.name
        )
        return "tested" if given and desk.state == "never-reached" else desk.state

    def close(self) -> None:
        """Stop what still runs, release every host, and wait for that."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _host(self, desk: _Desk) -> None:
        host = desk.host
        packages = [
            self._plan.package(cell.package)
            for cell in self._plan.cells
            if cell.host == host.name
            and any(key[:2] == (host.name, cell.package) for key in self._futures)
        ]
        try:
            with with_host(host), limits.turn(host, self._stop.is_set, desk.progress):
                self._packages(desk, packages)
        except HostError as error:
            desk.state = "lost" if isinstance(error, HostLost) else "unavailable"
            desk.message = error.told
            self._all_broken(host, packages, error)
        except BaseException as error:  # noqa: BLE001 # a fault of ours must never leave a check waiting
            desk.state, desk.message = "unavailable", f"{type(error).__name__}: {error}"
            fault = HostError(
                f"Internal error: {desk.message}.", remedy="Please report it with the log."
            )
            self._all_broken(host, packages, fault)
        finally:
            desk.doing = "done"
            desk.done.set()

    def _packages(self, desk: _Desk, packages: Sequence[PlannedPackage]) -> None:
        host = desk.host
        provider = hosts.provider(host.kind)
        with desk.phase("provision"):
            desk.progress("looking at the host")
            desk.facts = hosts.probe(host, self._run, desk.progress)
        preparation = Preparation(
            host=host,
            run=self._run,
            provider=provider,
            facts=desk.facts,
            recipe=Path(self._plan.recipe),
            environments=self._environments,
            selected=self._futures.keys(),
            progress=desk.progress,
            give=self._give,
            linked=desk.environments,
        )
        with desk.phase("environment"):
            ready = preparation.ready(packages)
        desk.preparation = preparation
        desk.visits = {
            one.planned.artifact.key: one for group in ready for one in group if one.visited
        }
        ready = [[one for one in group if not one.visited] for group in ready]
        together = [list(chain(*ready))] if host.isolation == "host" else ready
        for number, (batch, online) in enumerate(_by_network(host, together)):
            # What was linked in place for a later batch went away with the one before.
            left = [one for one in batch if not number or preparation.link(one)]
            self._batch(desk, preparation, left, replace(host, network=online))

    def _batch(
        self, desk: _Desk, preparation: Preparation, batch: list[Section], host: Host
    ) -> None:
        """Run test sections on one host one after the other; a host left dirty is replaced."""
        left, provider = list(batch), preparation.provider
        while left:
            if self._stop.is_set():
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            environments = [env for one in left for env in preparation.of(one)]
            with desk.phase("provision"):
                desk.progress("starting")
                stay = self._stay(desk, host)
                planned = [one.planned for one in left]
                connection = stay.start(provider, environments, desk.progress, planned)
                desk.reused = desk.reused or stay.reused
            try:
                with during(_DOING["provision"]):
                    make_folders(connection, [preparation.placement(one).folder for one in left])
                while left and stay.clean:
                    with desk.phase("run"):
                        section = left.pop(0)
                        following = preparation.of(left[0]) if left else []
                        self._section(desk, preparation, connection, section, stay, following)
            finally:
                desk.progress("releasing")
                stay.end(connection)
            with desk.phase("environment"):
                # Those that were linked in place went away with the host.
                left = [one for one in left if preparation.link(one)]

    def _stay(self, desk: _Desk, host: Host) -> Stay:
        return Stay(
            policy=self._settings.keep,
            reuse=self._settings.reuse,
            host=host,
            run=self._run,
            image_digest=desk.facts.image_digest if desk.facts else None,
            warn=desk.warnings.append,
        )

    def _place(self, host: Host, preparation: Preparation, section: Section) -> Place:
        return Place(
            host=host.name,
            folder=preparation.placement(section).folder,
            logs=self._settings.evidence / "logs" / host.name / section.logs,
            evidence=self._settings.evidence,
        )

    def _section(
        self,
        desk: _Desk,
        preparation: Preparation,
        connection: Connection,
        section: Section,
        stay: Stay,
        following: Sequence[LinkedEnvironment],
    ) -> None:
        host, planned = desk.host, section.planned
        done = 0
        failed = False

        def give(given: CheckResult) -> None:
            nonlocal done, failed
            done += 1
            failed = failed or given.outcome in {Outcome.FAILED, Outcome.ERROR}
            desk.progress(f"{planned.label} {done}/{len(planned.checks)}")
            section.give(given)

        environment, *build = environments = preparation.of(section)
        place = self._place(host, preparation, section)
        run = SectionRun(
            planned,
            environment,
            place,
            give,
            limits=self._settings.limits,
            stopped=self._stop.is_set,
            warn=lambda warning: desk.warnings.append(f"{planned.label}: {warning}"),
            build=build[0] if build else None,
            following=following,
        )
        desk.progress(f"{planned.label} 0/{len(planned.checks)}")
        desk.warnings += notes.of(planned)
        files = testfiles.needed(section.recipe, planned)
        programs = testfiles.programs(section.recipe, planned)
        stay.clean = False  # until the section ended well
        try:
            with during(_DOING["run"]):
                if inside := testfiles.in_prefix(section.recipe, planned):
                    connection.put(environment.prefix, inside)
                if reviewed := testfiles.of_recipe(section.recipe, planned, self._plan):
                    put_recipe(connection, place.folder, reviewed)
                stay.clean = run.run(connection, files, programs)
        except HostLost as error:
            # Only this section may be to blame; whoever comes next gets a host that is there.
            desk.state, desk.message, failed = "lost", error.told, True
            for check in planned.checks:
                section.give(
                    result(host, planned, check, Outcome.ERROR, Cause.HOST_LOST, str(error))
                )
        finally:
            stay.ran(planned, environments, place.folder, failed=failed)

    def _all_broken(self, host: Host, packages: Sequence[PlannedPackage], error: HostError) -> None:
        cause = cause_of(error)
        for planned in packages:
            for check in planned.checks:
                self._give(result(host, planned, check, Outcome.ERROR, cause, str(error)))

    def _give(self, given: CheckResult) -> None:
        """Hand out a result; the first one of a check stays, and unselected ones are dropped."""
        future = self._futures.get(given.key)
        if future is not None and not future.done():
            future.set_result(given)


def _by_network(host: Host, groups: list[list[Section]]) -> Iterator[tuple[list[Section], bool]]:
    """Yield what runs on one start of the host, and whether with the network.

    The network is there when the matrix says so, and else for those whose recipe needs it alone.
    """
    for group in groups:
        for needy in (False, True):
            batch = [one for one in group if (INTERNET in one.planned.needs) == needy]
            if host.network:
                batch = [] if needy else group
            if batch:
                yield batch, needy or host.network
