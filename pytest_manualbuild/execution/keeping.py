"""Decides whether a host stays after its tests, and leaves on it what a shell there needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pytest_manualbuild import hosts
from pytest_manualbuild.errors import HostError
from pytest_manualbuild.execution import activation, display
from pytest_manualbuild.hosts import kept
from pytest_manualbuild.hosts.base import Connection, Progress, Provider
from pytest_manualbuild.hosts.kept import Kept, KeptSection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host, PlannedPackage
from pytest_manualbuild.records import LinkedEnvironment

NEVER, FAILED, ALWAYS = "never", "failed", "always"
POLICIES = (FAILED, ALWAYS, NEVER)
"""Which hosts stay: those on which something failed, all, or none."""


@dataclass(kw_only=True)
class Stay:
    """One start of a host, from its first test section to its end."""

    policy: str
    reuse: bool
    """Whether a host that an earlier run kept may be used."""
    host: Host
    run: Run
    image_digest: str | None
    warn: Callable[[str], None]
    clean: bool = True
    """Whether the tests left the host as the next package may use it."""
    sections: list[KeptSection] = field(default_factory=list)
    _enter: dict[str, str] = field(default_factory=dict)
    _resumed: Kept | None = None
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _stays: bool = False

    @property
    def reused(self) -> str:
        """The run that had kept this very host; empty: it was started for this one."""
        return self._resumed.run_id if self._resumed else ""

    def start(
        self,
        provider: Provider,
        environments: Sequence[LinkedEnvironment],
        progress: Progress,
        planned: Sequence[PlannedPackage],
    ) -> Connection:
        """Start the host, or go on with the kept one that it may be, for these test sections."""
        resumed = self._resume(provider, environments, progress, planned) if self.reuse else None
        return resumed or provider.start(self.host, self.run, environments, progress)

    def _resume(
        self,
        provider: Provider,
        environments: Sequence[LinkedEnvironment],
        progress: Progress,
        planned: Iterable[PlannedPackage],
    ) -> Connection | None:
        """Return a connection to the host that was kept last, if it may be used; else say why not.

        It must have been kept after one of the test sections that are ``planned`` for it now.
        The environments are fresh all the same. It is held, so that nobody else uses it, and
        goes when this start ends, unless it is kept once more.
        """
        if not isinstance(provider, kept.Resumer):
            return None
        names = {_name(one) for one in planned}
        one = next(
            (
                one
                for one in kept.every()
                if one.host.name == self.host.name
                and any(section.package in names for section in one.sections)
            ),
            None,
        )
        if one is None:
            return None
        with contextlib.ExitStack() as stack:
            try:
                if why := self._unusable(one):
                    self.warn(f"a new host was started, though one was kept: {why}")
                    return None
                stack.enter_context(kept.held(one))
                connection = provider.resume(one, self.host, self.run, environments, progress)
            except HostError as error:
                self.warn(f"a new host was started, though one was kept: {error.problem}")
                return None
            self._resumed, self._held = one, stack.pop_all()
        return connection

    def _unusable(self, one: Kept) -> str:
        if not one.clean:
            return "its tests left it dirty"
        if one.host != self.host:
            return "its entry in the matrix was changed"
        if self.host.isolation != "host":
            return "the matrix wants a fresh host for each package"
        if one.image_digest is None:
            return "nothing says whether its root is still the same"
        if one.image_digest != self.image_digest:
            return "its image was changed"
        return ""

    def ran(
        self,
        planned: PlannedPackage,
        environments: list[LinkedEnvironment],
        folder: str,
        *,
        failed: bool,
    ) -> None:
        """Note a test section that ran in that folder, in environments that are there."""
        if self.policy == NEVER:
            return
        self.sections.append(KeptSection(package=_name(planned), folder=folder, failed=failed))
        environment, *build = environments
        self._enter[folder] = display.enter(planned) + activation.enter(
            planned, environment, build[0] if build else None, folder, self.host.name
        )

    def end(self, connection: Connection) -> None:
        """Keep the host, or release it. Never raises a HostError."""
        try:
            if self._wanted():
                self._keep(connection)
        except HostError as error:
            self.warn(f"it could not be kept: {error.problem}")
        finally:
            connection.close()
            if self._resumed is not None and not self._stays:
                self._resumed.record.unlink(missing_ok=True)
            self._held.close()

    def _wanted(self) -> bool:
        failed = any(one.failed for one in self.sections)
        return bool(self.sections) and (self.policy == ALWAYS or failed)

    def _keep(self, connection: Connection) -> None:
        keeper = hosts.provider(self.host.kind)
        if not isinstance(connection, kept.Keepable) or not isinstance(keeper, kept.Keeper):
            self.warn(f"hosts of kind {self.host.kind!r} cannot be kept by this version")
            return
        for folder, text in self._enter.items():
            connection.put(folder, {kept.ENTER: text.encode()})
        environment = connection.environment()
        what = connection.keep()
        kept.write(
            Kept(
                # Its things carry the name of the run that made it.
                run_id=self.reused or self.run.run_id,
                name=self._resumed.name if self._resumed else kept.new_name(self.host),
                host=self.host,
                image_digest=self.image_digest,
                at=datetime.now(UTC).isoformat(timespec="microseconds"),
                clean=self.clean,
                environment=environment,
                what=what,
                sections=tuple(self.sections),
            )
        )
        self._stays = True


def _name(planned: PlannedPackage) -> str:
    (section,) = planned.sections
    return f"{planned.label} {section.label}".rstrip()
