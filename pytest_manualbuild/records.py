"""The frozen values that come of a run: results, environments, hosts, findings.

Nothing here reads a file, touches a host or judges. What is asked for is in ``model``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pytest_manualbuild.model import CheckKey, Facts


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"  # the package said no
    ERROR = "error"  # we could not find out: host, engine, disk, network
    SKIPPED = "skipped"  # it did not run; the cause says why


class Cause(StrEnum):
    """Why a check ended as it did."""

    # passed
    OK = "ok"
    # failed
    EXIT_STATUS = "exit-status"
    TIMEOUT = "timeout"
    TEST_FAILED = "test-failed"  # a test left a file of that name
    UNSOLVABLE = "unsolvable"
    UNINSTALLABLE = "uninstallable"
    CONTENTS = "contents"  # the package file does not hold what it must
    FUNCTION = "function"  # a test function of the recipe's own failed
    # error
    HOST_UNAVAILABLE = "host-unavailable"
    HOST_LOST = "host-lost"
    CHANNEL = "channel"
    ENVIRONMENT = "environment"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"
    # skipped
    RECIPE = "recipe"
    NOT_REACHED = "not-reached"
    EXIT_0 = "exit-0"  # an earlier command ended their shell well: conda-build calls that passed
    NOT_APPLICABLE = "not-applicable"
    WAIVED = "waived"
    NOT_SELECTED = "not-selected"


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one check of one package on one host."""

    host: str
    package: str
    check: str
    outcome: Outcome
    cause: Cause
    message: str = ""
    """One sentence for people; empty when it passed."""
    exit_status: int | None = None
    """Of the command or script; None when it did not run to its end."""
    duration_s: float = 0.0
    stdout: str = ""
    """Head and tail, at most 64 KiB; bytes that are not UTF-8 as ``\\xNN``."""
    stderr: str = ""
    log: str | None = None
    """The full output, relative to the folder of the evidence."""
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> CheckKey:
        """What tells it from the other results of a run."""
        return self.host, self.package, self.check


class InstalledPackage(msgspec.Struct, frozen=True, kw_only=True):
    """One package of an environment, with the bytes that it came from."""

    name: str
    version: str
    build: str
    subdir: str
    sha256: str
    channel: str


class LinkedEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """A conda prefix that is linked on the controller, for delivery to a host."""

    path: str
    """Where its files lie on the controller."""
    prefix: str
    """Where its files must lie on the host: what was written into them."""
    packages: tuple[InstalledPackage, ...]
    post_link: tuple[str, ...] = ()
    """Names of the packages whose post-link script runs on the host, in that order."""
    notes: tuple[str, ...] = ()


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says of one host."""

    name: str
    state: str
    """``tested``, ``unavailable``, ``lost`` or ``never-reached``."""
    facts: Facts | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    """What tests did to it beside passing or failing, in sentences."""
    environments: dict[str, LinkedEnvironment] = msgspec.field(default_factory=dict)
    """By package key; that of a section after the first by key and label."""
    phases_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds spent in each phase: provision, environment, run. The host is released after that,
    while the report is written."""
    reused: str = ""
    """The run that had kept this very host, where it was not started for this one."""


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"  # the package must not go out like this, unless the policy waives it
    WARNING = "warning"  # a reviewer should look
    NOTE = "note"  # to be known, and no fault


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the audit found in a package file."""

    code: str
    """Stable, and described in ``docs/audit.md``."""
    severity: Severity
    file: str
    """The member of the package, with ``/``; empty when it is about the package as a whole."""
    message: str
    """One sentence."""
    remedy: str
    """What to do about it, in one sentence."""
