"""Reads a folder of evidence and its packages, and has the gate judge them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_manualbuild import carried, evidence, gate, package, plan
from pytest_manualbuild.errors import ArtifactError, EvidenceError, ManualBuildError
from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.model import Artifact, PlannedPackage
from pytest_manualbuild.policy import Policy
from pytest_manualbuild.recipe import folder_sha256
from pytest_manualbuild.reports import junit


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A verdict, with what it is about."""

    verdict: gate.Verdict
    evidence: Evidence
    files: dict[str, Artifact]
    """The packages as they were read just now, by their key."""


def verify(
    folder: Path, artifacts: Path | None, policy: Policy, *, now: datetime | None = None
) -> Verification:
    """Judge a folder of evidence.

    The packages are looked for where the run found them, or below ``artifacts``.
    Raises EvidenceError when there is nothing that could be judged.
    """
    stored = evidence.read(folder)
    found = [_found(folder, planned, artifacts) for planned in stored.evidence.plan.packages]
    report = _bytes(folder / "junit.xml")
    cases: tuple[junit.Case, ...] | None
    try:
        cases = tuple(junit.read(report))
    except EvidenceError:
        cases = None
    try:
        recipe_sha256 = folder_sha256(folder / "recipe")
    except (ManualBuildError, OSError):
        recipe_sha256 = ""
    verdict = gate.judge(
        gate.Case(
            stored=stored,
            packages=tuple(found),
            junit=cases,
            junit_sha256=hashlib.sha256(report).hexdigest(),
            matrix_text=_bytes(folder / "matrix.toml").decode(errors="replace"),
            recipe_sha256=recipe_sha256,
            logs={
                path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted((folder / "logs").rglob("*"))
                if path.is_file()
            },
            policy=policy,
            now=now or datetime.now(UTC),
        )
    )
    files = {one.key: one.artifact for one in found if one.artifact is not None}
    return Verification(verdict=verdict, evidence=stored.evidence, files=files)


def _found(folder: Path, planned: PlannedPackage, artifacts: Path | None) -> gate.Found:
    wanted = planned.artifact
    key = wanted.key
    safe = Path(wanted.filename).name == wanted.filename
    if not safe or wanted.subdir not in package.PACKAGE_SUBDIRS:
        return gate.Found(key=key, artifact=None, problem="the evidence names no safe file.")
    places = [Path(wanted.path)]
    if artifacts is not None:
        places = [artifacts / wanted.subdir / wanted.filename, artifacts / wanted.filename]
    path = next((place for place in places if place.is_file()), places[0])
    try:
        artifact = package.read(path)
    except ArtifactError as error:
        return gate.Found(key=key, artifact=None, problem=error.problem)
    reviewed = None
    try:
        inside = carried.read(path, artifact)
        altered = inside.altered if inside else ()
    except ManualBuildError as error:
        inside, altered = None, (f"its own recipe cannot be compared: {error.problem}",)
    try:
        reviewed = plan.section_of(folder / "recipe", artifact)
    except ManualBuildError:
        reviewed = None
    return gate.Found(
        key=key,
        artifact=artifact,
        carried=inside.section if inside else None,
        altered=altered,
        reviewed=reviewed,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= evidence.MOST_BYTES else b""
    except OSError:
        return b""
