"""Decides whether a host stays after its tests, and leaves on it what a shell there needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pytest_manualbuild.errors import HostError
from pytest_manualbuild.execution import activation
from pytest_manualbuild.hosts import kept
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.hosts.kept import Kept, KeptSection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host, LinkedEnvironment, PlannedPackage

NEVER, FAILED, ALWAYS = "never", "failed", "always"
POLICIES = (FAILED, ALWAYS, NEVER)
"""Which hosts stay: those on which something failed, all, or none."""


@dataclass(kw_only=True)
class Stay:
    """One start of a host, from its first test section to its end."""

    policy: str
    host: Host
    run: Run
    image_digest: str | None
    warn: Callable[[str], None]
    clean: bool = True
    """Whether the tests left the host as the next package may use it."""
    sections: list[KeptSection] = field(default_factory=list)
    _enter: dict[str, str] = field(default_factory=dict)

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
        (section,) = planned.sections
        name = f"{planned.label} {section.label}".rstrip()
        self.sections.append(KeptSection(package=name, folder=folder, failed=failed))
        environment, *build = environments
        self._enter[folder] = activation.enter(
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

    def _wanted(self) -> bool:
        failed = any(one.failed for one in self.sections)
        return bool(self.sections) and (self.policy == ALWAYS or failed)

    def _keep(self, connection: Connection) -> None:
        if not isinstance(connection, kept.Keepable):
            self.warn(f"hosts of kind {self.host.kind!r} cannot be kept by this version")
            return
        for folder, text in self._enter.items():
            connection.put(folder, {kept.ENTER: text.encode()})
        environment = connection.environment()
        what = connection.keep()
        kept.write(
            Kept(
                run_id=self.run.run_id,
                name=kept.new_name(self.host),
                host=self.host,
                image_digest=self.image_digest,
                at=datetime.now(UTC).isoformat(timespec="microseconds"),
                clean=self.clean,
                environment=environment,
                what=what,
                sections=tuple(self.sections),
            )
        )
