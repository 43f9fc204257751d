"""The gate and the upload: every single change of a good report is refused with its own reason."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import LOCAL, META, build, manualbuild, run_pytest
from pytest_manualbuild import plan
from pytest_manualbuild.errors import EvidenceError, PolicyError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate import verify
from pytest_manualbuild.gate.verdict import Decision
from pytest_manualbuild.reports import junit

CANARY = "canary-token-1234"


def judged(case: Path, policy: policies.Policy | None = None) -> tuple[Decision, str]:
    found = verify.verify(
        case / "report", case / "build_artifacts", policy or policies.Policy()
    ).verdict
    return found.decision, found.text()


def test_a_good_report_is_accepted(case: Path) -> None:
    assert judged(case)[0] is Decision.ACCEPT


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(case: Path) -> None:
        path = case / "report" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def drop_result(case: Path) -> None:
    path = case / "report/evidence.json"
    value = json.loads(path.read_text())
    value["predicate"]["results"].pop()
    path.write_text(json.dumps(value))


def other_environment(case: Path) -> None:
    path = case / "report/evidence.json"
    value = json.loads(path.read_text())
    (environment,) = value["predicate"]["hosts"][0]["environments"].values()
    environment["packages"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(value))


def no_host(case: Path) -> None:
    path = case / "report/evidence.json"
    value = json.loads(path.read_text())
    value["predicate"]["hosts"].clear()
    path.write_text(json.dumps(value))


def twice(case: Path) -> None:
    path = case / "report/evidence.json"
    value = json.loads(path.read_text())
    value["predicate"]["results"].append(value["predicate"]["results"][-1])
    path.write_text(json.dumps(value))


def drop_case(case: Path) -> None:
    path = case / "report/junit.xml"
    one = re.compile(r"<testcase.*?</testcase>", re.DOTALL)
    path.write_text(one.sub("", path.read_text(), count=1))


def other_bytes(case: Path) -> None:
    with next((case / "build_artifacts/noarch").iterdir()).open("ab") as file:
        file.write(b"\0")


def no_package(case: Path) -> None:
    shutil.rmtree(case / "build_artifacts")


def extra_host(case: Path) -> None:
    path = case / "report/matrix.toml"
    path.write_text(path.read_text() + '[hosts.more]\nkind = "local"\n')


def extra_log(case: Path) -> None:
    (case / "report/logs").mkdir(exist_ok=True)
    (case / "report/logs/more.txt").write_text("more")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit("evidence.json", '"outcome": "passed"', '"outcome": "failed"'), "failed"),
        (edit("evidence.json", '"outcome": "passed"', '"outcome": "skipped"'), "skip never"),
        (edit("evidence.json", '"complete": true', '"complete": false'), "its end"),
        (edit("evidence.json", '"narrowed": []', '"narrowed": ["-x"]'), "not cover the plan"),
        (edit("evidence.json", '"exit_status": 0', '"exit_status": 2'), "differ|exit status"),
        (edit("junit.xml", '"manualbuild.cause" value="ok"', '"x" value="ok"'), "not the report"),
        (edit("evidence.json", '"state": "tested"', '"state": "unavailable"'), "is unavailable"),
        (other_environment, "other bytes were installed"),
        (no_host, "each host of the matrix once"),
        (edit("evidence.json", '"exit_status": 0', '"exit_status": 7'), "exit status"),
        (edit("evidence.json", '"result": "PASSED"', '"result": "FAILED"'), "calls its result"),
        (edit("evidence.json", '"log": "logs/', '"log": "logs/no'), "does not have its log"),
        (drop_result, "0 results, 1 needed"),
        (twice, "2 results, 1 needed"),
        (drop_case, "junit.xml and the evidence differ"),
        (other_bytes, "other bytes"),
        (no_package, "is not there"),
        (extra_host, "not the one that was run"),
        (extra_log, "not the one that the run wrote"),
        (edit("recipe/meta.yaml", "    - 'true'\n", ""), "recipe kept with the evidence"),
    ],
)
def test_each_change_is_refused_with_its_own_reason(
    case: Path, change: Callable[[Path], None], says: str
) -> None:
    change(case)

    decision, text = judged(case)

    assert decision is not Decision.ACCEPT
    assert re.search(says, text), text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"_type":', '"_type": "x", "_type":'),
        ('"exit_status": 0', '"exit_status": NaN'),
        ('"complete": true', '"complete": "true"'),
        ("{", "["),
    ],
)
def test_malformed_evidence_is_one_line(case: Path, old: str, new: str) -> None:
    edit("evidence.json", old, new)(case)

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case)

    assert (ran.status, "Traceback" in ran.out, ran.out.count("\n")) == (4, False, 1), ran.out


def test_a_builder_who_strips_tests_is_found_out(case: Path) -> None:
    shutil.rmtree(case / "build_artifacts")
    build(case, META.replace("    - 'true'\n", ""))
    shutil.rmtree(case / "report")
    (case / "reviewed").mkdir()
    (case / "reviewed/meta.yaml").write_text(META)
    ran = run_pytest(
        "--recipe", "reviewed", "--artifacts", "build_artifacts", "--matrix", "local.toml",
        "--evidence", "report", cwd=case,
    )  # fmt: skip
    assert ran.status == 0, ran.out

    decision, text = judged(case)

    assert decision is Decision.REJECT
    assert "lacks the check" in text


def test_time_and_policy(case: Path, tmp_path: Path) -> None:
    def at(days: float, **gate: object) -> Decision:
        policy = policies.Policy(gate=policies.Gate(**gate))  # type: ignore[arg-type]
        now = datetime.now(UTC) + timedelta(days=days)
        return verify.verify(
            case / "report", case / "build_artifacts", policy, now=now
        ).verdict.decision

    assert at(2) is Decision.ACCEPT
    assert at(2, max_age_days=1) is Decision.REJECT
    assert at(-1) is Decision.REJECT
    assert at(0, approvals=1) is Decision.INCONCLUSIVE

    file = tmp_path / "policy.toml"
    (tmp_path / "other.toml").write_text(LOCAL + "required = true\n")
    file.write_text('[gate]\nmatrix = "other.toml"\n')
    assert "another one was run" in judged(case, policies.load(file))[1]
    file.write_text('[[enabled]]\npackage = "odd"\nuntil = 2020-01-01\n')
    assert "until 2020-01-01" in judged(case, policies.load(file))[1]
    for text, says in (
        ("[gat]\n", "unknown key gat"),
        ("[gate]\nmax_age = 1\n", "gate.max_age"),
        ("[gate]\napprovals = 'two'\n", "approvals"),
        ("x", "TOML"),
        ("", "the policy is empty"),
        ('[gate]\nmatrix = "no.toml"\n', r"policy.toml: gate.matrix: .*no.toml.* Correct that key"),
    ):
        file.write_text(text)
        with pytest.raises(PolicyError) as caught:
            policies.load(file)
        assert re.search(says, str(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE x [<!ENTITY a 'b'>]><testsuites>&a;</testsuites>",
        "<testsuites>" * 100,
        "<testsuites><testcase/></testsuites><",
        "",
    ],
)
def test_hostile_junit_is_refused(text: str) -> None:
    with pytest.raises(EvidenceError):
        junit.read(text.encode())


def test_the_report_is_valid_for_two_dialects(case: Path, shared: Path) -> None:
    from lxml import etree

    tree = etree.fromstring((case / "report/junit.xml").read_bytes())
    for one in tree.iter("testcase"):
        for tag in ("properties", "system-out", "system-err"):
            for child in one.findall(tag):
                one.remove(child)
    for name in ("jenkins-xunit-junit-10.xsd", "windyroad-JUnit.xsd"):
        schema = etree.XMLSchema(etree.parse(str(shared / "schemas" / name)))
        schema.assertValid(tree)


def test_what_a_later_version_knows_besides_voids_no_approval_and_no_report(
    case: Path, tmp_path: Path
) -> None:
    """People approve what a policy says, and a report has the plan that its version knew."""
    (tmp_path / "policy.toml").write_text(
        '[target]\nkind = "directory"\n[gate]\nmax_age_days = 30\n[[enabled]]\npackage = "odd"\n'
    )
    gate = {"max_age_days": 30, "severities": {}}
    said = [[{"kind": "directory"}, gate, [{"package": "odd"}]], None]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    assert policies.digest(policies.load(tmp_path / "policy.toml"), {"odd"}) == digest

    file = case / "report/evidence.json"
    value = json.loads(file.read_text())
    for host in value["predicate"]["plan"]["matrix"]["hosts"]:
        del host["snapshot"]
    before = value["predicate"]["plan_sha256"]
    value["predicate"]["plan_sha256"] = after = plan.digest_of(value["predicate"]["plan"])
    report = case / "report/junit.xml"
    report.write_text(report.read_text().replace(before, after))
    value["predicate"]["junit_sha256"] = hashlib.sha256(report.read_bytes()).hexdigest()
    file.write_text(json.dumps(value))
    assert manualbuild("verify", "report", cwd=case).status == 0
