"""Reads ``policy.toml``: what the gate demands, kept where others review it.

Paths in it are relative to the file. What is unknown, or could never be met, is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import structs

from pytest_manualbuild import matrix, tomlfile
from pytest_manualbuild.audit.codes import CODES
from pytest_manualbuild.deviations import Deviation, Kind
from pytest_manualbuild.errors import MatrixError, PolicyError
from pytest_manualbuild.gate import ledger as ledgers
from pytest_manualbuild.gate import signatures
from pytest_manualbuild.gate.ledger import Ledger
from pytest_manualbuild.gate.signatures import AllowedSigners, Role
from pytest_manualbuild.model import Matrix
from pytest_manualbuild.records import Finding, Severity

DEFAULT_LABEL = "manual"
_LABEL = re.compile(r"[a-zA-Z][0-9a-zA-Z_\-./]{0,127}")  # CEP 26
_MOST_DAYS = 36_500
_WILDCARDS = "*?[]"
_CLASS = r"\[!?\]?[^]]*\]"  # as fnmatch reads it: a ] that comes first is one of the class
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where packages may go."""

    kind: Literal["anaconda", "directory"] | None = None
    owner: str | None = None
    label: str | None = None
    staging: str | bool = True
    """The label under which a file is looked at before it gets ``label``; true: ``LABEL-staging``,
    false: none, files go directly to ``label``."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A finding of the audit that does not hinder."""

    code: str
    path: str
    """The file in the package, or a pattern such as ``share/doc/*``; empty: the package itself."""
    package: str
    reason: str
    until: date | None = None


@dataclass(frozen=True, kw_only=True)
class AcceptedDeviation:
    """What conda-build passes and we do not, and that does not hinder one package."""

    kind: Kind
    package: str
    reason: str
    until: date | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a report must be."""

    matrix: str | None = None
    """A matrix's name, or its file relative to the policy's."""
    approvals: int = 0
    rebuilds: int = 0
    """How many of the people who approve must have built it themselves and compared."""
    max_age_days: int | None = None
    ledger: str | None = None
    """The file of runs that were used, relative to the policy's; a run counts once."""
    reviewed_branch: str | None = None
    """The branch of the feedstock that the recipe's commit must be on, such as ``origin/main``."""
    severities: dict[str, Severity] = field(default_factory=dict)
    """Of findings of the audit, by code, in place of the audit's own."""
    accepted: tuple[Accepted, ...] = ()
    accepted_deviations: tuple[AcceptedDeviation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Whose signatures count."""

    allowed_signers: str | None = None
    revoked: str | None = None
    """Keys that count no more: a list of public keys or a KRL of ``ssh-keygen -k``."""


@dataclass(frozen=True, kw_only=True)
class Enabled:
    """One package that may be built by hand."""

    package: str
    pr: str | int | None = None
    by: str | None = None
    until: date | None = None
    builders: tuple[str, ...] = ()
    clone: str | None = None
    """A git clone of its feedstock, relative to the policy's file."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who may sign, with Sigstore, that packages were published."""

    identity: str
    """An e-mail address, or the URL of a workflow."""
    issuer: str
    """The URL of the one who vouches for it."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the gate demands."""

    target: Target = Target()
    gate: Gate = Gate()
    signers: Signers = Signers()
    sigstore: Identity | None = None
    enabled: tuple[Enabled, ...] = ()
    matrix: Matrix | None = None
    """The matrix that ``gate.matrix`` names."""
    ledger: Ledger | None = None
    """What ``gate.ledger`` holds."""
    allowed: AllowedSigners | None = None
    """Who stands in ``signers.allowed_signers``; None: no signature is asked for."""
    clones: dict[str, Path] = field(default_factory=dict)
    """The clone of the feedstock of each package that has one."""
    listed: bool = False
    """Whether it has the key ``enabled``: then only these packages may be built, if any."""

    def label(self) -> str:
        """Return the label that packages get."""
        return self.target.label or DEFAULT_LABEL

    def rows(self, package: str) -> list[Enabled]:
        """Return the tables that enable a package."""
        return [row for row in self.enabled if row.package == package]


_TABLES: dict[str, tuple[str, ...]] = {
    "target": tuple(Target.__dataclass_fields__),
    "gate": tuple(Gate.__dataclass_fields__),
    "signers": tuple(Signers.__dataclass_fields__),
    "sigstore": tuple(Identity.__dataclass_fields__),
    "enabled": tuple(Enabled.__dataclass_fields__),
    "gate.accepted": tuple(Accepted.__dataclass_fields__),
    "gate.accepted_deviations": tuple(AcceptedDeviation.__dataclass_fields__),
}
_LISTS = ("enabled", "gate.accepted", "gate.accepted_deviations")


def load(path: Path | None) -> Policy:
    """Return the policy of a file (None: the default one); PolicyError names file and key."""
    if path is None:
        return Policy()
    tables = tomlfile.parse(tomlfile.text(path, "policy", PolicyError), str(path), PolicyError)
    if not tables:  # cut, or never filled; whoever names a policy wants something of it
        raise PolicyError(
            f"{path}: the policy is empty, and would demand nothing.",
            remedy="Check --policy; without it nobody needs to sign, and any matrix will do.",
        )
    for name, table in tables.items():
        if "." in name or name not in _TABLES:
            known = ", ".join(name for name in _TABLES if "." not in name)
            raise PolicyError(f"{path}: unknown key {name}.", remedy=f"Known keys: {known}.")
        _check_keys(path, name, table)
    try:
        policy = msgspec.convert(tables, type=Policy)
    except (msgspec.ValidationError, RecursionError) as error:
        raise PolicyError(f"{path}: {error}.", remedy="Correct that value.") from error
    policy = replace(
        policy,
        matrix=_matrix(path, policy),
        allowed=_allowed(path, policy),
        ledger=_ledger(path, policy),
        listed="enabled" in tables,
        clones={row.package: path.parent / row.clone for row in policy.enabled if row.clone},
    )
    for problem in _problems(policy):
        raise PolicyError(f"{path}: {problem}.", remedy="Correct that value.")
    return policy


def _check_keys(path: Path, name: str, table: object) -> None:
    rows = table if isinstance(table, list) else [table]
    if isinstance(table, list) != (name in _LISTS):
        form = f"[[{name}]]" if name in _LISTS else f"[{name}]"
        raise PolicyError(f"{path}: {name} has another form.", remedy=f"Write it as {form}.")
    for row in rows:
        if not isinstance(row, dict):
            raise PolicyError(f"{path}: {name} must be a table.", remedy="Correct it.")
        for key, value in row.items():
            if key not in _TABLES[name]:
                raise PolicyError(
                    f"{path}: unknown key {name}.{key}.",
                    remedy=f"Known keys: {', '.join(_TABLES[name])}.",
                )
            if f"{name}.{key}" in _TABLES:
                _check_keys(path, f"{name}.{key}", value)


def _matrix(path: Path, policy: Policy) -> Matrix | None:
    named = policy.gate.matrix
    if named is None:
        return None
    # A shipped one is never a file of that name in the current folder, which `matrix.load` prefers.
    own = "/" in named or Path(named).suffix
    file = path.parent / named if own else matrix.shipped_folder() / f"{named}.toml"
    try:
        return matrix.load(str(file))
    except MatrixError as error:
        raise PolicyError(
            f"{path}: gate.matrix: {error.problem}", remedy="Correct that key, or that file."
        ) from error


def _ledger(path: Path, policy: Policy) -> Ledger | None:
    # An empty name is no way to do without: the folder of the policy is no ledger.
    return None if policy.gate.ledger is None else ledgers.load(path.parent / policy.gate.ledger)


def _allowed(path: Path, policy: Policy) -> AllowedSigners | None:
    if policy.signers.allowed_signers is None:
        return None
    revoked = policy.signers.revoked
    return signatures.load(
        path.parent / policy.signers.allowed_signers,
        path.parent / revoked if revoked is not None else None,
    )


def _problems(policy: Policy) -> Iterator[str]:
    target, gate = policy.target, policy.gate
    if target.owner is not None and not is_owner(target.owner):
        yield f"target.owner: {target.owner!r} is not the name of a channel's owner"
    for key, label in (("label", target.label), ("staging", target.staging)):
        if isinstance(label, str) and not is_label(label):
            yield f"target.{key}: {label!r} is not a label"
    if target.staging in (policy.label(), "main"):
        yield "target.staging: it must be neither the label itself nor main"
    if min(gate.approvals, gate.rebuilds) < 0:
        yield "gate: numbers must not be negative"
    if gate.max_age_days is not None and not 1 <= gate.max_age_days <= _MOST_DAYS:
        yield f"gate.max_age_days: it must be from 1 to {_MOST_DAYS}"
    yield from _problems_of_findings(gate)
    yield from _problems_of_people(policy)
    for row in policy.enabled:
        if not row.package.strip():
            yield "enabled.package: it names no package"
        if set(row.package) & set(_WILDCARDS):
            yield f"enabled.package: {row.package!r} is a pattern, and only a name counts"
    yield from _problems_of_clones(policy)


def _problems_of_clones(policy: Policy) -> Iterator[str]:
    branch = policy.gate.reviewed_branch
    if branch is not None and (not _BRANCH.fullmatch(branch) or ".." in branch):
        yield f"gate.reviewed_branch: {branch!r} is not the name of a branch"
    if branch is not None and not policy.enabled:
        yield "gate.reviewed_branch: it wants [[enabled]] tables, each with the clone to look in"
    for row in policy.enabled:
        if branch is not None and not row.clone:
            yield f"enabled.clone: {row.package} has none, and gate.reviewed_branch wants one"
        if branch is None and row.clone:
            yield f"enabled.clone: that of {row.package} wants a gate.reviewed_branch"
        if {other.clone for other in policy.rows(row.package)} != {row.clone}:
            yield f"enabled.clone: {row.package} has several"


def _problems_of_findings(gate: Gate) -> Iterator[str]:
    named = [(code, "gate.severities") for code in gate.severities]
    named += [(one.code, "gate.accepted") for one in gate.accepted]
    for code, where in named:
        if code not in CODES:
            yield f"{where}: the audit has no code {code!r}"
        if code.startswith("archive-"):
            yield f"{where}: {code} is about what is unsafe to unpack, and stands"
    for deviation in gate.accepted_deviations:
        if not deviation.reason.strip():
            yield f"gate.accepted_deviations: {deviation.kind} wants a reason"
    for one in gate.accepted:
        if not one.reason.strip():
            yield f"gate.accepted: {one.code} wants a reason"
        if one.path and not re.sub(rf"{_CLASS}|[^\w]", "", one.path):
            yield f"gate.accepted: {one.code}: the path {one.path!r} is too wide"


def _problems_of_people(policy: Policy) -> Iterator[str]:
    who = policy.sigstore
    if who is not None and (not who.identity.strip() or not who.issuer.startswith("https://")):
        yield "sigstore: it wants an identity, and the URL of its issuer"
    gate, allowed = policy.gate, policy.allowed
    builders = {builder for row in policy.enabled for builder in row.builders}
    if allowed is None:
        if gate.approvals or gate.rebuilds or builders or policy.signers.revoked:
            yield "approvals, rebuilds, builders and revoked keys want signers.allowed_signers"
        return
    may = {one.principal for one in allowed.signers if allowed.may(one.principal, Role.APPROVE)}
    for key, count in (("approvals", gate.approvals), ("rebuilds", gate.rebuilds)):
        if len(may) < count:
            yield f"gate.{key}: {count} are wanted, and {len(may)} may approve"
            continue
        for package, runners in _runners(policy, allowed):
            # Whoever runs the tests of a package does not approve it.
            if runners and all(len(may - {runner}) < count for runner in runners):
                yield (
                    f"gate.{key}: {count} are wanted{package}, and whoever may sign its report"
                    " leaves too few others who may approve"
                )
    for builder in sorted(builders):
        if not allowed.may(builder, Role.REPORT):
            yield f"enabled.builders: {builder!r} may not sign reports ({Role.REPORT.namespace})"


def _runners(policy: Policy, allowed: AllowedSigners) -> Iterator[tuple[str, set[str]]]:
    """Yield who may sign the report of each package that is enabled, or of any."""
    who = {one.principal for one in allowed.signers if allowed.may(one.principal, Role.REPORT)}
    if not policy.enabled:
        yield "", who
    for package in dict.fromkeys(row.package for row in policy.enabled):
        rows = policy.rows(package)
        named = {builder for row in rows for builder in row.builders}
        yield f" for {package}", who & named if all(row.builders for row in rows) else who


def is_owner(text: str) -> bool:
    """Say whether a text can name the owner of a channel on anaconda.org."""
    return _OWNER.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Say whether a text can be a label (CEP 26)."""
    return _LABEL.fullmatch(text) is not None and text != "nolabel"


def weigh(policy: Policy, package: str, finding: Finding, today: date) -> Finding:
    """Return a finding with the severity that it has under the policy: accepted ones are notes."""
    severity = policy.gate.severities.get(finding.code, finding.severity)
    for one in policy.gate.accepted:
        if (
            (one.package, one.code) == (package, finding.code)
            and fnmatchcase(finding.file, one.path)
            and (one.until is None or one.until >= today)
        ):
            said = f"{finding.message} The policy accepts it: {one.reason}"
            return structs.replace(finding, severity=Severity.NOTE, message=said)
    return structs.replace(finding, severity=severity)


def accepted(
    policy: Policy, package: str, deviation: Deviation, today: date
) -> AcceptedDeviation | None:
    """Return the table by which a deviation does not hinder a package of that name, if any."""
    for one in policy.gate.accepted_deviations:
        if (one.package, one.kind) == (package, deviation.kind) and (
            one.until is None or one.until >= today
        ):
            return one
    return None


def digest(policy: Policy, packages: Collection[str]) -> str:
    """Return the sha256 of what the policy demands of packages with these names.

    That is what people approve under: target, gate, matrix, and the tables of these packages.
    Who may sign is left out, so that a new signer does not undo what was approved.
    """
    # Of a dataclass that was read this has what was given, and no defaults: a key that a later
    # version knows voids no approval.
    value = msgspec.to_builtins(
        (policy.target, policy.gate, [row for row in policy.enabled if row.package in packages])
    )
    text = json.dumps([value, policy.matrix.sha256 if policy.matrix else None], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
