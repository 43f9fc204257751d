"""A body of evidence: one run, or several runs of one plan on different hosts.

Several lie below ``runs/`` of a folder, each as its run wrote and its runner signed it: a Mac
here, a Windows machine there. Together they must cover the matrix, and no host twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import evidence, matrix
from pytest_manualbuild import plan as planning
from pytest_manualbuild.errors import EvidenceError, MatrixError
from pytest_manualbuild.evidence import Evidence, Stored
from pytest_manualbuild.records import CheckResult, HostRecord

REPORT = "evidence.json"
RUNS = "runs"
MOST_RUNS = 100


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Runs as they were read, and what they say together."""

    runs: Mapping[Path, Stored]
    """By the folder of the run."""
    whole: Stored
    """One run as it is; of several, their results on all hosts."""


def is_body(folder: Path) -> bool:
    """Say whether a folder holds evidence of a run, or of several."""
    return (folder / REPORT).is_file() or (folder / RUNS).is_dir()


def read_bytes(folder: Path) -> dict[Path, bytes]:
    """Return the report of each run of a folder, unread; EvidenceError if there is none."""
    several = (folder / RUNS).is_dir()
    if several and os.path.lexists(folder / REPORT):
        raise EvidenceError(
            f"{folder}: it holds {REPORT} and {RUNS}/, and only one of them can be meant.",
            remedy="Give a folder that holds one run, or several runs and no report beside them.",
        )
    if not several:
        return {folder: evidence.read_bytes(folder / REPORT)}
    folders = sorted(path for path in (folder / RUNS).iterdir() if path.is_dir())
    if not 0 < len(folders) <= MOST_RUNS:
        raise EvidenceError(
            f"{folder / RUNS}: it holds {len(folders)} runs.",
            remedy=f"Put from 1 to {MOST_RUNS} folders of evidence there.",
        )
    return {path: evidence.read_bytes(path / REPORT) for path in folders}


def sha256(reports: Mapping[Path, bytes]) -> str:
    """Return what names the evidence in approvals: the hash of its report, or of all hashes."""
    hashes = sorted(hashlib.sha256(data).hexdigest() for data in reports.values())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def parse(reports: Mapping[Path, bytes]) -> Body:
    """Return what reports say; EvidenceError if one is malformed, or of another plan."""
    runs = {path: evidence.parse(data, path / REPORT) for path, data in reports.items()}
    (first, base), *others = runs.items()
    for path, other in others:
        if _subject(other) != _subject(base):
            raise EvidenceError(
                f"{path}: it is a run of another plan than {first}.",
                remedy="Merge runs of the same packages, recipe and matrix.",
            )
    return Body(runs=runs, whole=_merged(runs) if others else base)


def read(folder: Path) -> Body:
    """Return the body of evidence of a folder; EvidenceError if there is none."""
    return parse(read_bytes(folder))


def _subject(stored: Stored) -> tuple[str, dict[str, str]]:
    """Return what runs that belong together have in common: all but the hosts they went to."""
    return planning.digest(replace(stored.evidence.plan, cells=())), stored.subjects


def _merged(runs: Mapping[Path, Stored]) -> Stored:
    found = [stored.evidence for stored in runs.values()]
    base = found[0]
    plan = replace(base.plan, cells=tuple(cell for one in found for cell in one.plan.cells))
    # With `--on` a run says that it left hosts out; whether all runs did is seen from the cells.
    narrowed = tuple(
        sentence for one in found for sentence in one.narrowed if not _is_of_hosts(sentence, one)
    )
    results = tuple(
        _moved(path, result) for path, stored in runs.items() for result in stored.evidence.results
    )
    whole = Evidence(
        run_id="+".join(one.run_id for one in found),
        started=min(one.started for one in found),
        finished=max(one.finished for one in found),
        complete=not narrowed and all(one.complete or one.narrowed for one in found),
        exit_status=evidence.status(plan, results, 0),
        narrowed=narrowed,
        plan=plan,
        plan_sha256=planning.digest(plan),
        hosts=tuple(_record(found, host.name) for host in plan.matrix.hosts),
        results=results,
        controller={},
        logs={
            _inside(path, name): digest
            for path, stored in runs.items()
            for name, digest in stored.evidence.logs.items()
        },
    )
    subjects = next(iter(runs.values())).subjects
    return Stored(
        evidence=whole,
        subjects=subjects,
        plan_sha256=whole.plan_sha256,
        result=evidence.summary(whole),
    )


def left_out(on: str) -> str:
    """Return how a run says that it left out the hosts which this glob does not take."""
    return f"--on {on} left out hosts of the matrix."


def _is_of_hosts(sentence: str, run: Evidence) -> bool:
    """Say whether a run says with a sentence that it went to these hosts only, and it did."""
    before, after = left_out("\n").split("\n")
    on = sentence.removeprefix(before).removesuffix(after)
    if sentence != left_out(on):
        return False
    try:
        went = matrix.select(run.plan.matrix, on)
    except MatrixError:
        return False
    artifacts = [planned.artifact for planned in run.plan.packages]
    return planning.cells(went, artifacts) == run.plan.cells


def _moved(run: Path, result: CheckResult) -> CheckResult:
    return replace(result, log=_inside(run, result.log)) if result.log else result


def _inside(run: Path, name: str) -> str:
    return f"{RUNS}/{run.name}/{name}"


def _record(runs: list[Evidence], host: str) -> HostRecord:
    """Return the record of a host from the run that went there."""
    records = [
        record
        for run in runs
        for record in run.hosts
        if record.name == host and any(cell.host == host for cell in run.plan.cells)
    ]
    return records[0] if records else HostRecord(name=host, state="never-reached")
