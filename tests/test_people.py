"""Who ran, who approved, what was waived: only the right people, and nobody for himself."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from conftest import LOCAL, ROOT, manualbuild, run_pytest, signer, write_package
from pytest_manualbuild.errors import PolicyError
from pytest_manualbuild.gate import approvals, explain, signatures, verify
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.signatures import Role
from pytest_manualbuild.gate.verdict import Decision, Verdict

POLICY = """
[target]
kind = "anaconda"
owner = "builder"
label = "manual"

[gate]
matrix = "local.toml"
approvals = 1
max_age_days = 30

[signers]
allowed_signers = "signers"

[[enabled]]
package = "odd"
pr = 12
by = "core"
until = 2099-01-01
builders = ["alice"]
"""
ACCEPTED = '[[gate.accepted]]\ncode = "leak-home"\n'
DAY = timedelta(days=1)
ONLY = '[signers]\nallowed_signers = "one"\n'  # alice, who may sign reports and approve


@pytest.fixture
def rules(case: Path, keys: Path) -> Path:
    """A policy with signers, beside a good report."""
    (case / "signers").write_text(
        signer(keys, "alice", "report", "approve", "waiver")
        + signer(keys, "bob", "approve", "waiver")
        + signer(keys, "carol", "report", "approve")
        + signer(keys, "dave", "waiver")
    )
    (case / "policy.toml").write_text(POLICY)
    return case / "policy.toml"


def judged(case: Path, *, now: datetime | None = None) -> Verdict:
    policy = policies.load(case / "policy.toml")
    return verify.verify(case / "report", case / "build_artifacts", policy, now=now).verdict


def sign(case: Path, keys: Path, who: str = "alice") -> None:
    approvals.sign_report(case / "report", keys / who, policies.load(case / "policy.toml"))


def approve(case: Path, keys: Path, who: str = "bob") -> Path:
    policy = policies.load(case / "policy.toml")
    return approvals.approve(case / "report", keys / who, policy, ("log", "audit"), "fine")[0]


def said(verdict: Verdict) -> str:
    return verdict.text()


def test_signed_and_approved_is_accepted_with_everybody_named(
    case: Path, rules: Path, keys: Path
) -> None:
    assert judged(case).decision is Decision.INCONCLUSIVE
    assert "not signed" in said(judged(case))
    sign(case, keys)
    assert judged(case).decision is Decision.INCONCLUSIVE
    assert "0 of 1 approvals" in said(judged(case))
    approve(case, keys)

    verdict = judged(case)

    assert verdict.decision is Decision.ACCEPT, said(verdict)
    assert "signed by alice" in said(verdict)
    assert "approved by bob, who checked log, audit and says: fine" in said(verdict)
    assert rules.is_file()


@pytest.mark.usefixtures("rules")
def test_the_command_line_goes_the_same_way(case: Path, keys: Path) -> None:
    def run(verb: str, *words: str) -> tuple[int, str]:
        ran = manualbuild(verb, *words, "--policy", "policy.toml", cwd=case)
        return ran.status, ran.out

    status, out = run("verify", "report", "--artifacts", "build_artifacts")
    assert (status, "manualbuild approve EVIDENCE --role report" in out) == (8, True), out
    assert run("approve", "report", "--role", "report", "--key", str(keys / "alice"))[0] == 0
    status, out = run("approve", "report", "--key", str(keys / "bob"), "--checked", "log,run")
    assert (status, "signed by bob" in out) == (0, True), out
    status, out = run("verify", "report", "--artifacts", "build_artifacts", "--json")
    value = json.loads(out)
    assert (status, value["decision"], value["exit_code"]) == (0, "accept", 0)
    for words, says in (
        (("--key", str(keys / "dave")), "may not sign for the role approve. Have it"),
        (("--key", str(keys / "mallory")), "not one of the allowed signers. Have it"),
        (("--key", str(keys / "bob"), "--checked", "nothing"), "not known"),
        (("--key", "nowhere"), "No such file"),
    ):
        status, out = run("approve", "report", *words)
        assert (status, says in out, out.count("\n")) == (4, True, 1), out


@pytest.mark.usefixtures("rules")
def test_who_ran_may_not_approve_and_one_person_counts_once(case: Path, keys: Path) -> None:
    sign(case, keys)
    approve(case, keys, "alice")
    assert "alice ran the tests, and approves" in said(judged(case))
    shutil.rmtree(case / "report/approvals")
    file = case / "policy.toml"
    file.write_text(file.read_text().replace("approvals = 1", "approvals = 2"))
    mine = approve(case, keys, "bob")
    for suffix in ("", ".sig"):
        shutil.copy(f"{mine}{suffix}", f"{mine.with_name('more.json')}{suffix}")

    assert "1 of 2 approvals" in said(judged(case))
    approve(case, keys, "carol")
    assert judged(case).decision is Decision.ACCEPT


@pytest.mark.usefixtures("rules")
def test_a_policy_may_want_a_second_build(case: Path, keys: Path) -> None:
    file = case / "policy.toml"
    file.write_text(file.read_text().replace("approvals = 1", "rebuilds = 1"))
    sign(case, keys)
    approve(case, keys)
    assert judged(case).decision is Decision.INCONCLUSIVE
    assert "0 of 1 approvals by people who built it" in said(judged(case))
    approvals.approve(case / "report", keys / "carol", policies.load(file), ("rebuild",), "")
    assert judged(case).decision is Decision.ACCEPT


@pytest.mark.usefixtures("rules")
def test_only_a_builder_of_the_policy_may_sign_the_report(case: Path, keys: Path) -> None:
    sign(case, keys, "carol")
    approve(case, keys)
    verdict = judged(case)
    assert verdict.decision is Decision.REJECT
    assert "does not let carol build it" in said(verdict)


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("until = 2099-01-01", "until = 2020-01-01", "until 2020-01-01"),
        ('package = "odd"', 'package = "even"', "does not enable odd"),
        ("max_age_days = 30", "max_age_days = 40", "under another policy"),
        ('label = "manual"', 'label = "cfep03"', "under another policy"),
        ("approvals = 1", "approvals = 0", "under another policy"),
        ("", "# a remark\n", ""),
    ],
)
def test_what_was_approved_was_approved_under_this_policy(
    case: Path, keys: Path, old: str, new: str, says: str
) -> None:
    sign(case, keys)
    approve(case, keys)
    file = case / "policy.toml"
    file.write_text(file.read_text().replace(old, new, 1))

    verdict = judged(case)

    assert (verdict.decision is Decision.ACCEPT) == (not says)
    assert says in said(verdict)


@pytest.mark.usefixtures("rules")
def test_signatures_that_do_not_hold_are_refused(case: Path, keys: Path) -> None:
    sign(case, keys)
    approval = approve(case, keys)
    report = case / "report"

    def refused(says: str) -> None:
        verdict = judged(case)
        assert verdict.decision is not Decision.ACCEPT
        assert says in said(verdict), said(verdict)

    signatures.sign(report / "evidence.json", keys / "mallory", Role.REPORT)
    refused("not one of the allowed signers")
    signatures.sign(report / "evidence.json", keys / "alice", Role.APPROVE)
    refused("namespace does not match")
    sign(case, keys)
    assert judged(case).decision is Decision.ACCEPT
    (report / "evidence.json").write_bytes((report / "evidence.json").read_bytes() + b"\n")
    refused("incorrect signature")
    refused("it approves another report")
    sign(case, keys)
    approval.write_text(approval.read_text().replace("fine", "good"))
    refused("incorrect signature")
    approval.write_text("{}")
    refused("not of the kind")
    approval.unlink()
    refused("no valid approval")


@pytest.mark.usefixtures("rules")
def test_keys_end(case: Path, keys: Path) -> None:
    sign(case, keys)
    approve(case, keys)
    file = case / "signers"
    good = file.read_text()
    file.write_text(good.replace('@v1" ecdsa', '@v1",valid-before="20200101" ecdsa'))
    assert "expired" in said(judged(case))
    file.write_text(good)
    policy = case / "policy.toml"
    policy.write_text(policy.read_text().replace("[signers]", '[signers]\nrevoked = "revoked"'))
    shutil.copy(keys / "mallory.pub", case / "revoked")
    assert judged(case).decision is Decision.ACCEPT
    shutil.copy(keys / "alice.pub", case / "revoked")
    assert "revoked" in said(judged(case))


FAILING = "test:\n  commands:\n    - 'true'\n    - 'false'\n"


@pytest.fixture
def failed(tmp_path: Path, keys: Path) -> Path:
    """A signed and approved report of which the check ``commands[1]`` failed."""
    write_package(tmp_path, FAILING)
    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", "--evidence", "report",
                     cwd=tmp_path)  # fmt: skip
    assert ran.status == 1
    assert (tmp_path / "local.toml").read_text() == LOCAL
    (tmp_path / "signers").write_text(
        signer(keys, "alice", "report", "waiver") + signer(keys, "bob", "approve", "waiver")
    )
    (tmp_path / "policy.toml").write_text(POLICY)
    sign(tmp_path, keys)
    approve(tmp_path, keys)
    return tmp_path


def waiver(changes: dict[str, object]) -> approvals.Waiver:
    today = datetime.now(UTC).date()
    values: dict[str, object] = {
        "id": "w-1", "package": "odd", "version": "1", "host": "here",
        "check": "commands[1]: false", "reason": "known upstream",
        "link": "https://example.org/1", "created": today, "expires": today + 30 * DAY,
    }  # fmt: skip
    return approvals.Waiver(**{**values, **changes})  # type: ignore[arg-type]


def waive(
    case: Path, keys: Path, who: str = "bob", changes: dict[str, object] | None = None
) -> None:
    """Write a waiver, also one that the verb would not write."""
    made = waiver(changes or {})
    file = case / "report/waivers" / f"{made.id}.json"
    file.parent.mkdir(exist_ok=True)
    value = {"kind": approvals.WAIVER, **msgspec.to_builtins(made)}
    file.write_text(json.dumps(value, default=str))
    signatures.sign(file, keys / who, Role.WAIVER)


def test_a_waived_check_is_accepted_and_shown(failed: Path, keys: Path) -> None:
    assert judged(failed).decision is Decision.REJECT
    ran = manualbuild(
        "waive", "report", "--key", str(keys / "bob"), "--policy", "policy.toml", "--package",
        "odd", "--version", "1", "--host", "here", "--check", "commands[1]: false", "--reason",
        "known upstream", "--link", "https://example.org/1", cwd=failed,
    )  # fmt: skip
    assert ran.status == 0, ran.out

    verdict = judged(failed)

    assert verdict.decision is Decision.ACCEPT, said(verdict)
    assert "waived by bob until" in said(verdict)
    assert "known upstream https://example.org/1" in said(verdict)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "*", "check": "*"}, "too wide"),
        ({"package": "*"}, "fits no check"),
        ({"version": "2"}, "fits no check"),
        ({"host": "there"}, "fits no check"),
        ({"check": "commands[9]: false"}, "fits no check"),
        ({"check": "commands[0]: true"}, "nothing needs this waiver"),
        ({"reason": " "}, "wants a reason"),
        ({"link": "see mail"}, "wants a reason, and a link"),
        ({"expires": datetime.now(UTC).date() + 91 * DAY}, "within 90 days"),
        ({"created": datetime.now(UTC).date() - 60 * DAY,
          "expires": datetime.now(UTC).date() - DAY}, "it expired"),
        ({"created": datetime.now(UTC).date() + 9 * DAY}, "from the future"),
        ({"check": "*"}, ""),
        ({"host": "*"}, ""),
    ],
)  # fmt: skip
def test_a_waiver_is_narrow_needed_and_ends(
    failed: Path, keys: Path, changes: dict[str, object], says: str
) -> None:
    waive(failed, keys, changes=changes)

    verdict = judged(failed)

    assert says in said(verdict), said(verdict)
    assert (verdict.decision is Decision.ACCEPT) == (not says), said(verdict)


def test_waivers_are_of_others_and_leave_something_proven(failed: Path, keys: Path) -> None:
    waive(failed, keys, "alice")
    assert "cannot waive checks of a run of his own" in said(judged(failed))
    waive(failed, keys, "mallory")
    assert "not one of the allowed" in said(judged(failed))
    waive(failed, keys)
    assert judged(failed).decision is Decision.ACCEPT
    later = datetime.now(UTC) + 29 * DAY
    assert judged(failed, now=later).decision is Decision.ACCEPT
    assert "expired" in said(judged(failed, now=later + 3 * DAY))
    shutil.copy(failed / "report/waivers/w-1.json", failed / "report/waivers/w-2.json")
    assert "it is not signed" in said(judged(failed))


def test_an_audit_finding_counts_as_the_policy_says(case: Path) -> None:
    def decided(text: str) -> tuple[Decision, str]:
        (case / "policy.toml").write_text(text)
        verdict = judged(case)
        return verdict.decision, said(verdict)

    decision, text = decided("[gate]\n")
    assert (decision, "note: warning: noarch/odd-1-0.conda: license-missing" in text) == (
        Decision.ACCEPT, True,
    )  # fmt: skip
    strict = '[gate.severities]\nlicense-missing = "error"\n'
    decision, text = decided(strict)
    assert (decision, "license-missing" in text) == (Decision.REJECT, True)
    accepted = '[[gate.accepted]]\ncode = "license-missing"\npath = ""\nreason = "CC0"\n'
    assert decided(f'{strict}{accepted}package = "odd"\n')[0] is Decision.ACCEPT
    assert decided(f'{strict}{accepted}package = "even"\n')[0] is Decision.REJECT
    assert decided(f'{strict}{accepted}package = "odd"\nuntil = 2020-01-01\n')[0] is Decision.REJECT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gate]\napprovals = 1\n", "want signers.allowed_signers"),
        ("[gate]\napprovals = true\n", "approvals"),
        ("[gate]\nrebuilds = -1\n", "negative"),
        ("[gate]\nrebuilds = 1\n", "want signers.allowed_signers"),
        ("[gate]\nmax_age_days = 0\n", "from 1 to 36500"),
        ("[gate]\nmax_age_days = 99999999999\n", "from 1 to 36500"),
        ('[gate]\nmatrix = "a\\u0000.toml"\n', "null byte"),
        ('[signers]\nallowed_signers = "a\\u0000"\n', "null byte"),
        (ACCEPTED + 'path = "[!x]*"\npackage = "odd"\nreason = "all"\n', "too wide"),
        ('[gate]\nmatrix = "nowhere"\n', "nowhere"),
        ('[gate.severities]\nno-such-code = "error"\n', "no code 'no-such-code'"),
        ('[gate.severities]\nleak-home = "fatal"\n', "fatal"),
        ('[gate.severities]\narchive-setid = "note"\n', "stands"),
        (f'{ACCEPTED}path = "*"\npackage = "x"\nreason = "y"\n', "wide"),
        (f'{ACCEPTED}path = "a"\npackage = "x"\nreason = ""\n', "reason"),
        (f'{ACCEPTED}pth = "a"\n', "gate.accepted.pth"),
        ('[gate.accepted]\ncode = "leak-home"\n', "another form"),
        ('[target]\nkind = "ftp"\n', "ftp"),
        ('[target]\nlabel = "no label"\n', "not a label"),
        ('[target]\nstaging = "main"\n', "neither"),
        ('[target]\nowner = "a/b"\n', "owner"),
        ('[signers]\nallowed_signers = "none"\n', "cannot be read"),
        ('[[enabled]]\npackage = "odd"\nuntil = "soon"\n', "until"),
        ('[[enabled]]\npackage = "odd"\nbuilders = ["zoe"]\n', "want signers"),
        ("[[enabled]]\npr = 1\n", "package"),
        ('[signers]\nallowed_signers = "signers"\n[gate]\napprovals = 4\n', "3 may approve"),
        ('[signers]\nallowed_signers = "signers"\n[[enabled]]\npackage = "a"\nbuilders = ["bob"]\n',
         "'bob' may not sign reports"),
        ('"gate.accepted" = []\n', "unknown key"),
        (f'{ACCEPTED}path = "[!]a]*"\npackage = "x"\nreason = "y"\n', "too wide"),
        (f'{ACCEPTED}path = "[]a]*"\npackage = "x"\nreason = "y"\n', "too wide"),
        ('[gate]\nledger = ""\n', "no file"),
        ('[[enabled]]\npackage = "od*"\n', "is a pattern, and only a name counts"),
        ('[[enabled]]\npackage = "od[ds]"\n', "is a pattern"),
        (f"{ONLY}[gate]\napprovals = 1\n", "too few others who may approve"),
        (f'{ONLY}[gate]\napprovals = 1\nrebuilds = 1\n[[enabled]]\npackage = "a"\n',
         "1 are wanted for a, and whoever may sign its report leaves too few"),
        (('[signers]\nallowed_signers = "signers"\n[gate]\napprovals = 3\n'
         '[[enabled]]\npackage = "a"\nbuilders = ["alice"]\n'), "for a, .* too few others"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_met_is_one_clear_line(rules: Path, text: str, says: str) -> None:
    rules.write_text(text)
    lines = (rules.parent / "signers").read_text().splitlines()
    (rules.parent / "one").write_text(next(one for one in lines if one.startswith("alice")))
    with pytest.raises(PolicyError, match=says):
        policies.load(rules)
    ran = manualbuild("policy", "check", "policy.toml", cwd=rules.parent)
    assert (ran.status, ran.out.count("\n")) == (4, 1), ran.out


@pytest.mark.parametrize(
    "text",
    [
        f'{ACCEPTED}path = "[!]a]*b"\npackage = "x"\nreason = "y"\n',
        f'{ACCEPTED}path = "[]a"\npackage = "x"\nreason = "y"\n',
        (
            '[signers]\nallowed_signers = "signers"\n[gate]\napprovals = 2\n'
            '[[enabled]]\npackage = "a"\nbuilders = ["alice"]\n'
        ),
    ],
)
def test_a_policy_that_can_just_be_met_is_taken(rules: Path, text: str) -> None:
    rules.write_text(text)
    assert policies.load(rules).gate.matrix is None


def test_an_empty_list_enables_no_package(case: Path) -> None:
    (case / "policy.toml").write_text("enabled = []\n")

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", "--policy",
                      "policy.toml", cwd=case)  # fmt: skip

    assert (ran.status, "the policy does not enable odd" in ran.out) == (1, True), ran.out
    ran = manualbuild("policy", "check", "policy.toml", cwd=case)
    assert "No package may be built by hand." in ran.out


def test_a_policy_is_explained_in_words(rules: Path) -> None:
    ran = manualbuild("policy", "check", "policy.toml", cwd=rules.parent)
    assert ran.status == 0, ran.out
    for words in (
        "anaconda.org, owner builder, label manual (only)",
        "read back under the label manual-staging",
        "The matrix is local; it requires here.",
        "A report counts for 30 days.",
        "needed: 1.",
        "These may approve: alice, bob, carol.",
        "odd may be built by hand by alice until 2099-01-01 for 12 as core decided.",
    ):
        assert words in ran.out, ran.out


def public(keys: Path, line: str) -> str:
    return (keys / f"{line.partition('@')[0]}.pub").read_text()


def test_the_policy_of_the_documentation_is_valid(tmp_path: Path, keys: Path) -> None:
    text = (ROOT / "docs/verdict.md").read_text()
    (tmp_path / "policy.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    lines = text.split("```text\n")[1].split("```")[0].splitlines()
    with_keys = [line.replace("ssh-ed25519 AAAA...", public(keys, line))
                 for line in lines if line.startswith(("alice", "bob"))]  # fmt: skip
    (tmp_path / "allowed_signers").write_text("\n".join([lines[0], *with_keys]))
    (tmp_path / "revoked").write_text((keys / "mallory.pub").read_text())
    (tmp_path / "hosts.toml").write_text(LOCAL)
    (tmp_path / "ledger.jsonl").touch()

    policy = policies.load(tmp_path / "policy.toml")

    assert explain.explain(policy)
    assert policy.allowed is not None
    assert policy.allowed.may("alice@example.org", Role.REPORT)
