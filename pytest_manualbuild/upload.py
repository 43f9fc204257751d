"""Publishes what the gate accepts: judge, copy, look, publish, look again, receipt."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_manualbuild import verify
from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.policy import Policy, is_label
from pytest_manualbuild.targets import open_target
from pytest_manualbuild.targets.base import UploadTarget
from pytest_manualbuild.verdict import Decision, Verdict


class UploadRefused(UploadError):
    """The gate did not accept the evidence."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("The gate did not accept the evidence.", remedy="See its reasons.")
        self.verdict = verdict


@dataclass(frozen=True, kw_only=True)
class Published:
    """One package of a receipt."""

    package: str
    sha256: str
    done: str
    """``published``, ``already there`` or ``would be published``."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was published where, by whom, on which evidence."""

    where: str
    login: str
    time: str
    evidence_sha256: str
    packages: tuple[Published, ...]

    def text(self) -> str:
        """Return the receipt in lines for people."""
        lines = [f"{one.package}  sha256 {one.sha256}: {one.done}" for one in self.packages]
        return "\n".join([*lines, f"in {self.where}"]) + "\n"


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
    label = _label(label or policy.label(), policy)
    _agree("--user", user, policy.target.owner)
    kind = "anaconda" if to == "anaconda" else "directory"
    _agree("--to", kind, policy.target.kind)
    verified = verify.verify(folder, artifacts, policy)
    if verified.verdict.decision is not Decision.ACCEPT:
        raise UploadRefused(verified.verdict)
    evidence_sha256 = hashlib.sha256((folder / "evidence.json").read_bytes()).hexdigest()
    target = open_target(to, user=user or policy.target.owner, label=label)
    with _private_copies(list(verified.files.values())) as copies:
        done = publish(target, copies, dry_run=dry_run)
    receipt = Receipt(
        where=target.where,
        login="" if dry_run else target.login(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        evidence_sha256=evidence_sha256,
        packages=tuple(done),
    )
    if not dry_run:
        fresh = folder / ".receipt.json.new"
        fresh.write_text(json.dumps(asdict(receipt), indent=1) + "\n")
        fresh.replace(folder / "receipt.json")
    return receipt


def publish(
    target: UploadTarget, copies: list[tuple[Artifact, Path]], *, dry_run: bool
) -> list[Published]:
    """Publish packages from private copies; every one is looked up before the first is sent."""
    wanted = []
    for artifact, path in copies:
        present = target.look(artifact)
        if present is not None and not target.fits(present, artifact):
            labels = f", labels {', '.join(present.labels)}" if present.labels else ""
            raise UploadError(
                f"{artifact.key} is in {target.where} already with sha256 {present.sha256}{labels};"
                f" proven is {artifact.sha256}.",
                remedy="Nothing was published. Build it under another build number.",
            )
        wanted.append((artifact, path, present is not None))
    done = []
    for artifact, path, there in wanted:
        if not there and not dry_run:
            with path.open("rb") as file:
                target.publish(artifact, file)
            present = target.look(artifact)
            if present is None or not target.fits(present, artifact):
                raise UploadError(
                    f"{artifact.key}: {target.where} does not have what was sent, but {present}.",
                    remedy="Remove it there by hand, and find out why.",
                )
        said = "already there" if there else "would be published" if dry_run else "published"
        done.append(Published(package=artifact.key, sha256=artifact.sha256, done=said))
    if not dry_run:
        target.finish()
    return done


def _label(label: str, policy: Policy) -> str:
    if not is_label(label):
        raise UploadError(f"{label!r} is not a label.", remedy="Give one such as 'manual'.")
    if label == "main" and policy.target.label != "main":
        raise UploadError(
            "The label 'main' publishes to everybody.",
            remedy="Only a policy that names it under [target] may do that.",
        )
    _agree("--label", label, policy.target.label)
    return label


def _agree(option: str, given: str | None, wanted: str | None) -> None:
    if given is not None and wanted is not None and given != wanted:
        raise UploadError(
            f"{option} {given}: the policy allows {wanted} only.", remedy="Leave it out."
        )


@contextlib.contextmanager
def _private_copies(artifacts: list[Artifact]) -> Iterator[list[tuple[Artifact, Path]]]:
    """Copy every package to where nobody else can change it; the copies have the proven hash."""
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        copies = []
        for artifact in artifacts:
            path = Path(scratch) / artifact.subdir / artifact.filename
            path.parent.mkdir(exist_ok=True)
            digest = hashlib.sha256()
            with Path(artifact.path).open("rb") as source, path.open("xb") as copy:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != artifact.sha256:
                raise UploadError(
                    f"{artifact.path}: it changed after it was judged.", remedy="Run it again."
                )
            copies.append((artifact, path))
        yield copies
