"""The engine: every selected host at once, results as they come.

The work waits for engines and hosts, so threads serve it, one for each host,
at most ``jobs`` at a time. Whatever happens to a host, each of its checks gets
a result: what did not run is never passed, and what broke the host is never
the package's failure.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pytest_manualbuild import hosts, testfiles
from pytest_manualbuild.environment import Environments
from pytest_manualbuild.errors import (
    ChannelError,
    EnvironmentBroken,
    HostError,
    HostLost,
    HostUnavailable,
    Interrupted,
    ManualBuildError,
    NotApplicable,
    Uninstallable,
    Unsolvable,
)
from pytest_manualbuild.hosts.base import Connection, Provider
from pytest_manualbuild.hosts.facts import virtual_packages
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.languages import LANGUAGES
from pytest_manualbuild.model import (
    Cause,
    Check,
    CheckResult,
    Facts,
    Host,
    HostRecord,
    LinkedEnvironment,
    Outcome,
    Plan,
    PlannedPackage,
)
from pytest_manualbuild.results import Place
from pytest_manualbuild.section import Limits, SectionRun

MOST_JOBS = 16
Key = tuple[str, str, str]
"""(host, package key, check name)"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run, as asked for on the command line."""

    evidence: Path
    limits: Limits
    jobs: int | None = None
    """Hosts at a time; None: as many as there are, at most 16."""


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

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        finally:
            spent_s = time.monotonic() - began_s
            self.phases_s[name] = round(self.phases_s.get(name, 0.0) + spent_s, 3)

    def progress(self, doing: str) -> None:
        self.doing = doing


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One test section of a package: it has an environment and a folder of its own."""

    planned: PlannedPackage
    """With nothing but this section and its checks."""
    environment: str
    """What names its environment in the host's record."""
    place: str
    """What tells its folder on a host from those of others: 64 hexadecimal digits."""

    @classmethod
    def all(cls, planned: PlannedPackage) -> Iterator[_Section]:
        """Yield the sections of a package in their order."""
        for number in range(len(planned.sections)):
            key = planned.environment_key(number)
            text = f"{planned.artifact.sha256}{key.removeprefix(planned.artifact.key)}"
            yield cls(
                planned=planned.only(number),
                environment=key,
                place=hashlib.sha256(text.encode()).hexdigest() if number else text,
            )


class Engine:
    """Runs a plan. Ask for results in any order; each is waited for until it is there."""

    def __init__(
        self,
        plan: Plan,
        environments: Environments,
        run: Run,
        settings: Settings,
        selected: Collection[Key],
    ) -> None:
        self._plan = plan
        self._environments = environments
        self._run = run
        self._settings = settings
        self._futures: dict[Key, Future[CheckResult]] = {key: Future() for key in selected}
        names = list(dict.fromkeys(key[0] for key in selected))
        self._desks = {name: _Desk(host=plan.host(name)) for name in names}
        self._stop = threading.Event()
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

    def result(self, key: Key, waiting: Callable[[str], None] | None = None) -> CheckResult:
        """Wait for a result; ``waiting`` is told now and then what its host is doing."""
        future = self._futures[key]
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if waiting is not None:
                    waiting(self.status())

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
            self._packages(desk, packages)
        except HostError as error:
            desk.state = "lost" if isinstance(error, HostLost) else "unavailable"
            desk.message = error.problem
            self._all_broken(host, packages, error)
        except BaseException as error:  # noqa: BLE001 # a fault of ours must never leave a check waiting
            desk.state, desk.message = "unavailable", f"{type(error).__name__}: {error}"
            fault = HostError(
                f"Internal error: {desk.message}.", remedy="Please report it with the log."
            )
            self._all_broken(host, packages, fault)
        finally:
            desk.doing = "done"

    def _packages(self, desk: _Desk, packages: Sequence[PlannedPackage]) -> None:
        host = desk.host
        provider = hosts.provider(host.kind)
        with desk.phase("provision"):
            desk.progress("looking at the host")
            desk.facts = provider.probe(host, self._run, desk.progress)
        ready = [
            [
                section
                for section in _Section.all(planned)
                if self._environment(desk, provider, desk.facts, section)
            ]
            for planned in packages
        ]
        together = [list(chain(*ready))] if host.isolation == "host" else ready
        for batch in together:
            self._batch(desk, provider, batch)

    def _batch(self, desk: _Desk, provider: Provider, batch: list[_Section]) -> None:
        """Run test sections on one host one after the other; a host left dirty is replaced."""
        left = list(batch)
        while left:
            if self._stop.is_set():
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            environments = [desk.environments[one.environment] for one in left]
            with desk.phase("provision"):
                desk.progress("starting")
                connection = provider.start(desk.host, self._run, environments, desk.progress)
            try:
                clean = True
                while left and clean:
                    with desk.phase("run"):
                        clean = self._section(desk, provider, connection, left.pop(0))
            finally:
                desk.progress("releasing")
                connection.close()

    def _environment(
        self, desk: _Desk, provider: Provider, facts: Facts, section: _Section
    ) -> bool:
        """Have a section's environment linked; give the results at once where there is none."""
        host, planned, artifact = desk.host, section.planned, section.planned.artifact
        used = {check.language for check in planned.checks}
        # As conda-build adds them for the run_test.* that it finds or makes.
        requires = [*planned.sections[0].requires]
        requires += [one.PACKAGE for one in LANGUAGES if one.PACKAGE and one.NAME in used]
        try:
            with desk.phase("environment"):
                desk.environments[section.environment] = self._environments.prepare(
                    artifact,
                    requires=requires,
                    virtual_packages=virtual_packages(facts, host.subdir),
                    subdir=host.subdir,
                    placement=provider.placement(host, self._run, section.place),
                    progress=desk.progress,
                )
        except NotApplicable as error:
            for check in planned.checks:
                self._give(
                    _result(
                        host, planned, check, Outcome.SKIPPED, Cause.NOT_APPLICABLE, error.problem
                    )
                )
        except (Unsolvable, Uninstallable) as error:
            cause = Cause.UNSOLVABLE if isinstance(error, Unsolvable) else Cause.UNINSTALLABLE
            first, *rest = planned.checks
            self._give(_result(host, planned, first, Outcome.FAILED, cause, str(error)))
            for check in rest:
                self._give(
                    _result(
                        host,
                        planned,
                        check,
                        Outcome.SKIPPED,
                        Cause.NOT_REACHED,
                        "Its environment was not made.",
                    )
                )
        except (ChannelError, EnvironmentBroken) as error:
            self._all_broken(host, [planned], error)
        else:
            return True
        return False

    def _section(
        self, desk: _Desk, provider: Provider, connection: Connection, section: _Section
    ) -> bool:
        host, planned = desk.host, section.planned
        done = 0

        def give(result: CheckResult) -> None:
            nonlocal done
            done += 1
            desk.progress(f"{planned.label} {done}/{len(planned.checks)}")
            self._give(result)

        run = SectionRun(
            planned,
            desk.environments[section.environment],
            Place(
                host=host.name,
                folder=provider.placement(host, self._run, section.place).root,
                logs=self._settings.evidence / "logs" / host.name / planned.label,
                evidence=self._settings.evidence,
            ),
            give,
            limits=self._settings.limits,
            stopped=self._stop.is_set,
        )
        desk.progress(f"{planned.label} 0/{len(planned.checks)}")
        files = testfiles.needed(Path(self._plan.recipe), planned)
        try:
            ended = run.run(connection, files)
        except HostLost as error:
            # Only this section may be to blame; whoever comes next gets a host that is there.
            desk.state, desk.message = "lost", error.problem
            self._all_broken(host, [planned], error)
            return False
        desk.warnings += [f"{planned.label}: {warning}" for warning in ended.warnings]
        return ended.clean

    def _all_broken(self, host: Host, packages: Sequence[PlannedPackage], error: HostError) -> None:
        cause = _cause(error)
        for planned in packages:
            for check in planned.checks:
                self._give(_result(host, planned, check, Outcome.ERROR, cause, str(error)))

    def _give(self, result: CheckResult) -> None:
        """Hand out a result; the first one of a check stays, and unselected ones are dropped."""
        future = self._futures.get((result.host, result.package, result.check))
        if future is not None and not future.done():
            future.set_result(result)


def _result(  # private, and each call would only repeat the names
    host: Host,
    planned: PlannedPackage,
    check: Check,
    outcome: Outcome,
    cause: Cause,
    message: str,
) -> CheckResult:
    return CheckResult(
        host=host.name,
        package=planned.artifact.key,
        check=check.name,
        outcome=outcome,
        cause=cause,
        message=message,
    )


def _cause(error: ManualBuildError) -> Cause:
    match error:
        case HostLost():
            return Cause.HOST_LOST
        case HostUnavailable():
            return Cause.HOST_UNAVAILABLE
        case ChannelError():
            return Cause.CHANNEL
        case EnvironmentBroken():
            return Cause.ENVIRONMENT
        case Interrupted():
            return Cause.INTERRUPTED
        case _:
            return Cause.INTERNAL
