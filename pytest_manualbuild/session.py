"""A pytest session under ``--recipe``: plans, adds the items, records, concludes.

The controller makes the plan once, records results and writes the evidence;
with pytest-xdist its workers get the plan and run the hosts that fall to them.
Both ways go through the same items, the same engine and the same record.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from pytest_manualbuild import __version__, evidence, hosts, matrix, plan, show
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.errors import HostError, ManualBuildError, of_system
from pytest_manualbuild.execution.engine import Engine, Settings
from pytest_manualbuild.execution.section import Limits
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import CheckResult, HostRecord, Plan
from pytest_manualbuild.nodes import PROPERTY, CheckItem, RecipeNode, nodeids

DEFAULT_CHANNEL = "conda-forge"
_NOT_AGAIN = ("-k", "--on=", "--lf", "--last-failed", "--ff", "--failed-first", "--evidence=",
              "--junitxml=", "--junit-xml=")  # fmt: skip
Key = tuple[str, str, str]


def begin(config: pytest.Config) -> Controller | Worker:
    """Make the session of this process; user mistakes become pytest's usage errors."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        return Worker(config, workerinput["manualbuild"])
    option = config.option
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        raise pytest.UsageError(
            f"--recipe collects only the recipe, not {' '.join(config.args)!r}."
            " Select checks with -k and hosts with --on."
        )
    if getattr(option, "looponfail", False):
        raise pytest.UsageError("--recipe tests packages once: leave out -f (--looponfail).")
    numbers = (option.mb_check_timeout, option.mb_section_timeout, option.mb_jobs)
    if any(number is not None and not number > 0 for number in numbers):
        raise pytest.UsageError("--check-timeout, --section-timeout and --jobs must be above 0.")
    _check_places(option)
    if getattr(option, "tx", None):
        option.maxworkerrestart = "0"  # a restarted worker would run checks a second time
    environments = _environments(config)
    try:
        asked = matrix.load(option.mb_matrix)
        # Meanwhile the plan waits for the process that renders the recipe.
        kinds = {host.kind for host in asked.hosts}
        Thread(target=hosts.load, args=(kinds,), daemon=True).start()
        planned = plan.make(
            Path(option.mb_recipe),
            Path(option.mb_artifacts) if option.mb_artifacts else None,
            asked,
            option.mb_on,
            renderer=option.mb_renderer,
        )
        return Controller(config, planned, environments)
    except (ManualBuildError, OSError) as error:
        environments.close()
        known = error if isinstance(error, ManualBuildError) else of_system(error)
        raise pytest.UsageError(str(known)) from error


def _environments(config: pytest.Config) -> Environments:
    """Return what makes environments; its process loads py-rattler while this one goes on."""
    option = config.option
    made = Environments(cache_folder(), tuple(option.mb_channels or (DEFAULT_CHANNEL,)))
    if not option.collectonly and not getattr(option, "tx", None):
        made.start()
    return made


def _check_places(option: Any) -> None:
    """Refuse what would change the recipe while it is tested, or lose it."""
    recipe = Path(option.mb_recipe).resolve()
    recipe = recipe.parent if recipe.is_file() else recipe
    for name, given in (
        ("--evidence", option.mb_evidence),
        ("--junitxml", getattr(option, "mb_junitxml", None)),
    ):
        place = Path(given).resolve() if given else None
        if place is not None and place.is_relative_to(recipe):
            raise pytest.UsageError(
                f"{name} {given}: it lies in the recipe's folder {recipe}, which a report would"
                f" change. Name one outside with {name}."
            )
    if recipe.is_relative_to(Path(option.mb_evidence).resolve() / "recipe"):
        raise pytest.UsageError(
            f"--recipe {option.mb_recipe}: it is the copy in the report {option.mb_evidence}, which"
            " this run would replace. Name another folder with --evidence."
        )
    if any(not channel.strip() for channel in option.mb_channels or ()):
        raise pytest.UsageError("--channel is empty. Give a URL, a folder or a channel's name.")


def number_of_hosts(config: pytest.Config) -> int:
    """Return how many hosts the matrix of the command line has."""
    try:
        return len(matrix.load(config.option.mb_matrix).hosts)
    except ManualBuildError as error:
        raise pytest.UsageError(str(error)) from error


def _again(words: Iterable[str], folder: str) -> Iterator[str]:
    """Yield a command line without what selects checks or hosts, and with a report of its own."""
    yield "pytest"
    given = iter(words)
    for word in given:
        if word in ("-k", "--on", "--evidence", "--junitxml", "--junit-xml"):
            next(given, None)
        elif not word.startswith(_NOT_AGAIN):
            yield word
    yield from ("--evidence", f"{folder.rstrip('/')}-repeat")


class _Session:
    """What controller and workers have in common: items, and an engine when one is needed."""

    def __init__(
        self,
        config: pytest.Config,
        planned: Plan,
        environments: Environments,
        *,
        folder: Path,
        command: Sequence[str],
    ) -> None:
        self.command = command
        self.config = config
        self.plan = planned
        self.folder = folder
        self.engine: Engine | None = None
        self._environments = environments
        self._selected: list[Key] = []
        # Nothing is collected from files: see `pytest_collection_modifyitems`.
        config.args = []

    def run(self) -> Run:
        """Return the run that hosts belong to."""
        raise NotImplementedError

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Add the plan's items. No file stands for them, so none of the recipe is ever imported."""
        root = RecipeNode.from_parent(
            session,
            name=Path(self.plan.recipe).name,
            nodeid=Path(self.plan.recipe).name,
            plan=self.plan,
            command=self.command,
            ask=self.ask,
        )
        items[:] = session.genitems(root)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which checks were selected."""
        self._selected = [item.key for item in session.items if isinstance(item, CheckItem)]

    def ask(self, key: Key) -> CheckResult:
        """Return the result of a check, running what must run for it."""
        if self.engine is None:
            option = self.config.option
            self.engine = Engine(
                self.plan,
                self._environments,
                self.run(),
                Settings(
                    evidence=self.folder,
                    limits=Limits(
                        check_s=option.mb_check_timeout, section_s=option.mb_section_timeout
                    ),
                    jobs=option.mb_jobs,
                ),
                self._selected,
            )
        self.engine.start(self.hosts_to_start(key))
        return self.engine.result(key, self.waiting)

    def hosts_to_start(self, key: Key) -> list[str] | None:
        """Say which hosts to start when this check is asked for; None: all."""
        raise NotImplementedError

    def waiting(self, status: str) -> None:
        """Show what is going on while a result is waited for."""

    def release(self) -> None:
        """Release the hosts and the solver; safe to call twice."""
        if self.engine is not None:
            self.engine.close()
        self._environments.close()


class Worker(_Session):
    """A worker of pytest-xdist: takes the controller's plan, runs the hosts it is given."""

    def __init__(self, config: pytest.Config, given: dict[str, Any]) -> None:
        super().__init__(
            config,
            plan.from_json(given["plan"]),
            _environments(config),
            folder=Path(given["folder"]),
            command=given["command"],
        )
        self._run_id = str(given["run_id"])

    def run(self) -> Run:
        """Join the controller's run: it cleans up what a killed worker left."""
        return Run.join(self._run_id)

    def hosts_to_start(self, key: Key) -> list[str]:
        """Start the host of this check alone: the others fall to other workers."""
        return [key[0]]

    def pytest_sessionfinish(self) -> None:
        """Release the hosts, and tell the controller of them."""
        self.release()
        if self.engine is not None:
            self.config.workeroutput["manualbuild"] = [  # type: ignore[attr-defined] # xdist's
                msgspec.to_builtins(record)
                for record in self.engine.records()
                if record.state != "never-reached"
            ]


class Controller(_Session):
    """The process that the user started: records results and writes the evidence."""

    def __init__(self, config: pytest.Config, planned: Plan, environments: Environments) -> None:
        evidence_given = config.option.mb_evidence
        super().__init__(
            config,
            planned,
            environments,
            folder=Path(evidence_given).absolute(),
            command=[*_again(map(str, config.invocation_params.args), evidence_given)],
        )
        self._keys = nodeids(planned, Path(planned.recipe).name)
        self._run: Run | None = None
        self._journal: evidence.Journal | None = None
        self._results: dict[Key, CheckResult] = {}
        self._records: dict[str, HostRecord] = {}
        self._deselected = 0
        self._started = datetime.now(UTC)
        self._waited = show.Waiting(config)
        self._junit_copy: str | None = getattr(config.option, "mb_junitxml", None)
        self.evidence: evidence.Evidence | None = None

    def run(self) -> Run:
        """Return this run, begun on first use; whatever dead runs left is removed before it."""
        if self._run is None:
            hosts.sweep_dead()
            self._run = Run.begin()
        return self._run

    def hosts_to_start(self, key: Key) -> None:
        """Start every host at once."""
        del key

    def waiting(self, status: str) -> None:
        """Show on a terminal what the hosts are doing."""
        for name in ("html", "terminal"):
            import_module(f"pytest_manualbuild.reports.{name}")  # slow; nothing else is to do now
        self._waited.show(status)

    def ask(self, key: Key) -> CheckResult:
        """Return the result of a check, with progress shown meanwhile."""
        try:
            return super().ask(key)
        finally:
            self._waited.clear()

    def pytest_report_header(self) -> list[str]:
        """Say what is tested, and where."""
        return show.header(self.plan)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand the plan to a worker."""
        node.workerinput["manualbuild"] = {
            "plan": plan.to_json(self.plan),
            "run_id": self.run().run_id,
            "folder": str(self.folder),
            "command": self.command,
        }

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note which checks the workers selected."""
        self._selected = [self._keys[nodeid] for nodeid in ids if nodeid in self._keys]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker knows of its hosts."""
        output = getattr(node, "workeroutput", None) or {}
        for value in output.get("manualbuild", ()):
            record = msgspec.convert(value, type=HostRecord)
            self._records[record.name] = record

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Begin the evidence before the first host exists, unless nothing is to run."""
        if session.config.option.collectonly:
            return
        try:
            run_id = self.run().run_id
            self._journal = evidence.begin(
                self.folder, self.plan, run_id, junit_copy=self._junit_copy
            )
        except ManualBuildError as error:
            raise pytest.UsageError(str(error)) from error
        except OSError as error:
            raise pytest.UsageError(str(of_system(error))) from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a result, once, as soon as it is there."""
        for name, value in report.user_properties:
            if name == PROPERTY:
                result = msgspec.json.decode(str(value), type=CheckResult)
                key = (result.host, result.package, result.check)
                if key not in self._results and self._journal is not None:
                    self._results[key] = result
                    try:
                        self._journal.add(result)
                    except ManualBuildError as error:
                        pytest.exit(str(error), returncode=HostError.exit_code)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> None:
        """Conclude, and write the evidence; the hosts are released meanwhile."""
        if self._journal is None:
            return
        if any(key not in self._results for key in self._selected):
            self.release()  # the run was cut short: nothing may go on any more
        if self.engine is not None:
            self._records |= {record.name: record for record in self.engine.records()}
        selected = set(self._selected)
        narrowed = self._narrowed(session, int(exitstatus), selected)
        results, status = evidence.conclude(
            self.plan, self._results, selected, pytest_status=int(exitstatus)
        )
        session.exitstatus = status
        self.evidence = evidence.Evidence(
            run_id=self._journal.run_id,
            started=self._started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=not narrowed,
            exit_status=status,
            narrowed=narrowed,
            plan=self.plan,
            plan_sha256=plan.digest(self.plan),
            hosts=tuple(self._record(host.name) for host in self.plan.matrix.hosts),
            results=results,
            controller={
                "system": f"{platform.system()} {platform.release()} {platform.machine()}",
                "python": platform.python_version(),
                "pytest-manualbuild": __version__,
                **{
                    name: metadata.version(name)
                    for name in ("pytest", "pytest-xdist", "py-rattler", "py-rattler-build")
                },
            },
        )
        try:
            evidence.finish(
                self.folder,
                self.evidence,
                junit_copy=self._junit_copy,
            )
        except ManualBuildError as error:
            # What nobody can read proves nothing: as if a host had failed.
            session.exitstatus = 1 if status == 1 else HostError.exit_code
            self.evidence = None
            show.error(self.config, error)

    def _record(self, name: str) -> HostRecord:
        if name in self._records:
            return self._records[name]
        if any(key[0] == name for key in self._results):
            message = "The worker that tested it died."
            return HostRecord(name=name, state="lost", message=message)
        return HostRecord(name=name, state="never-reached")

    def _narrowed(
        self, session: pytest.Session, status: int, selected: set[Key]
    ) -> tuple[str, ...]:
        """Say in sentences why the run did not cover the plan, or the plan not the matrix."""
        reasons = []
        option = self.config.option
        if option.mb_on is not None:
            reasons.append(f"--on {option.mb_on} left out hosts of the matrix.")
        left_out = len(self._keys) - len(selected)
        if left_out:
            reasons.append(
                f"{left_out} of {len(self._keys)} checks were not selected (-k, --lf...)."
            )
        unheard = sum(1 for key in selected if key not in self._results)
        if session.shouldfail:
            reasons.append(f"The run stopped early: {session.shouldfail} (-x).")
        elif status == pytest.ExitCode.INTERRUPTED:
            reasons.append("The run was interrupted.")
        elif unheard:
            reasons.append(f"{unheard} checks have no result: a worker crashed or the run was cut.")
        return tuple(reasons)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the grid and what the gate would still want."""
        if self.evidence is not None:
            show.summary(terminalreporter, self.evidence, self.folder)

    def release(self) -> None:
        """Release hosts and solver, and remove whatever is left of the run."""
        super().release()
        if self._run is not None:
            hosts.sweep(self._run)
            self._run = None
