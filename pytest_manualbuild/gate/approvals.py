"""What people sign: reports, approvals, waivers; written here, and read back strictly.

A statement is a JSON file with its signature beside it, ``FILE.sig``. Whether it counts is the
gate's to say (see ``people``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import fields

from pytest_manualbuild import body, evidence, strictjson, untrusted
from pytest_manualbuild.body import REPORT
from pytest_manualbuild.errors import EvidenceError, PolicyError, SignatureError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate import signatures
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.signatures import AllowedSigners, Role, Signature

APPROVAL = "urn:pytest-manualbuild:approval:v1"
WAIVER = "urn:pytest-manualbuild:waiver:v1"
CHECKED = ("log", "audit", "rebuild", "run")
"""What an approver may say that he looked at: the build log, the audit, a build and a test run of
his own."""
MOST_DAYS = 90
"""How long a waiver may hold."""
MOST_BYTES = 1 << 20
MOST_FILES = 1000


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody looked at a report and its packages, and they may go out under that policy."""

    evidence_sha256: str
    packages: dict[str, str]
    """sha256 of each package file, by its key."""
    policy_sha256: str
    """See ``policy.digest``."""
    checked: tuple[str, ...]
    note: str = ""


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """One check does not matter on one host for one version of a package, for some time."""

    id: str
    package: str
    version: str
    host: str
    """``*`` is every host; not together with every check."""
    check: str
    """``*`` is every check; not together with every host."""
    reason: str
    link: str
    created: date
    expires: date

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with its form, whoever signed it."""
        if self.host == "*" and self.check == "*":
            yield "it is too wide: every check on every host"
        if not self.reason.strip() or not self.link.startswith(("https://", "http://")):
            yield "it wants a reason, and a link to where that is discussed"
        if not 0 < (self.expires - self.created).days <= MOST_DAYS:
            yield f"it must expire within {MOST_DAYS} days of the day it was made"

    def covers(self, package: str, version: str, host: str, check: str) -> bool:
        """Say whether it is about this check of this package on this host."""
        return (
            (self.package, self.version) == (package, version)
            and self.host in (host, "*")
            and self.check in (check, "*")
        )


S = TypeVar("S", Approval, Waiver, bytes)


class Signed(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A file with its signature, as it was read and checked."""

    file: str
    """Relative to the folder of the evidence."""
    statement: S | None
    signature: Signature | None
    problem: str = ""
    """Why it does not count; empty if signature and form are good."""


_KINDS: dict[type, str] = {Approval: APPROVAL, Waiver: WAIVER}


def read_report(
    folder: Path, run: Path, data: bytes, allowed: AllowedSigners | None, now: datetime
) -> Signed[bytes]:
    """Return the report of a run below ``folder`` with whoever signed these bytes."""
    path = run / REPORT
    if not path.with_name(f"{REPORT}.sig").is_file():
        file = path.relative_to(folder).as_posix()
        return Signed(file=file, statement=data, signature=None)
    return _checked(folder, path, data, data, Role.REPORT, allowed, now)


def read_all(
    folder: Path, kind: type[S], allowed: AllowedSigners | None, now: datetime
) -> tuple[Signed[S], ...]:
    """Return the approvals or the waivers of a folder of evidence, by file name."""
    role = Role.APPROVE if kind is Approval else Role.WAIVER
    found: list[Signed[S]] = []
    for path in untrusted.files(folder / _place(role))[:MOST_FILES]:
        if path.name.endswith(".json.sig") and path.with_suffix("").is_file():
            continue
        file = path.relative_to(folder).as_posix()
        try:
            data = _bytes(path)
            statement = _parse(data, kind)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            told = error.strerror if isinstance(error, OSError) else str(error)
            reason = (told or type(error).__name__).splitlines()[0]
            found.append(Signed(file=file, statement=None, signature=None, problem=reason))
        else:
            found.append(_checked(folder, path, data, statement, role, allowed, now))
    return tuple(found)


def _place(role: Role) -> str:
    return {Role.APPROVE: "approvals", Role.WAIVER: "waivers"}[role]


def _checked(
    folder: Path,
    path: Path,
    data: bytes,
    statement: S,
    role: Role,
    allowed: AllowedSigners | None,
    now: datetime,
) -> Signed[S]:
    signature, problem = None, ""
    if allowed is None:
        problem = "the policy names no signers"
    else:
        try:
            signature = signatures.verify(
                data, _bytes(path.with_name(f"{path.name}.sig")), role, allowed, now
            )
        except SignatureError as error:
            problem = error.problem.rstrip(".")
        except (OSError, ValueError):
            problem = "it is not signed"
    return Signed(
        file=path.relative_to(folder).as_posix(),
        statement=statement,
        signature=signature,
        problem=problem,
    )


def _bytes(path: Path) -> bytes:
    return untrusted.read(path, MOST_BYTES)


def _parse(data: bytes, kind: type[S]) -> S:
    value = strictjson.loads(data)
    if not isinstance(value, dict) or value.pop("kind", None) != _KINDS[kind]:
        raise ValueError(f"it is not of the kind {_KINDS[kind]}")
    unknown = value.keys() - {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}")
    return msgspec.convert(value, type=kind)


def sign_report(folder: Path, key: Path, policy: Policy) -> Signature:
    """Sign a report as the one who ran it; return what the policy makes of the signature.

    Raises SignatureError, PolicyError or EvidenceError.
    """
    allowed = _signers(policy)
    evidence.read(folder)  # nobody should sign what is no report
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        copy = Path(scratch) / REPORT
        shutil.copyfile(folder / REPORT, copy)
        made = signatures.sign(copy, key, Role.REPORT)
        found = signatures.verify(
            copy.read_bytes(), made.read_bytes(), Role.REPORT, allowed, datetime.now(UTC)
        )
        _put(made, folder / made.name)
    return found


def approve(
    folder: Path, key: Path, policy: Policy, checked: tuple[str, ...], note: str
) -> tuple[Path, Signature]:
    """Approve a report and its packages; return the approval's file and who signed it.

    Raises SignatureError, PolicyError or EvidenceError.
    """
    if not checked or not set(checked) <= set(CHECKED):
        raise EvidenceError(
            f"--checked {','.join(checked)}: that is not known.",
            remedy=f"Name some of {', '.join(CHECKED)}.",
        )
    reports = body.read_bytes(folder)
    stored = body.parse(reports).whole
    names = {planned.artifact.name for planned in stored.evidence.plan.packages}
    approval = Approval(
        evidence_sha256=body.sha256(reports),
        packages=stored.subjects,
        policy_sha256=policies.digest(policy, names),
        checked=checked,
        note=note,
    )
    return _write(folder, key, policy, Role.APPROVE, msgspec.to_builtins(approval), None)


def waive(folder: Path, key: Path, policy: Policy, waiver: Waiver) -> tuple[Path, Signature]:
    """Write a signed waiver into a folder of evidence; return its file and who signed it."""
    body.read(folder)
    for fault in waiver.faults():
        raise EvidenceError(f"The waiver cannot hold: {fault}.", remedy="Make it narrower.")
    return _write(folder, key, policy, Role.WAIVER, msgspec.to_builtins(waiver), waiver.id)


def waiver_id(*words: str) -> str:
    """Return a short name for a waiver of these values."""
    return f"w-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:10]}"


def _write(
    folder: Path, key: Path, policy: Policy, role: Role, value: dict[str, Any], name: str | None
) -> tuple[Path, Signature]:
    kind = APPROVAL if role is Role.APPROVE else WAIVER
    data = json.dumps({"kind": kind, **value}, indent=1, sort_keys=True, default=str) + "\n"
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        file = Path(scratch) / "statement.json"
        file.write_text(data)
        made = signatures.sign(file, key, role)
        found = signatures.verify(
            data.encode(), made.read_bytes(), role, _signers(policy), datetime.now(UTC)
        )
        target = folder / _place(role) / f"{name or found.principal}.json"
        # The statement last: without it, a signature alone is nothing.
        _put(made, target.with_name(f"{target.name}.sig"))
        _put(file, target)
    return target, found


def _put(path: Path, target: Path) -> None:
    """Copy a file to its place, whole or not at all."""
    try:
        target.parent.mkdir(exist_ok=True)
        if target.parent.is_symlink():
            raise EvidenceError(f"{target.parent}: it is a link.", remedy="Remove it.")
        evidence.replace_file(target, path.read_bytes())
    except OSError as error:
        raise EvidenceError(
            f"{target}: cannot be written: {error.strerror}.", remedy="Check the folder."
        ) from error


def _signers(policy: Policy) -> AllowedSigners:
    if policy.allowed is None:
        raise PolicyError(
            "The policy names no signers.",
            remedy="Give one with signers.allowed_signers (--policy).",
        )
    return policy.allowed
