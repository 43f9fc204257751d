"""The record of a run: a journal while it goes on, then ``evidence.json`` and its views.

``evidence.json`` is an in-toto Statement v1 about the package files. It is
written last; whatever stops a run before that leaves no evidence at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import build_record, checks, strictjson, untrusted
from pytest_manualbuild import plan as planning
from pytest_manualbuild.commits import Sources
from pytest_manualbuild.errors import EvidenceError, ManualBuildError
from pytest_manualbuild.model import CheckKey, Plan
from pytest_manualbuild.recipe import folder as recipe_folder
from pytest_manualbuild.records import Cause, CheckResult, HostRecord, Outcome

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:pytest-manualbuild:evidence:v1"
MOST_BYTES = 256 * 1024 * 1024
SYNC_S = 0.05
"""Results that come in a burst share one write to disk: 0.8 ms each otherwise."""
_MOST_MS = 10**12
_VIEWS = (
    "evidence.json",
    "junit.xml",
    "index.html",
    "summary.md",
    "matrix.toml",
    "SHA256SUMS",
    "receipt.json",
)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found out."""

    run_id: str
    started: str
    """ISO 8601 with zone, as ``finished``."""
    finished: str
    complete: bool
    """Whether the run covered the whole plan, and the plan the whole matrix."""
    exit_status: int
    narrowed: tuple[str, ...]
    """Why it is not complete, in sentences."""
    plan: Plan
    plan_sha256: str
    hosts: tuple[HostRecord, ...]
    results: tuple[CheckResult, ...]
    """One for each (host, package, check) of the plan, in its order."""
    controller: dict[str, str]
    sources: Sources | None = None
    """The commit of the recipe's folder; None: it was not under git."""
    junit_sha256: str = ""
    logs: dict[str, str] = msgspec.field(default_factory=dict)
    """sha256 of each log, by its path relative to the folder of the evidence."""


class Journal:
    """Results as they come: what a killed run leaves behind.

    Each is with the operating system before the next, and on disk within ``SYNC_S`` of it.
    """

    def __init__(self, path: Path, run_id: str, plan_sha256: str, held: int) -> None:
        """Write the first line, which says whose journal this is.

        ``held`` is a descriptor that keeps others from the folder until ``close``.
        """
        self._path = path
        self._held: int | None = held
        self._file = path.open("ab")
        self.run_id = run_id
        self._synced_s = 0.0
        self._write({"journal": PREDICATE, "run_id": run_id, "plan_sha256": plan_sha256})

    def close(self) -> None:
        """Let others use the folder; safe to call twice."""
        with contextlib.suppress(OSError):  # `add` said so of what could not be written
            self._file.close()
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def add(self, result: CheckResult) -> None:
        """Append one result; EvidenceError when it cannot be written."""
        self._write(result)

    def _write(self, value: object) -> None:
        try:
            self._file.write(msgspec.json.encode(value, order="sorted") + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced_s > SYNC_S:
                os.fsync(self._file.fileno())
                self._synced_s = time.monotonic()
        except OSError as error:
            raise _unwritable(self._path, error) from error


def begin(folder: Path, planned: Plan, run_id: str, *, junit_copy: str | None = None) -> Journal:
    """Make the folder of a run's evidence, in place of an older one of ours.

    An older report at ``junit_copy`` goes as well. Raises EvidenceError for a folder that holds
    anything else, or that another run is writing to.
    """
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
        elif not folder.is_dir() or (any(folder.iterdir()) and not _is_ours(folder)):
            raise EvidenceError(
                f"{folder}: it holds something that is not a report of this tool.",
                remedy="Name another folder with --evidence.",
            )
        held = _hold(folder)
        try:
            _clear(folder, junit_copy)
            digest = planning.digest(planned)
            return Journal(folder / "results.jsonl", run_id, digest, held)
        except BaseException:
            os.close(held)
            raise
    except OSError as error:
        raise _unwritable(folder, error) from error


def _clear(folder: Path, junit_copy: str | None) -> None:
    """Remove an older report of ours."""
    if junit_copy is not None:
        Path(junit_copy).unlink(missing_ok=True)
    # The old verdict goes first: a run that is killed now must not leave it standing.
    for name in (*_VIEWS, "results.jsonl", "evidence.json.sig"):
        (folder / name).unlink(missing_ok=True)
    # Waivers stay: they are about a version of a package, not about one run of it.
    for name in ("logs", "recipe", "approvals", "request"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _hold(folder: Path) -> int:
    """Keep others from a folder as long as the descriptor that is returned is open."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise EvidenceError(
            f"{folder}: another run is writing its report there.",
            remedy="Wait for it, or name another folder with --evidence.",
        ) from error
    except OSError:
        pass  # a file system without locks
    return held


def _is_ours(folder: Path) -> bool:
    for name in ("evidence.json", "results.jsonl"):
        with contextlib.suppress(OSError), (folder / name).open("rb") as file:
            if PREDICATE.encode() in file.read(4096):
                return True
    return False


def conclude(
    planned: Plan,
    found: Mapping[CheckKey, CheckResult],
    selected: Collection[CheckKey],
    *,
    pytest_status: int,
) -> tuple[tuple[CheckResult, ...], int]:
    """Return a result for every check of the plan, and the exit status of the run.

    A check that was selected and has no result is an error; pytest's own statuses 2 to 5 stay.
    """
    results = []
    for key in planning.expected(planned):
        host, package, check = key
        if key in found:
            results.append(found[key])
            continue
        if key in selected or not selected:
            outcome, cause = Outcome.ERROR, Cause.INTERRUPTED
            message = "It has no result: the run ended before it."
        else:
            outcome, cause = Outcome.SKIPPED, Cause.NOT_SELECTED
            message = "It was not selected."
        results.append(
            CheckResult(
                host=host,
                package=package,
                check=check,
                outcome=outcome,
                cause=cause,
                message=message,
            )
        )
    return tuple(results), status(planned, results, pytest_status)


def status(planned: Plan, results: Collection[CheckResult], pytest_status: int) -> int:
    """Return the exit status of a run with these results; pytest's own 2 to 5 stay."""
    if not planned.cells:
        return 8  # no host of the matrix is for these packages
    if pytest_status not in (0, 1):
        return pytest_status
    asked = [result for result in results if result.cause is not Cause.NOT_SELECTED]
    outcomes = {result.outcome for result in asked}
    if Outcome.FAILED in outcomes:
        return 1
    if Outcome.ERROR in outcomes or pytest_status != 0:
        return 16
    required = {host.name for host in planned.matrix.hosts if host.decides}
    judged = [result for result in asked if result.host in required] or asked
    proving = {
        package.artifact.key: checks.proving(package.sections) for package in planned.packages
    }
    proven = any(
        result.outcome is Outcome.PASSED and result.check in proving.get(result.package, ())
        for result in judged
    )
    return 0 if proven and all(r.outcome is Outcome.PASSED for r in judged) else 8


def finish(folder: Path, evidence: Evidence, *, junit_copy: str | None = None) -> Evidence:
    """Write every view and then ``evidence.json``; return the evidence as written.

    ``junit_copy`` names a further place for the JUnit report. Raises EvidenceError.
    """
    from pytest_manualbuild.reports import html, junit, markdown  # noqa: PLC0415 # they look back

    try:
        report = junit.write(evidence)
        artifacts = [planned.artifact for planned in evidence.plan.packages]
        for name, data in build_record.of_packages(artifacts):
            # With the logs: its hash stands in the evidence, and the gate looks for it.
            (folder / "logs").mkdir(exist_ok=True)
            replace_file(folder / build_record.in_evidence(name), data)
        logs = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((folder / "logs").rglob("*"))
            if path.is_file()
        }
        evidence = replace(evidence, junit_sha256=hashlib.sha256(report).hexdigest(), logs=logs)
        source = Path(evidence.plan.recipe)
        for path in recipe_folder.files(source):
            target = folder / "recipe" / path.relative_to(source.resolve())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        statement = json.dumps(_statement(evidence), indent=1, sort_keys=True).encode() + b"\n"
        views = {
            "matrix.toml": evidence.plan.matrix.text.encode(),
            "index.html": html.render(evidence).encode(),
            "summary.md": markdown.render(evidence).encode(),
            "junit.xml": report,
            "evidence.json": statement,
        }
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in views.items()} | logs
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        replace_file(folder / "SHA256SUMS", "".join(lines).encode())
        if junit_copy is not None:
            Path(junit_copy).parent.mkdir(parents=True, exist_ok=True)
            replace_file(Path(junit_copy), report)
        for name, data in views.items():
            replace_file(folder / name, data)
    except OSError as error:
        for name in _VIEWS:
            (folder / name).unlink(missing_ok=True)
        raise _unwritable(folder, error) from error
    return evidence


def summary(evidence: Evidence) -> str:
    """Return the run in a word, as in-toto's test-result predicate has it, or INCOMPLETE."""
    outcomes = {result.outcome for result in evidence.results}
    if not evidence.complete or not outcomes or outcomes - {Outcome.PASSED, Outcome.FAILED}:
        return "INCOMPLETE"
    return "FAILED" if Outcome.FAILED in outcomes else "PASSED"


def _statement(evidence: Evidence) -> dict[str, Any]:
    predicate = msgspec.to_builtins(evidence)
    for result in predicate["results"]:
        # What a test wrote is in the logs and the JUnit report, which are named by hash.
        del result["stdout"], result["stderr"]
        result["duration_ms"] = round(result.pop("duration_s") * 1000)
    predicate["result"] = summary(evidence)
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": planned.artifact.key, "digest": {"sha256": planned.artifact.sha256}}
            for planned in evidence.plan.packages
        ],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence as it was read back, with what stands around it in the statement."""

    evidence: Evidence
    subjects: dict[str, str]
    """sha256 of each package file, by its key."""
    plan_sha256: str
    """The digest of the plan as it stands there."""
    result: str


def read(folder: Path) -> Stored:
    """Read ``evidence.json`` strictly; EvidenceError for anything that is not as we write it."""
    path = folder / "evidence.json"
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an ``evidence.json``; EvidenceError if there is none, or too large."""
    try:
        return untrusted.read(path, MOST_BYTES)
    except OSError as error:
        raise EvidenceError(
            f"{path}: there is no evidence to read ({error.strerror}).",
            remedy="Give the folder of a run that came to its end.",
        ) from error


def parse(data: bytes, path: Path) -> Stored:
    """Return what the bytes of ``path`` say; EvidenceError if they are not as we write them."""
    try:
        statement = strictjson.loads(data)
        if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
            raise ValueError("it is another kind of statement")
        predicate = statement["predicate"]
        for result in predicate["results"]:
            result["duration_s"] = _milliseconds(result.pop("duration_ms")) / 1000
            if {"stdout", "stderr"} & result.keys():
                raise ValueError("a result has output in it")
        if not all(package["sections"] for package in predicate["plan"]["packages"]):
            raise ValueError("a package has no test section")
        subjects = [(str(s["name"]), str(s["digest"]["sha256"])) for s in statement["subject"]]
        if len(dict(subjects)) != len(subjects):
            raise ValueError("a package is named twice")
        evidence = msgspec.convert(predicate, type=Evidence)
        understood = {
            "_type": "",
            "predicateType": "",
            "predicate": msgspec.to_builtins(evidence) | {"result": ""},
            "subject": [{"name": "", "digest": {"sha256": ""}} for _ in subjects],
        }
        for key in _unknown(statement, understood):
            raise ValueError(f"unknown key {key!r}")
        return Stored(
            evidence=evidence,
            subjects=dict(subjects),
            plan_sha256=planning.digest_of(predicate["plan"]),
            result=str(predicate["result"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvidenceError(
            f"{path}: not evidence as this tool writes it ({reason}).",
            remedy="Run the tests again.",
        ) from error


def _unknown(given: object, understood: object) -> Iterator[str]:
    """Yield keys that mean nothing to us: they may say what changes the meaning of the rest."""
    if isinstance(given, dict) and isinstance(understood, dict):
        yield from given.keys() - understood.keys()
        for key in given.keys() & understood.keys():
            yield from _unknown(given[key], understood[key])
    elif isinstance(given, list) and isinstance(understood, list | tuple):
        for one, other in zip(given, understood, strict=False):
            yield from _unknown(one, other)


def _milliseconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_MS:
        raise ValueError("a duration is no sensible number")
    return value


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        # Never through a link that lies there: the folder may be a stranger's.
        with fresh.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ManualBuildError:
    return EvidenceError(
        f"{path}: the report cannot be written: {error.strerror or error}.",
        remedy="Free some space, or name another folder with --evidence.",
    )
