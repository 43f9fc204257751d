"""The engine: every selected host at once, results as they come.

The work waits for engines and hosts, so threads serve it, one for each host,
at most ``jobs`` at a time. Whatever happens to a host, each of its checks gets
a result: what did not run is never passed, and what broke the host is never
the package's failure.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pytest_manualbuild import archive, hosts
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
    during,
)
from pytest_manualbuild.hosts import limits
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
    TestFile,
)
from pytest_manualbuild.section import Place, SectionRun

MOST_JOBS = 16
_DOING = {"provision": "provisioning", "environment": "delivering", "run": "running"}
"""What an error says of the phase in which it came up."""
_GENERATED = re.compile(r"info/test/(run_test\.\w+|test_time_dependencies\.json)")
Key = tuple[str, str, str]
"""(host, package key, check name)"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run, as asked for on the command line."""

    evidence: Path
    check_timeout_s: float = 600.0
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
    environments: dict[str, LinkedEnvironment] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    started: bool = False

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
            with limits.turn(host, self._stop.is_set, desk.progress):
                self._packages(desk, packages)
        except HostError as error:
            desk.state = "lost" if isinstance(error, HostLost) else "unavailable"
            desk.message = f"While {error.phase}: {error.problem}" if error.phase else error.problem
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
            planned
            for planned in packages
            if self._environment(desk, provider, desk.facts, planned)
        ]
        together = [ready] if host.isolation == "host" else [[planned] for planned in ready]
        for batch in together:
            self._batch(desk, provider, batch)

    def _batch(self, desk: _Desk, provider: Provider, batch: list[PlannedPackage]) -> None:
        """Run packages on one host one after the other; a host left dirty is replaced."""
        left = list(batch)
        while left:
            if self._stop.is_set():
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            environments = [desk.environments[planned.artifact.key] for planned in left]
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
        self, desk: _Desk, provider: Provider, facts: Facts, planned: PlannedPackage
    ) -> bool:
        """Have the package's environment linked; give the results at once where there is none."""
        host, artifact = desk.host, planned.artifact
        used = {check.language for check in planned.checks}
        # As conda-build adds them for the run_test.* that it finds or makes.
        requires = [*planned.section.requires]
        requires += [one.PACKAGE for one in LANGUAGES if one.PACKAGE and one.NAME in used]
        try:
            with desk.phase("environment"):
                desk.environments[artifact.key] = self._environments.prepare(
                    artifact,
                    requires=requires,
                    virtual_packages=virtual_packages(facts, host.subdir),
                    subdir=host.subdir,
                    placement=provider.placement(host, self._run, artifact.sha256),
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
                        "The package was not installed.",
                    )
                )
        except (ChannelError, EnvironmentBroken) as error:
            self._all_broken(host, [planned], error)
        else:
            return True
        return False

    def _section(
        self, desk: _Desk, provider: Provider, connection: Connection, planned: PlannedPackage
    ) -> bool:
        host, artifact = desk.host, planned.artifact
        done = 0

        def give(result: CheckResult) -> None:
            nonlocal done
            done += 1
            desk.progress(f"{planned.label} {done}/{len(planned.checks)}")
            self._give(result)

        section = SectionRun(
            planned,
            desk.environments[artifact.key],
            Place(
                host=host.name,
                folder=provider.placement(host, self._run, artifact.sha256).root,
                logs=self._settings.evidence / "logs" / host.name / planned.label,
                evidence=self._settings.evidence,
            ),
            give,
            check_timeout_s=self._settings.check_timeout_s,
            stopped=self._stop.is_set,
        )
        desk.progress(f"{planned.label} 0/{len(planned.checks)}")
        return section.run(connection, self._test_files(planned))

    def _test_files(self, planned: PlannedPackage) -> dict[str, bytes]:
        """Return the files that the tests need: the reviewed ones, and those from the sources."""
        files: dict[str, bytes] = {}
        if planned.section.source_files:
            # The sources are not here; conda-build keeps what they gave in the package.
            members = archive.info_members(Path(planned.artifact.path))
            files = {
                name.removeprefix("info/test/"): content
                for name, content in members
                if name.startswith("info/test/") and not _GENERATED.fullmatch(name)
            }
        files |= {
            file.path: _reviewed(Path(self._plan.recipe), file)
            for file in (*planned.section.scripts, *planned.section.files)
        }
        return files

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


def _reviewed(folder: Path, file: TestFile) -> bytes:
    """Read a test file, refusing one that changed since it was planned."""

    try:
        data = (folder / file.path).read_bytes()
    except OSError as error:
        raise EnvironmentBroken(
            f"{folder / file.path}: cannot be read: {error.strerror}.",
            remedy="Bring it back and run again.",
        ) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise EnvironmentBroken(
            f"{folder / file.path}: it changed while the run was under way.",
            remedy="Leave the recipe alone during a run, and run again.",
        )
    return data
