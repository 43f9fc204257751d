"""What the gate says: a decision, every reason with what helps, and what a reviewer should see."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import groupby
from typing import Any

import msgspec


class Decision(StrEnum):
    """What the gate says."""

    ACCEPT = "accept"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the gate found, in a sentence; with ACCEPT it hinders nothing."""

    decision: Decision
    text: str
    help: str = ""
    """A command or a step that helps; empty: that of the rule."""


def reject(text: str, *, help: str = "") -> Reason:  # noqa: A002 # the field's name
    """Return a reason for which packages may not go out."""
    return Reason(decision=Decision.REJECT, text=text, help=help)


def unsure(text: str, *, help: str = "") -> Reason:  # noqa: A002 # the field's name
    """Return a reason for which it is not proven that packages may go out."""
    return Reason(decision=Decision.INCONCLUSIVE, text=text, help=help)


def note(text: str) -> Reason:
    """Return what does not hinder, and a reviewer should know."""
    return Reason(decision=Decision.ACCEPT, text=text)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's decision and every reason for it."""

    decision: Decision
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    """What does not hinder: waived checks, accepted findings, warnings."""
    packages: tuple[tuple[str, str], ...]
    """Key and sha256 of each package that was judged; the latter empty where it is not there."""
    evidence_sha256: str
    policy_sha256: str

    @property
    def exit_code(self) -> int:
        """0 accept, 1 reject, 8 inconclusive."""
        return {Decision.ACCEPT: 0, Decision.REJECT: 1, Decision.INCONCLUSIVE: 8}[self.decision]

    def text(self) -> str:
        """Return the verdict in lines for people: each reason, and below it what helps."""
        return "\n".join(_plain(line) for line in self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        keys = ", ".join(key for key, _ in self.packages)
        yield f"{self.decision.upper()}: {keys or 'no package'}"
        ordered = sorted(self.reasons, key=lambda one: one.decision is not Decision.REJECT)
        for help_, reasons in groupby(ordered, key=lambda one: one.help):
            yield from (f"  - {reason.text}" for reason in reasons)
            if help_:
                yield f"      {help_}"
        for text in self.notes:
            yield f"  note: {text}"

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return {
            "version": 1,
            "decision": str(self.decision),
            "exit_code": self.exit_code,
            "packages": [{"package": key, "sha256": sha256} for key, sha256 in self.packages],
            "evidence_sha256": self.evidence_sha256,
            "policy_sha256": self.policy_sha256,
            "reasons": [
                {"decision": str(one.decision), "text": one.text, "help": one.help}
                for one in self.reasons
            ],
            "notes": list(self.notes),
        }


def _plain(text: str) -> str:
    """Keep what strangers wrote from steering the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
