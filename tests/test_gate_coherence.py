"""Evidence and report that were made up, and agree in every hash, are refused where they cannot be.

What a run says of itself must fit together: hosts and their facts, results and their logs, and the
JUnit report element by element.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from conftest import manualbuild, run_pytest, write_package
from pytest_manualbuild import evidence as evidences
from pytest_manualbuild import plan as planning
from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.gate import coherence, policy, verify
from pytest_manualbuild.gate.verdict import Decision, Verdict
from pytest_manualbuild.hosts import facts
from pytest_manualbuild.model import Facts
from pytest_manualbuild.records import Cause, Outcome
from pytest_manualbuild.reports import junit

Change = Callable[[dict[str, Any]], object]
DEBIAN = b"os-release ID=debian\nkernel 6.1\nsystem Linux\narch %s\nuser me\nglibc 2.36\nbash yes\n"
MAC = b"kernel 23.1.0\nsystem Darwin\narch %s\nuser me\nmacos 14.1\nbash yes\n"
WINDOWS = b"Microsoft Windows [Version 10.0.19045]\r\narch %s\r\nuser me\r\n"


def judged(case: Path, report: str = "report") -> Verdict:
    return verify.verify(case / report, case / "build_artifacts", policy.Policy()).verdict


def said(verdict: Verdict) -> str:
    return "\n".join(f"{one.decision} {one.text}" for one in verdict.reasons)


def forge(report: Path, change: Change) -> None:
    """Change what a report says, and make all of it agree again with the tool's own writers."""
    path = report / "evidence.json"
    predicate = json.loads(path.read_text())["predicate"]
    change(predicate)
    del predicate["result"]
    for one in predicate["results"]:
        one["duration_s"] = one.pop("duration_ms") / 1000
    found = msgspec.convert(predicate, type=Evidence)
    found = replace(
        found,
        plan_sha256=planning.digest(found.plan),
        exit_status=evidences.status(found.plan, found.results, 0),
    )
    written = junit.write(found)
    (report / "junit.xml").write_bytes(written)
    found = replace(found, junit_sha256=hashlib.sha256(written).hexdigest())
    path.write_text(json.dumps(evidences._statement(found)))


def nothing(value: dict[str, Any]) -> None:
    """Change nothing: the report is written anew, of what the evidence holds."""


def result(number: int = 1, **fields: object) -> Change:
    return lambda value: value["results"][number].update(fields)


def host(**fields: object) -> Change:
    return lambda value: value["hosts"][0].update(fields)


def fact(**fields: object) -> Change:
    return lambda value: value["hosts"][0]["facts"].update(fields)


def installed(**fields: object) -> Change:
    def change(value: dict[str, Any]) -> None:
        (environment,) = value["hosts"][0]["environments"].values()
        environment["packages"][0].update(fields)

    return change


def stood_in(value: dict[str, Any]) -> None:
    (environment,) = value["hosts"][0]["environments"].values()
    environment["packages"].append(environment["packages"][0] | {"sha256": "0" * 64})


def environment_of_another(value: dict[str, Any]) -> None:
    environments = value["hosts"][0]["environments"]
    environments["noarch/other-1-0.conda"] = dict(*environments.values())


def needs(*specs: str) -> Change:
    def change(value: dict[str, Any]) -> None:
        value["plan"]["packages"][0]["artifact"].update(depends=specs)

    return change


def one_log_for_two_packages(value: dict[str, Any]) -> None:
    value["results"][1]["log"] = "logs/there/odd/001-x.txt"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (fact(os_id="windows", os_name="Windows 7"), "says linux-64, and .* it is Windows 7"),
        (fact(os_id="macos", macos="14.0", os_name="macOS 14.0"), "that it is macOS 14.0"),
        (fact(macos="14.0", os_name=""), "that it is macOS"),
        (fact(arch="aarch64"), "says linux-64, and it said that it is aarch64"),
        (host(facts=None), "it did not say what it is"),
        (host(facts={}), "it did not say what it is"),
        (needs("__glibc >=99"), r"needs __glibc >=99, and the host has __glibc \d"),
        (needs("__osx >=10.9"), "needs __osx >=10.9, and the host has no __osx"),
        (result(exit_status=None), "nothing says with which exit status"),
        (result(0, exit_status=None), "nothing says with which exit status"),
        (host(state="lost"), "inconclusive here: the host was lost"),
        (host(state="unavailable"), "is unavailable"),
        (result(message="It failed."), "passed, and yet its message is 'It failed.'"),
        (host(message="It is broken."), "was tested, and yet its message is 'It is broken.'"),
        (result(0, outcome="error", cause="environment"), "the installation before it is error"),
        (result(0, outcome="failed", cause="uninstallable"), "before it is failed"),
        (result(0, outcome="skipped", cause="recipe"), "before it is skipped"),
        (result(outcome="skipped", cause="timeout"), "reject .*: skipped, and yet timeout"),
        (result(outcome="error", cause="ok"), "reject .*: error, and yet ok"),
        (result(cause="exit-0"), "reject .*: passed, and yet exit-0"),
        (
            result(outcome="skipped", cause="not-applicable"),
            "reject .*: skipped, and yet what belongs to it passed there",
        ),
        (host(environments={}), r"in the environment of 'noarch/odd-1-0.conda', and there was no"),
        (one_log_for_two_packages, "its log is that of something else"),
        (installed(name="odd2"), "other bytes|installed as noarch/odd2"),
        (installed(version="2"), "its bytes were installed as noarch/odd-2-0"),
        (installed(build="1"), "its bytes were installed as noarch/odd-1-1"),
        (installed(subdir="linux-64"), "its bytes were installed as linux-64/odd-1-0"),
        (stood_in, "odd 1 0 was installed from other bytes than those of this run's package"),
        (environment_of_another, "'noarch/other-1-0.conda', which is no package"),
        (lambda value: value.update(run_id=""), "'' is not the id of a run"),
        (lambda value: value.update(run_id="1" * 33), "is not the id of a run"),
    ],
)
def test_what_cannot_be_together_is_refused(case: Path, change: Change, says: str) -> None:
    forge(case / "report", nothing)
    assert judged(case).decision is Decision.ACCEPT
    forge(case / "report", change)

    verdict = judged(case)

    assert verdict.decision is not Decision.ACCEPT
    assert re.search(says, said(verdict)), said(verdict)
    assert manualbuild("verify", "report", "--artifacts", "build_artifacts", cwd=case).status != 0


def test_looking_into_a_package_needs_no_host_that_can_have_it(case: Path) -> None:
    """As for a package that is not for a host: what it holds is looked at all the same."""

    def change(value: dict[str, Any]) -> None:
        needs("__glibc >=99")(value)
        value["plan"]["packages"][0]["checks"][1]["kind"] = "contents"
        result(1, exit_status=None)(value)
        for number in (0, 2):
            result(number, outcome="skipped", cause="not-applicable", message="No.")(value)

    forge(case / "report", change)
    assert "cannot have it" not in said(judged(case))
    assert "passed, and yet" not in said(judged(case))


def test_a_host_where_nothing_passed_may_be_another_than_the_matrix_says(case: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        fact(arch="aarch64")(value)
        for number in range(3):
            result(number, outcome="error", cause="host-unavailable", message="No.")(value)

    forge(case / "report", change)
    assert "it said that it is" not in said(judged(case))


TALKS = "test:\n  commands:\n    - echo one\n    - echo two\n"


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of checks that write something, on two hosts."""
    folder = tmp_path_factory.mktemp("talk")
    write_package(folder, f"requirements:\n  run:\n    - __glibc >=2.5\n{TALKS}")
    (folder / "two.toml").write_text('[hosts.a]\nkind = "local"\n[hosts.b]\nkind = "local"\n')
    ran = run_pytest("--recipe", "recipe", "--matrix", "two.toml", "--evidence", "report",
                     cwd=folder)  # fmt: skip
    assert ran.status == 0, ran.out
    return folder


@pytest.fixture
def two(talk: Path, tmp_path: Path) -> Path:
    shutil.copytree(talk, tmp_path / "two")
    return tmp_path / "two"


def test_a_report_of_checks_that_wrote_something_is_accepted(two: Path) -> None:
    assert judged(two).decision is Decision.ACCEPT, said(judged(two))


def test_an_older_glibc_than_the_package_needs_cannot_have_passed(two: Path) -> None:
    forge(two / "report", fact(glibc="2.4"))
    assert "which cannot have it: it needs __glibc >=2.5, and the host has __glibc 2.4." in said(
        judged(two)
    )


def edited(report: Path, change: Change) -> None:
    """Change the evidence alone: that the report has output is told by the report."""
    path = report / "evidence.json"
    statement = json.loads(path.read_text())
    change(statement["predicate"])
    path.write_text(json.dumps(statement))


def test_what_was_written_has_a_log_of_its_own(two: Path) -> None:
    logs = [one["log"] for one in json.loads(
        (two / "report/evidence.json").read_text())["predicate"]["results"]]  # fmt: skip
    edited(two / "report", result(1, log=None))
    assert "it wrote something, and the evidence has no log of it" in said(judged(two))
    edited(two / "report", result(1, log=logs[4]))
    assert f"its log is that of something else: {logs[4]}" in said(judged(two))


def swap(old: str, new: str, count: int = 1) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return change


def doubled(pattern: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, r"\g<0>\g<0>", text, count=1, flags=re.DOTALL)


def without_suites(text: str) -> str:
    return re.sub(r"</?testsuite( [^>]*)?>|<system-(out|err) />", "", text)


def nested(text: str) -> str:
    case = re.search(r"<testcase.*?</testcase>", text, re.DOTALL)
    assert case is not None
    text = text.replace(case.group(), "", 1)
    return text.replace("</testcase>", f"{case.group()}</testcase>", 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (swap('failures="0"', 'failures="3"'), "testsuite 'a': failures is '3', and should be '0'"),
        (swap('tests="3"', 'tests="99"'), "tests is '99', and should be '3'"),
        (swap('name="a"', 'name="z"'), "testsuite 'z': name is 'z', and should be 'a'"),
        (swap('hostname="a"', 'hostname="z"'), "hostname is 'z'"),
        (swap('name="install"', 'name="more"'), "testcase 'more': name is 'more'"),
        (swap('exit_status" value="0"', 'exit_status" value="1"'), "value is '1', and should be"),
        (swap('cause" value="ok"', 'cause" value="timeout"'), "value is 'timeout'"),
        (swap('complete" value="true"', 'complete" value="false"'), "value is 'false'"),
        (swap('state" value="tested"', 'state" value="lost"'), "value is 'lost'"),
        (swap('run_id" value="', 'run_id" value="f'), "run_id': value is 'f"),
        (swap("</testcase>", '<failure xmlns="x" /></testcase>'), "{x}failure is one too many"),
        (swap("</testcase>", "<Failure /></testcase>"), "Failure is one too many"),
        (swap("</testcase>", "<rerunFailure /></testcase>"), "rerunFailure is one too many"),
        (swap("</testsuite>", "<error /></testsuite>"), "error is one too many"),
        (swap("</testsuite>", '<x:testcase xmlns:x="y" /></testsuite>'), "{y}testcase is one too"),
        (doubled('<property name="manualbuild.cause"[^>]*>'), "cause', and should be"),
        (doubled("<properties>.*?</properties>"), "should be|one too many"),
        (lambda text: text.replace("testsuites", "html"), "it should be <testsuites>"),
        (without_suites, "should be"),
        (nested, "lacks|one too many|should be"),
        (swap("<properties>", "<properties>passed"), "text where none belongs"),
        (swap("</testcase>", "</testcase>failed"), "text where none belongs"),
        (swap("<system-out>", '<system-out type="x">'), "system-out is one too many"),
        (swap("<testcase ", '<testcase status="failed" '), "status is 'failed', and should not"),
        (lambda t: re.sub(r'time="[\d.]+"', 'time="9999.000"', t), "time is '9999.000'"),
        (lambda t: re.sub(r'time="[\d.]+"', 'time="1e999"', t), "time is '1e999'"),
    ],
)  # fmt: skip
def test_the_report_is_the_one_that_is_written_of_the_evidence(
    two: Path, change: Callable[[str], str], says: str
) -> None:
    path = two / "report/junit.xml"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(two / "report", lambda value: value.update(junit_sha256=digest))

    verdict = judged(two)

    assert verdict.decision is Decision.REJECT
    (reason,) = [one.text for one in verdict.reasons]
    assert reason.startswith("junit.xml and the evidence differ: ")
    assert re.search(says, reason), reason


def test_what_checks_wrote_may_be_left_out_of_the_report(two: Path) -> None:
    """As the writer does it to stay below a size that dashboards bear."""
    forge(two / "report", nothing)
    assert "echo" not in re.sub("commands.*", "", (two / "report/junit.xml").read_text())
    assert judged(two).decision is Decision.ACCEPT, said(judged(two))


ODD = "a\rb\0c\n\td <&> \ud800 \x1b[0m \u2028"


def test_a_report_of_odd_words_and_times_is_that_of_its_evidence(case: Path) -> None:
    found = evidences.read(case / "report").evidence
    first, *others = found.results
    odd = replace(
        first, outcome=Outcome.FAILED, cause=Cause.TIMEOUT, message=ODD, stdout=ODD, stderr=ODD
    )
    results = (odd, *(replace(one, duration_s=0.0015, stdout=ODD) for one in others))
    ran = replace(found, results=results)
    read_back = [replace(one, duration_s=round(one.duration_s, 3)) for one in results]

    root = junit.parse(junit.write(ran))

    assert junit.difference(replace(found, results=tuple(read_back)), root) == ""


@pytest.mark.parametrize("encoding", ["utf-99", "hex", "rot13", "ucs-4"])
def test_a_report_in_an_unknown_encoding_cannot_be_read(case: Path, encoding: str) -> None:
    path = case / "report/junit.xml"
    path.write_text(path.read_text().replace("utf-8", encoding, 1))

    for words in (("verify", "report"), ("upload", "report", "--to", "channel")):
        ran = manualbuild(*words, "--artifacts", "build_artifacts", cwd=case)
        assert (ran.status, "Traceback" in ran.out) == (1, False), ran.out
        assert "junit.xml cannot be read" in ran.out
    ran = manualbuild("verify-channel", "report", "--of", "build_artifacts", cwd=case)
    assert (ran.status, "Traceback" in ran.out) == (1, False), ran.out


@pytest.mark.parametrize(
    ("subdir", "found"),
    [
        ("linux-64", facts.heard("a", 0, DEBIAN % b"x86_64")),
        ("linux-32", facts.heard("a", 0, DEBIAN % b"x86_64")),
        ("linux-32", facts.heard("a", 0, DEBIAN % b"i686")),
        ("linux-aarch64", facts.heard("a", 0, DEBIAN % b"aarch64")),
        ("linux-ppc64le", facts.heard("a", 0, DEBIAN % b"ppc64le")),
        ("linux-s390x", facts.heard("a", 0, DEBIAN % b"s390x")),
        ("linux-riscv64", facts.heard("a", 0, DEBIAN % b"riscv64")),
        ("osx-64", facts.heard("a", 0, MAC % b"x86_64")),
        ("osx-64", facts.heard("a", 0, MAC % b"arm64")),
        ("osx-arm64", facts.heard("a", 0, MAC % b"arm64")),
        ("win-64", facts.parse_windows(WINDOWS % b"AMD64")),
        ("win-64", facts.parse_windows(WINDOWS % b"ARM64")),
        ("win-arm64", facts.parse_windows(WINDOWS % b"ARM64")),
        ("win-32", facts.parse_windows(WINDOWS % b"x86")),
        ("win-32", facts.parse_windows(WINDOWS % b"AMD64")),
        ("linux-64", Facts(kernel="6.1", arch="x86_64")),  # a system that names itself nowhere
        ("linux-64", Facts()),
    ],
)
def test_the_facts_of_each_kind_of_host_fit_its_subdir(subdir: str, found: Facts) -> None:
    assert facts.mismatch(subdir, found) == ""


@pytest.mark.parametrize(
    ("subdir", "found"),
    [
        ("win-64", facts.heard("a", 0, DEBIAN % b"x86_64")),
        ("osx-64", facts.heard("a", 0, DEBIAN % b"x86_64")),
        ("linux-64", facts.heard("a", 0, MAC % b"x86_64")),
        ("linux-64", facts.parse_windows(WINDOWS % b"AMD64")),
        ("osx-64", facts.parse_windows(WINDOWS % b"AMD64")),
        ("linux-aarch64", facts.heard("a", 0, DEBIAN % b"x86_64")),
        ("osx-arm64", facts.heard("a", 0, MAC % b"x86_64")),
        ("osx-64", replace(facts.heard("a", 0, MAC % b"x86_64"), glibc="2.36")),
    ],
)
def test_the_facts_of_another_system_do_not(subdir: str, found: Facts) -> None:
    assert facts.mismatch(subdir, found)


@pytest.mark.parametrize(
    ("spec", "glibc", "met"),
    [
        ("__glibc >=2.17", "2.17", True),
        ("__glibc >=2.17,<3.0.a0", "2.36", True),
        ("__glibc >=2.17.0", "2.17", True),
        ("__glibc >=2.30|<2.17", "2.5", True),
        ("__glibc !=2.40", "2.36", True),
        ("__glibc", "2.5", True),
        ("__unix", "2.5", True),
        ("__archspec 1 x86_64", "2.5", True),
        ("__glibc >=2.30", "2.5", False),
        ("__glibc>=2.30", "2.17", False),
        ("__win", "2.36", False),
        ("__cuda >=12", "2.36", False),
    ],
)
def test_what_a_package_demands_of_the_system(
    case: Path, spec: str, glibc: str, *, met: bool
) -> None:
    stored = evidences.read(case / "report")
    artifact = replace(stored.evidence.plan.packages[0].artifact, depends=(spec,))
    has = Facts(kernel="6.1.0", arch="x86_64", glibc=glibc)
    assert (coherence._unmet(artifact, has, "linux-64") == "") is met


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("junit.xml", "junit.xml is missing."),
        ("matrix.toml", "is missing: matrix.toml."),
    ],
)
def test_what_is_missing_is_said_once(case: Path, name: str, says: str) -> None:
    (case / "report" / name).unlink()
    (reason,) = judged(case).reasons
    assert reason.text.endswith(says)


def test_a_missing_log_and_a_missing_package_are_named(two: Path) -> None:
    log = next((two / "report/logs").rglob("*.txt"))
    log.unlink()
    name = log.relative_to(two / "report").as_posix()
    assert [one.text for one in judged(two).reasons] == [f"The log {name} is missing."]
    for words in (("verify", "report"), ("upload", "report", "--to", "channel")):
        ran = manualbuild(*words, "--artifacts", "mistyped", cwd=two)
        assert "noarch/odd-1-0.conda: mistyped/noarch/odd-1-0.conda is not there." in ran.out


def test_tools_in_an_environment_of_their_own_hinder_nothing(two: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        environments = value["hosts"][0]["environments"]
        (key,) = environments
        environments[f"{key} (build)"] = {**environments[key], "packages": []}

    forge(two / "report", change)
    assert judged(two).decision is Decision.ACCEPT, said(judged(two))
