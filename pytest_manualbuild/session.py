"""What controller and workers of a run under ``--recipe`` have in common, and the workers.

With pytest-xdist its workers get the controller's plan and run the hosts that fall to them. Both
ways go through the same items, the same engine and the same record.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_manualbuild import plan
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.execution.engine import Engine, Settings
from pytest_manualbuild.execution.keeping import NEVER
from pytest_manualbuild.execution.section import Limits
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import CheckKey, Plan
from pytest_manualbuild.nodes import CheckItem, RecipeNode
from pytest_manualbuild.records import CheckResult

if TYPE_CHECKING:
    from pytest_manualbuild.recipe_tests import RecipeTests

DEFAULT_CHANNEL = "conda-forge"
_NOT_WATCHING = ("_pytest.", "pytest_manualbuild.", "_hypothesis_pytestplugin")
"""Whose hooks in the phases of items do nothing with a check."""


def environments_of(config: pytest.Config) -> Environments:
    """Return what makes environments; its process loads py-rattler while this one goes on."""
    option = config.option
    made = Environments(cache_folder(), tuple(option.mb_channels or (DEFAULT_CHANNEL,)))
    if not option.collectonly and not getattr(option, "tx", None):
        made.start()
    return made


class Session:
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
        environments.expect([package.artifact for package in planned.packages])
        self._selected: list[CheckKey] = []
        self.keeps = config.option.mb_keep != NEVER
        self.functions: RecipeTests | None = None
        if config.option.mb_recipe_tests:
            self.functions = self._recipe_tests()
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
        # Hosts work side by side: in this order no result lies about until another host is done.
        position = {one.artifact.key: number for number, one in enumerate(self.plan.packages)}
        found = [item for item in session.genitems(root) if isinstance(item, CheckItem)]
        found.sort(key=lambda item: position[item.key[1]])
        items[:] = found
        if self.functions is not None:
            items += self.functions.items(session, root)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which checks were selected."""
        self._selected = [item.key for item in session.items if isinstance(item, CheckItem)]
        if self.functions is not None:
            self._selected += self.functions.select(session.items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report a check; the recipe's own functions are pytest's."""
        if not isinstance(item, CheckItem) or self._watched:
            return None
        item.protocol()
        return True

    @cached_property
    def _watched(self) -> bool:
        """Whether somebody else wants to be there in the phases of items, as plugins may."""
        if self.config.getoption("usepdb"):
            return True
        hook = self.config.hook
        phases = (hook.pytest_runtest_setup, hook.pytest_runtest_call, hook.pytest_runtest_teardown)
        modules = {one.function.__module__ for phase in phases for one in phase.get_hookimpls()}
        return not all(name.startswith(_NOT_WATCHING) for name in modules)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the report of a check say how long the check took."""
        report = yield
        if isinstance(item, CheckItem):
            report.duration = item.duration_s(call.when)
        return report

    def _recipe_tests(self) -> RecipeTests:
        """Return the plugin of the recipe's own test functions, registered."""
        from pytest_manualbuild.recipe_fixtures import NAME  # noqa: PLC0415 # testinfra is slow
        from pytest_manualbuild.recipe_tests import RecipeTests, Runner  # noqa: PLC0415

        made = RecipeTests(
            self.config,
            self.plan,
            Runner(
                visit=lambda key: self.running(key).visit(*key[:2], self.waiting),
                result=self.ask,
                give=lambda result: self.running((result.host, "", "")).give(result),
                check_s=self.config.option.mb_check_timeout,
            ),
        )
        self.config.pluginmanager.register(made, NAME)
        return made

    def ask(self, key: CheckKey) -> CheckResult:
        """Return the result of a check, running what must run for it."""
        return self.running(key).result(key, self.waiting)

    def running(self, key: CheckKey) -> Engine:
        """Return the engine, with the host of this check started."""
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
                    keep=option.mb_keep,
                    reuse=self.keeps and bool(getattr(option, "lf", False)),
                ),
                self._selected,
            )
        self.engine.start(self.hosts_to_start(key))
        return self.engine

    def hosts_to_start(self, key: CheckKey) -> list[str] | None:
        """Say which hosts to start when this check is asked for; None: all."""
        raise NotImplementedError

    def waiting(self, status: str) -> None:
        """Show what is going on while a result is waited for."""

    def release(self) -> None:
        """Release the hosts and the solver; safe to call twice."""
        if self.engine is not None:
            self.engine.close()
        self._environments.close()


class Worker(Session):
    """A worker of pytest-xdist: takes the controller's plan, runs the hosts it is given."""

    def __init__(self, config: pytest.Config, given: dict[str, Any]) -> None:
        super().__init__(
            config,
            plan.from_json(given["plan"]),
            environments_of(config),
            folder=Path(given["folder"]),
            command=given["command"],
        )
        self._run_id = str(given["run_id"])

    def run(self) -> Run:
        """Join the controller's run: it cleans up what a killed worker left."""
        return Run.join(self._run_id, keeps=self.keeps)

    def hosts_to_start(self, key: CheckKey) -> list[str]:
        """Start the host of this check alone: the others fall to other workers."""
        return [key[0]]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Release the hosts, and tell the controller of them."""
        self.release()
        if self.engine is not None:
            self.config.workeroutput["manualbuild"] = [  # type: ignore[attr-defined] # xdist's
                msgspec.to_builtins(record)
                for record in self.engine.records()
                if record.state != "never-reached"
            ]
