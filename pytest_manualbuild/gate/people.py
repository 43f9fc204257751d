"""The gate's rules about people: who ran, who approved, what was waived. Pure, as the gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import msgspec

from pytest_manualbuild.evidence import Stored
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.approvals import Approval, Signed, Waiver
from pytest_manualbuild.gate.policy import Policy
from pytest_manualbuild.gate.verdict import Reason, note, reject, unsure
from pytest_manualbuild.model import Plan
from pytest_manualbuild.records import CheckResult

SIGN = "Its runner signs: manualbuild approve EVIDENCE --role report --key KEY --policy POLICY"
APPROVE = "Somebody else looks at it, then: manualbuild approve EVIDENCE --key KEY --policy POLICY"
REBUILD = "manualbuild compare PACKAGE THEIRS"
WAIVE = "Remove it, or make another one: manualbuild waive EVIDENCE ..."


class People(msgspec.Struct, frozen=True, kw_only=True):
    """What people signed about a run, as it was read and its signatures checked."""

    reports: tuple[Signed[bytes], ...]
    """Of each run."""
    evidence_sha256: str
    """See ``body.sha256``."""
    approvals: tuple[Signed[Approval], ...] = ()
    waivers: tuple[Signed[Waiver], ...] = ()

    @property
    def runners(self) -> frozenset[str]:
        """Return who signed a report."""
        return frozenset(one.signature.principal for one in self.reports if one.signature)


@dataclass(kw_only=True)
class Waived:
    """The waivers that hold, and what each was used for."""

    waivers: dict[str, Signed[Waiver]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    def of(self, plan: Plan, result: CheckResult) -> Signed[Waiver] | None:
        """Return the waiver of a result, if there is one, and note that it was used."""
        artifact = plan.package(result.package).artifact
        for name, signed in self.waivers.items():
            waiver = signed.statement
            if waiver is not None and waiver.covers(
                artifact.name, artifact.version, result.host, result.check
            ):
                self.used[name] = self.used.get(name, 0) + 1
                return signed
        return None

    def notes(self) -> Iterator[Reason]:
        """Yield what was waived, and an error for each waiver that nothing needed."""
        for name, signed in self.waivers.items():
            waiver, count = signed.statement, self.used.get(name, 0)
            if waiver is None or signed.signature is None:
                continue
            if not count:
                yield reject(f"{name}: nothing needs this waiver.", help=WAIVE)
                continue
            yield note(
                f"waived by {signed.signature.principal} until {waiver.expires}: {waiver.check} on"
                f" {waiver.host} of {waiver.package} {waiver.version} ({count}"
                f" result{'s' * (count != 1)}): {waiver.reason} {waiver.link}"
            )


def runner(people: People, policy: Policy) -> Iterator[Reason]:
    """Yield why a report does not count as signed, or by whom it is."""
    if policy.allowed is None:
        yield note("The policy asks for no signature: who can write the report can write a lie.")
        return
    for report in people.reports:
        if report.problem:
            yield reject(f"{report.file}: it is not signed well: {report.problem}.", help=SIGN)
        elif report.signature is None:
            yield unsure(f"{report.file}: the report is not signed.", help=SIGN)
        else:
            who, key = report.signature.principal, report.signature.fingerprint
            yield note(f"{report.file}: run and signed by {who}, key {key}")


def enabled(people: People, policy: Policy, plan: Plan, today: date) -> Iterator[Reason]:
    """Yield which packages may not be built by hand now, or not by the one who signed."""
    if not policy.enabled and not policy.listed:
        return
    for key, name in ((one.artifact.key, one.artifact.name) for one in plan.packages):
        rows = policy.rows(name)
        live = [row for row in rows if row.until is None or row.until >= today]
        if not rows:
            yield reject(f"{key}: the policy does not enable {name}.")
        elif not live:
            yield reject(f"{key}: the policy enabled {name} until {rows[-1].until}.")
        elif all(row.builders and not people.runners & set(row.builders) for row in live):
            if people.runners:
                who = ", ".join(sorted(people.runners))
                yield reject(f"{key}: the policy does not let {who} build it.")
            else:
                yield unsure(f"{key}: nobody signed that he built it.", help=SIGN)


def approvals(people: People, policy: Policy, stored: Stored) -> Iterator[Reason]:
    """Yield why there are not enough approvals by people other than the runner."""
    if policy.allowed is None:
        # Without signers nobody's approval can count, not even one that is wanted.
        if policy.gate.approvals or policy.gate.rebuilds:
            yield unsure("The policy wants approvals, and names nobody who may approve.")
        return
    who: dict[str, Approval] = {}
    for signed in people.approvals:
        approval, fault = signed.statement, _fault_of_approval(signed, people, policy, stored)
        if fault or approval is None or signed.signature is None:
            yield reject(f"{signed.file}: {fault}.", help=APPROVE)
        else:
            who[signed.signature.principal] = approval
    for name, approval in sorted(who.items()):
        said = f" and says: {approval.note}" if approval.note else ""
        yield note(f"approved by {name}, who checked {', '.join(approval.checked)}{said}")
    if len(who) < policy.gate.approvals:
        yield unsure(
            f"{len(who)} of {policy.gate.approvals} approvals by people other than the runner.",
            help=APPROVE,
        )
    rebuilt = sum("rebuild" in approval.checked for approval in who.values())
    if rebuilt < policy.gate.rebuilds:
        yield unsure(
            f"{rebuilt} of {policy.gate.rebuilds} approvals by people who built it themselves.",
            help=f"{REBUILD}; {APPROVE} --checked rebuild",
        )


def _fault_of_approval(
    signed: Signed[Approval], people: People, policy: Policy, stored: Stored
) -> str:
    approval, signature = signed.statement, signed.signature
    if approval is None or signature is None:
        return f"it is no valid approval: {signed.problem}"
    if signature.principal in people.runners:
        return f"{signature.principal} ran the tests, and approves them"
    about = (approval.evidence_sha256, approval.packages)
    if about != (people.evidence_sha256, stored.subjects):
        return "it approves another report"
    names = {planned.artifact.name for planned in stored.evidence.plan.packages}
    if approval.policy_sha256 != policies.digest(policy, names):
        return "it was given under another policy"
    return ""


def waived(
    people: People, policy: Policy, plan: Plan, now: datetime
) -> tuple[Waived, list[Reason]]:
    """Return the waivers that hold, and why the others do not."""
    holds, reasons = Waived(), []
    for signed in people.waivers:
        faults = list(_faults(signed, people, plan, now))
        reasons += [reject(f"{signed.file}: {fault}.", help=WAIVE) for fault in faults]
        if not faults:
            holds.waivers[signed.file] = signed
    if policy.allowed is None and people.waivers:
        reasons.append(reject("Waivers need a policy that names signers.", help=WAIVE))
        return Waived(), reasons
    return holds, reasons


def _faults(signed: Signed[Waiver], people: People, plan: Plan, now: datetime) -> Iterator[str]:
    waiver, signature = signed.statement, signed.signature
    if waiver is None or signature is None:
        yield f"it is no valid waiver: {signed.problem}"
        return
    yield from waiver.faults()
    if signed.file != f"waivers/{waiver.id}.json":
        yield f"it is named {waiver.id}"
    if not people.runners or signature.principal in people.runners:
        yield f"{signature.principal} cannot waive checks of a run of his own, or of nobody's"
    # A day may have begun where it was signed, and not yet here.
    if waiver.created > (now + timedelta(days=1)).date():
        yield f"it is from the future ({waiver.created})"
    if waiver.expires < now.date():
        yield f"it expired on {waiver.expires}"
    if not any(
        waiver.covers(planned.artifact.name, planned.artifact.version, host.name, check.name)
        for planned in plan.packages
        for host in plan.matrix.hosts
        for check in planned.checks
    ):
        yield "it fits no check, host and package of this report"
