"""The ledger: which runs were used to publish what, append-only, kept where the policy is.

A run counts once: for one report, at one target. An older report of the same run, or the same
report at another target, is a replay. A line is written before the first byte leaves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pytest_manualbuild import strictjson
from pytest_manualbuild.errors import PolicyError, UploadError

MOST_BYTES = 64 << 20


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a run that was used to publish packages."""

    run_id: str
    evidence_sha256: str
    where: str
    """The target, as a receipt names it."""
    packages: dict[str, str]
    """sha256 of each package file, by its key."""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """A file of such lines, as it was read."""

    path: Path
    uses: tuple[Use, ...]

    def faults(
        self, run_ids: Iterable[str], evidence_sha256: str, where: str | None = None
    ) -> Iterator[str]:
        """Yield why a report cannot count; at a target, if ``where`` names one."""
        wanted = frozenset(run_ids)
        for use in self.uses:
            if use.run_id not in wanted:
                continue
            if use.evidence_sha256 != evidence_sha256:
                yield (
                    f"the run {use.run_id} was used with another report"
                    f" ({use.evidence_sha256[:16]}…), for {', '.join(use.packages)}"
                )
            elif where is not None and use.where != where:
                yield f"the run {use.run_id} was used already, for {use.where}"

    def add(self, uses: Iterable[Use]) -> None:
        """Append what is not there yet; on disk when this returns. Raises UploadError."""
        there = read(self.path)
        lines = [
            json.dumps(msgspec.to_builtins(use), sort_keys=True) for use in uses if use not in there
        ]
        try:
            # One write at the end of the file: lines of two uploads at once do not mix.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UploadError(
                f"{self.path}: the ledger cannot be written: {error.strerror}.",
                remedy="Nothing was published. Check that file, and run it again.",
            ) from error


def load(path: Path) -> Ledger:
    """Return the ledger of a file; PolicyError, with its line, for anything that is not one."""
    return Ledger(path=path, uses=read(path))


def read(path: Path) -> tuple[Use, ...]:
    """Return the lines of a ledger; PolicyError if one cannot be read."""
    uses: list[Use] = []
    try:
        if path.stat().st_size > MOST_BYTES or not path.is_file():
            raise PolicyError(f"{path}: too large, or no file.", remedy="Check gate.ledger.")
        for line in path.read_bytes().splitlines():
            uses.append(msgspec.convert(strictjson.loads(line), type=Use))  # noqa: PERF401 # counted
    except OSError as error:
        raise PolicyError(
            f"{path}: the ledger cannot be read: {error.strerror}.",
            remedy="Make an empty file for a new one, or correct gate.ledger.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(
            f"{path}:{len(uses) + 1}: not a line of a ledger.",
            remedy="Restore it: it only ever grows.",
        ) from error
    return tuple(uses)
