"""Reads a folder of evidence and its packages, and has the gate judge them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_manualbuild import audit, body, carried, package, plan, tomlfile, untrusted
from pytest_manualbuild.commits import Reviewed, look_up
from pytest_manualbuild.errors import ArtifactError, EvidenceError, ManualBuildError
from pytest_manualbuild.evidence import MOST_BYTES, Evidence, Stored
from pytest_manualbuild.gate import approvals, rules
from pytest_manualbuild.gate.approvals import Approval, Waiver
from pytest_manualbuild.gate.people import People
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Verdict
from pytest_manualbuild.model import Artifact, PlannedPackage
from pytest_manualbuild.package.archive import EXTENSIONS
from pytest_manualbuild.recipe import rattler_tests
from pytest_manualbuild.recipe.folder import folder_sha256
from pytest_manualbuild.reports import junit

_PIECE = 1 << 20


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, with what it is about."""

    verdict: Verdict
    evidence: Evidence
    run_ids: tuple[str, ...]
    files: dict[str, Artifact]
    """The packages as they were read just now, by their key."""


def verify(
    folder: Path,
    artifacts: Path | None,
    policy: Policy,
    *,
    now: datetime | None = None,
    published: bool = False,
    called: Callable[[Artifact], object] | None = None,
) -> Verification:
    """Judge a folder of evidence: of one run, or of several (see ``body``).

    The packages are looked for where the run found them, or below ``artifacts``. ``published``
    is for packages that are out already: their report does not get too old. Where ``artifacts``
    holds copies, ``called`` says what a package is called that was not there to be copied.
    Raises EvidenceError when there is nothing that could be judged.
    """
    now = now or datetime.now(UTC)
    reports = body.read_bytes(folder)
    # The signatures first, over the bytes; only then is read what they say.
    people = People(
        reports=tuple(
            approvals.read_report(folder, run, data, policy.allowed, now)
            for run, data in reports.items()
        ),
        evidence_sha256=body.sha256(reports),
        approvals=approvals.read_all(folder, Approval, policy.allowed, now),
        waivers=approvals.read_all(folder, Waiver, policy.allowed, now),
    )
    evidence = body.parse(reports)
    first = next(iter(reports))
    recipe = first / "recipe" if _recipe_sha256(first / "recipe") else None
    found = [
        _found(recipe, one, artifacts, called) for one in evidence.whole.evidence.plan.packages
    ]
    verdict = rules.judge(
        rules.Case(
            stored=evidence.whole,
            runs=tuple(_run(path, stored, policy) for path, stored in evidence.runs.items()),
            packages=tuple(found),
            people=people,
            policy=policy,
            now=now,
            published=published,
        )
    )
    files = {one.key: one.artifact for one in found if one.artifact is not None}
    return Verification(
        verdict=verdict,
        evidence=evidence.whole.evidence,
        run_ids=tuple(stored.evidence.run_id for stored in evidence.runs.values()),
        files=files,
    )


def _run(folder: Path, stored: Stored, policy: Policy) -> rules.Run:
    report = _bytes(folder / "junit.xml", MOST_BYTES)
    cases: tuple[junit.Case, ...] | None = None
    difference = ""
    with contextlib.suppress(EvidenceError):
        root = junit.parse(report)
        cases = tuple(junit.cases(root))
        difference = junit.difference(stored.evidence, root)
    return rules.Run(
        stored=stored,
        junit=cases,
        junit_difference=difference,
        missing=frozenset(
            name for name in ("junit.xml", "matrix.toml") if not os.path.lexists(folder / name)
        ),
        junit_sha256=hashlib.sha256(report).hexdigest(),
        matrix_text=_bytes(folder / "matrix.toml", tomlfile.MOST_BYTES).decode(errors="replace"),
        recipe_sha256=_recipe_sha256(folder / "recipe"),
        logs=_logs(folder),
        reviewed=_reviewed(folder / "recipe", stored.evidence, policy),
    )


def _reviewed(recipe: Path, evidence: Evidence, policy: Policy) -> Reviewed | None:
    names = {planned.artifact.name for planned in evidence.plan.packages}
    clones = {policy.clones.get(name) for name in names}
    clone = clones.pop() if len(clones) == 1 else None  # a recipe lies in one feedstock
    if policy.gate.reviewed_branch is None or evidence.sources is None or clone is None:
        return None
    try:
        return look_up(clone, policy.gate.reviewed_branch, evidence.sources, recipe)
    except (ManualBuildError, OSError):
        return Reviewed(problem="the recipe kept with the evidence cannot be read.")


def _logs(folder: Path) -> dict[str, str]:
    """Return the hash of each log, empty for what is not one as a run writes it."""
    try:
        found = untrusted.files(folder / "logs")
    except OSError:
        return {"logs": ""}
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in found}


def _sha256(path: Path) -> str:
    try:
        return untrusted.sha256(path, MOST_BYTES)
    except OSError:
        return ""


def copy_packages(folder: Path, artifacts: Path | None, into: Path) -> None:
    """Copy the packages of a folder of evidence below ``into``, as ``SUBDIR/FILE``.

    What is not there is left out: judging the copies will name it.
    """
    for planned in body.read(folder).whole.evidence.plan.packages:
        path = place(planned.artifact, artifacts)
        if path is None or not _is_file(path):
            continue
        target = into / planned.artifact.key
        try:
            target.parent.mkdir(exist_ok=True)
            with untrusted.opened(path, sys.maxsize) as file, target.open("xb") as copy:
                # Of what is larger than what was tested, just enough to see that: no full disk.
                left = planned.artifact.size + 1
                while piece := file.read(min(left, _PIECE)):
                    left -= len(piece)
                    copy.write(piece)
        except OSError as error:
            raise ArtifactError(
                f"{path}: it cannot be copied to {into}: {error.strerror}.",
                remedy="Check the file, and the space for temporary files (TMPDIR).",
            ) from error


def _is_file(path: Path) -> bool:
    """Say whether a path, which anybody may have written, is one of a regular file."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as one that is too long
        return False


def is_safe(wanted: Artifact) -> bool:
    """Say whether the key of a package, which anybody may have written, is ``SUBDIR/FILE``."""
    plain = Path(wanted.filename).name == wanted.filename
    return (
        plain and wanted.filename.endswith(EXTENSIONS) and wanted.subdir in package.PACKAGE_SUBDIRS
    )


def place(wanted: Artifact, artifacts: Path | None) -> Path | None:
    """Return where a package should lie; None if the evidence names no safe file."""
    if not is_safe(wanted):
        return None
    if artifacts is None:
        return Path(wanted.path) if Path(wanted.path).name == wanted.filename else None
    places = [artifacts / wanted.subdir / wanted.filename, artifacts / wanted.filename]
    return next((place for place in places if _is_file(place)), places[0])


def _recipe_sha256(recipe: Path) -> str:
    """Return the digest of a kept recipe; empty if it holds what must not be opened."""
    try:
        return "" if recipe.is_symlink() else folder_sha256(recipe)
    except (ManualBuildError, OSError):
        return ""


def _found(
    recipe: Path | None,
    planned: PlannedPackage,
    artifacts: Path | None,
    called: Callable[[Artifact], object] | None,
) -> rules.Found:
    key = planned.artifact.key
    path = place(planned.artifact, artifacts)
    if path is None:
        return rules.Found(key=key, artifact=None, problem="the evidence names no safe file.")
    if not _is_file(path):
        name = (called(planned.artifact) if called else None) or path
        return rules.Found(key=key, artifact=None, problem=f"{name} is not there.")
    if path.stat().st_size != planned.artifact.size:
        return rules.Found(key=key, artifact=None, problem="these are other bytes: not as many.")
    try:
        artifact = package.read(path)
        findings = audit.audit(path)
    except ArtifactError as error:
        return rules.Found(key=key, artifact=None, problem=error.problem)
    inside = shipped = reviewed = None
    files: dict[str, str] = {}
    try:
        inside = carried.read(path, artifact)
        altered = inside.altered if inside else ()
    except ManualBuildError as error:
        altered = (f"its own recipe cannot be compared: {error.problem}",)
    with contextlib.suppress(ManualBuildError):
        if (tests := package.member(path, package.TESTS)) is not None:
            files = package.paths(path)
            shipped = rattler_tests.packaged(tests, artifact.name)
    with contextlib.suppress(ManualBuildError):
        own = any(section.functions for section in planned.sections)
        reviewed = plan.output_of(recipe, artifact, own_tests=own) if recipe else None
    return rules.Found(
        key=key,
        artifact=artifact,
        carried=inside.sections if inside else None,
        altered=altered,
        shipped=shipped,
        files=files,
        reviewed=reviewed,
        findings=findings,
    )


def _bytes(path: Path, most: int) -> bytes:
    try:
        return untrusted.read(path, most)
    except OSError:
        return b""
