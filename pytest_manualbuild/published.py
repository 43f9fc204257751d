"""Checks what a label or a channel folder serves against folders of evidence.

Whoever has a token can upload past the gate. This finds it: every file that is public is
downloaded and judged again with the evidence that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_manualbuild import body, copies
from pytest_manualbuild.errors import EvidenceError, UploadError
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Decision
from pytest_manualbuild.gate.verify import is_safe, verify
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.reports.text import visible
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
            return visible(f"{self.key}: proven by {self.proven_by}") + "\n"
        reasons = self.reasons or ("no evidence names it",)
        lines = [f"{self.key}: NOT PROVEN", *(f"  - {one}" for one in reasons)]
        return "".join(f"{visible(line)}\n" for line in lines)


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
        got = []
        with copies.place() as private:
            for artifact in served:
                try:
                    _download(target, artifact, private / artifact.key)
                    got.append(artifact)
                except UploadError as error:
                    reasons[artifact.key].append(error.problem)
                    (private / artifact.key).unlink(missing_ok=True)
            verdict = verify(
                folder,
                private,
                policy,
                published=True,
                called=lambda one: _place(target, one.key),
            ).verdict
        absent = {one.key for one in artifacts} - {one.key for one in got}
        # That packages of the run are withdrawn says nothing of those that are served.
        withdrawn = {f"{key}: {_place(target, key)} is not there." for key in absent}
        left = [one.text for one in verdict.reasons if one.text not in withdrawn]
        for artifact in got:
            if verdict.decision is Decision.ACCEPT or (verdict.reasons and not left):
                proven[artifact.key] = folder
            reasons[artifact.key] += [f"{folder}: {text}" for text in left]
    return [
        Served(key=key, proven_by=proven.get(key), reasons=tuple(reasons[key])) for key in public
    ]


def _place(target: UploadTarget, key: str) -> str:
    """Return what a package is called that was not downloaded."""
    return f"{target.where}/{key}"


def _evidence(folders: Iterable[Path]) -> Iterator[Path]:
    left = [*folders][::-1]
    for folder in left:
        if not folder.is_dir():
            raise EvidenceError(f"{folder}: there is no such folder.", remedy="Name evidence.")
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
