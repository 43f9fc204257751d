"""The gate's rule about the recipe's history: it is that of a commit which was reviewed. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_manualbuild.commits import Reviewed
from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Reason, note, reject, unsure

COMMIT = "Commit the recipe, have it reviewed, and run the tests of the branch that it came to."
_MOST_NAMED = 5
_FETCH = "If it was merged by now: git fetch in that clone. Else have it reviewed first."


def reviewed(evidence: Evidence, policy: Policy, seen: Reviewed | None) -> Iterator[Reason]:
    """Yield why the recipe of a run is not known to be one that was reviewed.

    ``seen`` is what the clone says that the policy names; None: there was nothing to ask it.
    """
    branch, sources = policy.gate.reviewed_branch, evidence.sources
    if branch is None:
        return
    if sources is None:
        yield unsure("The evidence does not say of which commit the recipe is.")
        return
    commit = sources.commit[:12]
    if sources.dirty:
        yield reject("When its tests were run, the recipe had changes that are in no commit.")
    if seen is None:
        yield unsure("The policy names no clone in which the commit could be looked up.")
    elif seen.problem:
        yield unsure(
            f"The commit {commit} of the recipe cannot be looked up: {seen.problem}",
            help="Have a clone of the feedstock there, whole and fetched: see [[enabled]] clone.",
        )
    elif not seen.contained:
        yield reject(
            f"The commit {commit} of the recipe is not on the branch {branch} of the clone.",
            help=_FETCH,
        )
    elif seen.differing:
        names = ", ".join(seen.differing[:_MOST_NAMED]) + ", …" * (
            len(seen.differing) > _MOST_NAMED
        )
        yield reject(f"The recipe that was run is not the one of commit {commit}: {names}.")
    else:
        yield note(f"the recipe is that of commit {sources.commit}, on the branch {branch}")
