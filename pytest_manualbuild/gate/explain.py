"""Says in words what a policy demands, for those who review it."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_manualbuild.deviations import Kind
from pytest_manualbuild.gate.policy import Identity, Policy, Target
from pytest_manualbuild.gate.signatures import Role


def explain(policy: Policy) -> list[str]:
    """Return what the policy demands, in sentences."""
    return [
        *_target(policy.target, policy.label()),
        *_gate(policy),
        *_people(policy),
        *_sigstore(policy.sigstore),
        *_enabled(policy),
    ]


def _target(target: Target, label: str) -> Iterator[str]:
    where = {"anaconda": "anaconda.org", "directory": "a channel folder", None: "any target"}
    owner = f", owner {target.owner}" if target.owner else ""
    only = "only" if target.label else "by default"
    yield f"Packages go to {where[target.kind]}{owner}, label {label} ({only})."
    if target.staging is False:
        yield "They get that label directly."
    else:
        staging = target.staging if isinstance(target.staging, str) else f"{label}-staging"
        yield f"Before that, they are read back under the label {staging}."


def _gate(policy: Policy) -> Iterator[str]:
    gate = policy.gate
    if policy.matrix is None:
        yield "Any matrix will do that requires a host for each package."
    else:
        required = [h.name for h in policy.matrix.hosts if h.decides]
        yield f"The matrix is {policy.matrix.name}; it requires {', '.join(required) or 'no host'}."
    if gate.max_age_days is not None:
        yield f"A report counts for {gate.max_age_days} days."
    if gate.ledger is not None:
        yield f"A run counts once: those that were used stand in {gate.ledger}."
    if gate.reviewed_branch is not None:
        yield f"The recipe is the one of a commit on the branch {gate.reviewed_branch}."
    for code, severity in sorted(gate.severities.items()):
        yield f"The finding {code} counts as {severity}."
    for one in gate.accepted:
        until = f" until {one.until}" if one.until else ""
        where = one.path or "as a whole"
        yield f"In {one.package}, {one.code} is accepted for {where}{until}: {one.reason}"
    for deviation in gate.accepted_deviations:
        until = f" until {deviation.until}" if deviation.until else ""
        yield (
            f"For {deviation.package}, it counts as passed{until} when {_WORDS[deviation.kind]}"
            f" ({deviation.kind}): {deviation.reason}"
        )


_WORDS = {
    Kind.NOTHING_RAN: "it can be installed and its recipe tests nothing",
    Kind.EXIT_0: "a command ended its shell with exit status 0, and those after it never ran",
    Kind.UNSOLVABLE: "no environment can hold a downstream package beside it",
}


def _people(policy: Policy) -> Iterator[str]:
    if policy.allowed is None:
        yield "Nobody needs to sign: whoever can write the report can write a lie."
        return
    yield "The report is signed by the one who built the packages and ran the tests."
    yield f"Approvals of other people that are needed: {policy.gate.approvals}."
    if policy.gate.rebuilds:
        yield f"So many of them must have built it themselves: {policy.gate.rebuilds}."
    for role, what in (
        (Role.REPORT, "sign reports"),
        (Role.APPROVE, "approve"),
        (Role.WAIVER, "waive checks"),
    ):
        names = dict.fromkeys(one.principal for one in policy.allowed.signers)
        who = [name for name in names if policy.allowed.may(name, role)]
        yield f"These may {what}: {', '.join(who) or 'nobody'}."
    if policy.allowed.revoked:
        yield "Revoked keys are refused."


def _sigstore(who: Identity | None) -> Iterator[str]:
    if who is not None:
        yield f"Sigstore bundles must be of {who.identity}, for whom {who.issuer} vouches."


def _enabled(policy: Policy) -> Iterator[str]:
    if not policy.enabled:
        yield f"{'No' if policy.listed else 'Any'} package may be built by hand."
    for row in policy.enabled:
        words = [f"{row.package} may be built by hand"]
        words += [f"by {', '.join(row.builders)}"] * bool(row.builders)
        words += [f"until {row.until}"] * (row.until is not None)
        words += [f"for {row.pr}"] * (row.pr is not None)
        words += [f"as {row.by} decided"] * bool(row.by)
        words += [f"with its feedstock cloned to {row.clone}"] * bool(row.clone)
        yield " ".join(words) + "."
