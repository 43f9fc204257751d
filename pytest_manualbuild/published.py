"""Checks what a label or a channel folder serves against folders of evidence.

Whoever has a token can upload past the gate. This finds it: every file that is public is
downloaded and judged again with the evidence that names it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_manualbuild import body
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Decision
from pytest_manualbuild.gate.verify import is_safe, verify
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.targets.base import UploadTarget


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One public file, and what was found of it."""

    key: str
    proven_by: Path | None
    """The folder of evidence with which the gate accepts it; None: no such folder."""
    reasons: tuple[str, ...] = ()
    """Why not, for each folder that names it."""

    def text(self) -> str:
        """Return it in lines for people."""
        if self.proven_by is not None:
            return f"{self.key}: proven by {self.proven_by}\n"
        reasons = self.reasons or ("no evidence names it",)
        return "".join([f"{self.key}: NOT PROVEN\n", *(f"  - {one}\n" for one in reasons)])


def check(target: UploadTarget, folders: Sequence[Path], policy: Policy) -> list[Served]:
    """Return every public file of a target, each with the evidence that proves it, if any does.

    ``folders`` are folders of evidence, or folders of such. Nothing at the target is changed.
    Raises UploadError when the target cannot be read, EvidenceError for broken evidence.
    """
    public = target.files()
    proven: dict[str, Path] = {}
    reasons: dict[str, list[str]] = {key: [] for key in public}
    for folder in _evidence(folders):
        artifacts = [one.artifact for one in body.read(folder).whole.evidence.plan.packages]
        served = [one for one in artifacts if is_safe(one) and one.key in reasons]
        if not served:
            continue
        with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
            for artifact in served:
                _download(target, artifact, Path(scratch) / artifact.key)
            verdict = verify(
                folder,
                Path(scratch),
                policy,
                published=True,
                called=lambda one: f"{target.where}/{one.key}",
            ).verdict
        for artifact in served:
            if verdict.decision is Decision.ACCEPT:
                proven[artifact.key] = folder
            reasons[artifact.key] += [f"{folder}: {one.text}" for one in verdict.reasons]
    return [
        Served(key=key, proven_by=proven.get(key), reasons=tuple(reasons[key])) for key in public
    ]


def _evidence(folders: Iterable[Path]) -> Iterator[Path]:
    left = [*folders][::-1]
    while left:  # not by calling itself: they may be nested deeper than that can go
        folder = left.pop()
        if body.is_body(folder):
            yield folder
        elif folder.is_dir() and not folder.is_symlink():
            left += sorted(folder.iterdir(), reverse=True)


def _download(target: UploadTarget, artifact: Artifact, path: Path) -> None:
    """Write what is served; not much more of it than there should be."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for piece in target.fetch(artifact):
            file.write(piece)
            if file.tell() > artifact.size:
                break
