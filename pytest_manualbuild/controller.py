"""The controller of a run under ``--recipe``: plans, records results, concludes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_manualbuild import (
    __version__,
    commits,
    evidence,
    hosts,
    importing,
    matrix,
    narrowing,
    outfiles,
    plan,
    show,
)
from pytest_manualbuild import recipe as recipes
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.errors import HostError, ManualBuildError, of_system
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import CheckKey, Plan
from pytest_manualbuild.nodes import PROPERTY, nodeids
from pytest_manualbuild.records import CheckResult, HostRecord
from pytest_manualbuild.reports.text import shown
from pytest_manualbuild.session import Session, Worker, environments_of

_NOT_AGAIN = ("-k", "--on=", "--lf", "--last-failed", "--ff", "--failed-first", "--evidence=",
              "--junitxml=", "--junit-xml=")  # fmt: skip


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
    numbers = (option.mb_check_timeout, option.mb_section_timeout, option.mb_jobs)
    if any(number is not None and not number > 0 for number in numbers):
        raise pytest.UsageError("--check-timeout, --section-timeout and --jobs must be above 0.")
    try:
        _check_places(option)
    except OSError as error:
        raise pytest.UsageError(shown(of_system(error))) from error
    if getattr(option, "tx", None):
        option.maxworkerrestart = "0"  # a restarted worker would run checks a second time
    environments = environments_of(config)
    try:
        asked = matrix.load(option.mb_matrix)
        # The engine would do so as well, but now the process that renders gets ready meanwhile.
        hosts.load({host.kind for host in asked.hosts})
        planned = plan.make(
            Path(option.mb_recipe),
            Path(option.mb_artifacts) if option.mb_artifacts else None,
            asked,
            option.mb_on,
            renderer=option.mb_renderer,
            own_tests=option.mb_recipe_tests,
        )
        return Controller(config, planned, environments)
    except (ManualBuildError, OSError) as error:
        environments.close()
        known = error if isinstance(error, ManualBuildError) else of_system(error)
        raise pytest.UsageError(shown(known)) from error


def _check_places(option: Any) -> None:
    """Refuse what would change the recipe while it is tested, or lose it."""
    for name in ("recipe", "artifacts", "evidence"):
        if getattr(option, f"mb_{name}") == "":
            raise pytest.UsageError(f"--{name} is empty. Give a folder.")
    recipe = Path(os.path.realpath(option.mb_recipe))
    recipe = recipe.parent if recipe.name in recipes.FILES and recipe.is_file() else recipe
    for name, given in (
        ("--evidence", option.mb_evidence),
        ("--junitxml", getattr(option, "mb_junitxml", None)),
    ):
        # Unlike `Path.resolve`, also of a link round in circles.
        place = Path(os.path.realpath(given)) if given else None
        if place is not None and place.is_relative_to(recipe):
            raise pytest.UsageError(
                f"{name} {given}: it lies in the recipe's folder {recipe}, which a report would"
                f" change. Name one outside with {name}."
            )
    junit = getattr(option, "mb_junitxml", None)
    if junit is not None and (why := outfiles.refusal(Path(junit), "<testsuite")):
        raise pytest.UsageError(f"--junitxml {junit}: {why}. Name another file.")
    if recipe.is_relative_to(Path(os.path.realpath(option.mb_evidence)) / "recipe"):
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
        raise pytest.UsageError(shown(error)) from error


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


class Controller(Session):
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
        self._sources: Future[commits.Sources | None] | None = None
        self._results: dict[CheckKey, CheckResult] = {}
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
            self._run = Run.begin(keeps=self.keeps)
        return self._run

    def hosts_to_start(self, key: CheckKey) -> None:
        """Start every host at once."""
        del key

    def waiting(self, status: str) -> None:
        """Show on a terminal what the hosts are doing."""
        with importing.past_pytest():
            for name in ("html", "junit", "terminal"):  # slow; nothing else is to do now
                import_module(f"pytest_manualbuild.reports.{name}")
        self._waited.show(status)

    def ask(self, key: CheckKey) -> CheckResult:
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
        keys = (self._keys.get(nodeid) or self._function(nodeid) for nodeid in ids)
        self._selected = list(dict.fromkeys(key for key in keys if key is not None))

    def _function(self, nodeid: str) -> CheckKey | None:
        return self.functions.key(nodeid) if self.functions is not None else None

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
        option = session.config.option
        # With pytest-xdist its workers alone know what was selected.
        nothing = self.plan.cells and not session.items and not getattr(option, "tx", None)
        if option.collectonly or nothing:
            return  # an older report stays
        try:
            run_id = self.run().run_id
            self._journal = evidence.begin(
                self.folder, self.plan, run_id, junit_copy=self._junit_copy
            )
        except ManualBuildError as error:
            raise pytest.UsageError(shown(error)) from error
        except OSError as error:
            raise pytest.UsageError(shown(of_system(error))) from error
        # Of the recipe as it was planned, and while hosts start: git takes as long as a small test.
        aside = ThreadPoolExecutor(1, thread_name_prefix="manualbuild-git")
        self._sources = aside.submit(commits.sources, Path(self.plan.recipe))
        aside.shutdown(wait=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a result, once, as soon as it is there."""
        for name, value in report.user_properties:
            if name == PROPERTY:
                result = msgspec.json.decode(str(value), type=CheckResult)
                key = result.key
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
        if self.keeps or set(plan.expected(self.plan)) - self._results.keys():
            # Only then is it known what was kept; and when cut short, or where checks that nobody
            # selected go on beside others, nothing may be written any more.
            self.release()
        if self.engine is not None:
            self._records |= {record.name: record for record in self.engine.records()}
        selected = set(self._selected)
        narrowed = narrowing.reasons(
            session,
            int(exitstatus),
            planned=plan.expected(self.plan),
            selected=selected,
            results=self._results,
            records=self._records.values(),
        )
        results, status = evidence.conclude(
            self.plan, self._results, selected, pytest_status=self._pytest_status(int(exitstatus))
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
            sources=self._sources.result() if self._sources else None,
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
        finally:
            self._journal.close()

    def _pytest_status(self, status: int) -> int:
        """Return pytest's exit status; pytest-xdist calls it an interruption where -x stops it."""
        distributed = self.config.pluginmanager.get_plugin("dsession")
        stopped = str(getattr(distributed, "shouldstop", "")).startswith("stopping after")
        return 1 if stopped and status == pytest.ExitCode.INTERRUPTED else status

    def _record(self, name: str) -> HostRecord:
        if name in self._records:
            return self._records[name]
        if any(key[0] == name for key in self._results):
            message = "The worker that tested it died."
            return HostRecord(name=name, state="lost", message=message)
        return HostRecord(name=name, state="never-reached")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the grid, what the gate would still want, and the hosts that were kept."""
        if self.evidence is not None:
            show.summary(terminalreporter, self.evidence, self.folder)
        if self.keeps and self._journal is not None:
            names = {host.name for host in self.plan.matrix.hosts}
            began = self._started.isoformat(timespec="microseconds")
            here = [one for one in hosts.kept.every() if one.host.name in names]
            show.kept(terminalreporter, [one for one in here if one.at >= began])

    def release(self) -> None:
        """Release hosts and solver, and remove whatever is left of the run."""
        super().release()
        if self._run is not None:
            hosts.sweep(self._run)
            self._run = None
