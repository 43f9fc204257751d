"""Publishes what the gate accepts: copy, judge, look, send, read back, make public, receipt."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from pytest_manualbuild import __version__, copies
from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.evidence import replace_file
from pytest_manualbuild.gate import verify
from pytest_manualbuild.gate.ledger import Use
from pytest_manualbuild.gate.policy import Policy, is_label
from pytest_manualbuild.gate.verdict import Decision, Verdict
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.reports.text import visible
from pytest_manualbuild.targets import ANACONDA, as_label, as_owner, open_target
from pytest_manualbuild.targets.base import Standing, UploadTarget


class UploadRefused(UploadError):
    """The gate did not accept the evidence."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("The gate did not accept the evidence.", remedy="See its reasons.")
        self.verdict = verdict


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One package of a receipt."""

    package: str
    sha256: str
    size: int
    done: str
    """``published``, ``already there`` or ``would be published``."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was published where, by whom, on which evidence, under which policy."""

    where: str
    login: str
    time: str
    evidence_sha256: str
    policy_sha256: str
    packages: tuple[Published, ...]
    notes: tuple[str, ...]
    """What the gate accepted and noted: who signed and approved, what was waived."""
    tool: str = f"pytest-manualbuild {__version__}"

    def text(self) -> str:
        """Return the receipt in lines for people."""
        lines = [f"{one.package}  sha256 {one.sha256}: {one.done}" for one in self.packages]
        return "\n".join(map(visible, [*lines, f"in {self.where}"])) + "\n"


def upload(
    folder: Path,
    *,
    artifacts: Path | None,
    policy: Policy,
    to: str,
    user: str | None,
    label: str | None,
    dry_run: bool,
) -> Receipt:
    """Publish every package of a folder of evidence, or none.

    Raises UploadRefused with the gate's verdict, UploadError, or EvidenceError.
    """
    label = _label(policy.label() if label is None else label, policy)
    user = _user(user, policy)
    _kind(to, policy)
    staging = _staging(label, policy) if to == ANACONDA else None
    # Judged, hashed and sent are the same private copies: nobody can change them in between.
    with copies.place() as private:
        verify.copy_packages(folder, artifacts, private)
        verified = verify.verify(
            folder, private, policy, called=lambda one: verify.place(one, artifacts)
        )
        if verified.verdict.decision is not Decision.ACCEPT:
            raise UploadRefused(verified.verdict)
        target = open_target(to, user=user, label=label, staging=staging)
        packages = list(verified.files.values())
        target.check(packages)  # before a run is noted as used
        uses = _uses(verified, target.where, policy)
        login = "" if dry_run else target.login()
        if policy.ledger is not None and not dry_run:
            policy.ledger.add(uses)
        done = publish(target, packages, dry_run=dry_run)
    receipt = Receipt(
        where=target.where,
        login=login,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        evidence_sha256=verified.verdict.evidence_sha256,
        policy_sha256=verified.verdict.policy_sha256,
        packages=tuple(done),
        notes=verified.verdict.notes,
    )
    if not dry_run:
        _write(folder / "receipt.json", receipt)
    return receipt


def _uses(verified: verify.Verification, where: str, policy: Policy) -> list[Use]:
    """Return the lines of the ledger for an upload; UploadError if its runs were used elsewhere."""
    digest = verified.verdict.evidence_sha256
    if policy.ledger is not None:
        for fault in policy.ledger.faults(verified.run_ids, digest, where):
            raise UploadError(
                f"The policy's ledger: {fault}.", remedy="Run the tests again for this target."
            )
    return [
        Use(
            run_id=run_id,
            evidence_sha256=digest,
            where=where,
            packages=dict(verified.verdict.packages),
        )
        for run_id in verified.run_ids
    ]


def _write(path: Path, receipt: Receipt) -> None:
    try:
        replace_file(path, json.dumps(msgspec.to_builtins(receipt), indent=1).encode() + b"\n")
    except OSError as error:
        raise UploadError(
            f"{path}: all is published, but the receipt cannot be written: {error.strerror}.",
            remedy=f"{_what_helps(error)}, and run the same command again.",
        ) from error


def _what_helps(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "Make room for it" if full else "See to it that it can be written there"


def publish(
    target: UploadTarget, artifacts: Sequence[Artifact], *, dry_run: bool
) -> list[Published]:
    """Publish packages, or go on where an earlier upload of them ended.

    Every one is looked up before the first is sent, and read back before any gets public.
    """
    before = [_standing(target, artifact) for artifact in artifacts]
    if not dry_run:
        for artifact, standing in zip(artifacts, before, strict=True):
            if standing is Standing.ABSENT:
                _send(target, artifact)
            _read_back(target, artifact)
        for artifact in artifacts:
            if _standing(target, artifact) is Standing.STAGED:
                _settled(target, artifact, partial(target.promote, artifact), {Standing.PUBLIC})
        target.finish(artifacts)
    words = {Standing.PUBLIC: "already there"}
    return [
        Published(
            package=artifact.key,
            sha256=artifact.sha256,
            size=artifact.size,
            done=words.get(standing, "would be published" if dry_run else "published"),
        )
        for artifact, standing in zip(artifacts, before, strict=True)
    ]


def _standing(target: UploadTarget, artifact: Artifact) -> Standing:
    """Return how a package stands; something else under its name is a hard stop."""
    present = target.look(artifact)
    standing = target.standing(present, artifact)
    if present is not None and standing is Standing.OTHER:
        raise UploadError(
            f"{artifact.key} is in {target.where} already with {present.text()}; proven is"
            f" {artifact.sha256}.",
            remedy="It was not touched. Find out whose it is, and build under another number.",
        )
    return standing


def _send(target: UploadTarget, artifact: Artifact) -> None:
    with Path(artifact.path).open("rb") as file:
        wanted = {Standing.STAGED, Standing.PUBLIC}
        _settled(target, artifact, partial(target.send, artifact, file), wanted)


def _settled(
    target: UploadTarget, artifact: Artifact, step: Callable[[], None], wanted: Collection[Standing]
) -> None:
    """Do a step; whether it was done is said by the target, and not by the step's answer."""
    failure: UploadError | None = None
    try:
        step()
    except UploadError as error:
        failure = error
    try:
        standing = _standing(target, artifact)
    except UploadError as error:
        raise failure or error from error
    if standing not in wanted:
        raise failure or UploadError(
            f"{artifact.key}: in {target.where} it is {standing}, after all was done.",
            remedy="Run it again; it goes on where it ended.",
        )


def _read_back(target: UploadTarget, artifact: Artifact) -> None:
    """Download a package and compare its bytes."""
    digest, size = hashlib.sha256(), 0
    for piece in target.fetch(artifact):
        digest.update(piece)
        size += len(piece)
        if size > artifact.size:
            break  # whatever follows, it is another file
    if (digest.hexdigest(), size) != (artifact.sha256, artifact.size):
        raise UploadError(
            f"{artifact.key}: {target.where} hands out other bytes ({size} of them, sha256"
            f" {digest.hexdigest()}) than were sent.",
            remedy="Do not use that file; remove it there by hand, and find out why.",
        )


def _label(label: str, policy: Policy) -> str:
    as_label(label)
    if label == "main" and policy.target.label != "main":
        raise UploadError(
            "The label 'main' publishes to everybody.",
            remedy="Only a policy that names it under [target] may do that.",
        )
    _agree("--label", label, policy.target.label)
    return label


def _user(user: str | None, policy: Policy) -> str | None:
    if user is None:
        return policy.target.owner
    _agree("--user", as_owner(user), policy.target.owner)
    return user


def _kind(to: str, policy: Policy) -> None:
    wanted = {ANACONDA: f"--to {ANACONDA}", "directory": "--to with a folder"}
    if policy.target.kind not in (None, ANACONDA if to == ANACONDA else "directory"):
        raise UploadError(
            f"--to {to}: the policy allows {wanted[policy.target.kind]} only.", remedy="Give that."
        )


def _staging(label: str, policy: Policy) -> str | None:
    """Return the label for files that nobody has looked at yet; None if there is to be none."""
    named = policy.target.staging
    if isinstance(named, str):
        if named == label:
            raise UploadError(
                f"--label {label}: the policy has it as the label for staging.",
                remedy="Name another.",
            )
        return named
    if not named:
        return None
    staging = f"{label}-staging"
    if not is_label(staging):
        raise UploadError(
            f"{staging!r}, under which the files are looked at first, is no label: it is too long.",
            remedy="Take a shorter label, or name one for staging in the policy (target.staging).",
        )
    return staging


def _agree(option: str, given: str, wanted: str | None) -> None:
    if wanted is not None and given != wanted:
        raise UploadError(
            f"{option} {given}: the policy allows {wanted} only.", remedy="Leave it out."
        )
