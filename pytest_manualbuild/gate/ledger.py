"""The ledger: which runs were used to publish what, append-only, kept where the policy is.

A run counts once: for one report, at one target. An older report of the same run, or the same
report at another target, is a replay. A line is written before the first byte leaves.
"""

from __future__ import annotations

import errno
import fcntl
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
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                # Two uploads at once see each other's lines, and mix none.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _append(descriptor, self._lines(uses))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UploadError(
                f"{self.path}: the ledger cannot be written: {error.strerror}.",
                remedy="Nothing was published. Check that file, and run it again.",
            ) from error

    def _lines(self, uses: Iterable[Use]) -> list[str]:
        """Return the lines that are not there yet; UploadError if others came meanwhile."""
        now = load(self.path)
        fresh = [use for use in uses if use not in now.uses]
        for use in fresh:
            for fault in now.faults([use.run_id], use.evidence_sha256, use.where):
                raise UploadError(
                    f"The policy's ledger: {fault}.", remedy="Run the tests again for this target."
                )
        return [json.dumps(msgspec.to_builtins(use), sort_keys=True) for use in fresh]


def _append(descriptor: int, lines: list[str]) -> None:
    """Append whole lines, or nothing; on disk when this returns."""
    size = os.fstat(descriptor).st_size
    # An editor may have left out the end of the last line, and ours would be joined to it.
    joint = "" if not size or os.pread(descriptor, 1, size - 1) == b"\n" else "\n"
    data = (joint + "".join(f"{line}\n" for line in lines)).encode() if lines else b""
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)  # a line in part would make the ledger unreadable
        raise


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
