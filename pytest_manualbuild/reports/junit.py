"""The JUnit report: one suite for each host, one case for each planned check, nothing left out."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from datetime import UTC, datetime
from xml.etree import ElementTree as ET  # writing; reading is defusedxml's

import msgspec

from pytest_manualbuild.errors import EvidenceError
from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.records import CheckResult, HostRecord, Outcome

MOST_BYTES = 25 * 1024 * 1024
"""Above this the dashboards give up; output of passed checks is dropped first."""
MOST_DEPTH = 16
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {
    Outcome.FAILED: "failure",
    Outcome.ERROR: "error",
    Outcome.SKIPPED: "skipped",
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test case of a JUnit report, as it was read back."""

    host: str
    artifact: str
    sha256: str
    check: str
    outcome: Outcome


def write(evidence: Evidence) -> bytes:
    """Return the report. Its output is cut, passed checks first, to stay below 25 MiB."""
    for kept in (set(Outcome), {Outcome.FAILED, Outcome.ERROR}):
        report = _write(evidence, kept)
        if len(report) <= MOST_BYTES:
            return report
    return _write(evidence, set())


def _write(evidence: Evidence, output_of: set[Outcome]) -> bytes:
    root = ET.Element("testsuites")
    by_host: dict[str, list[CheckResult]] = defaultdict(list)
    for result in evidence.results:
        by_host[result.host].append(result)
    for number, host in enumerate(h for h in evidence.hosts if h.name in by_host):
        root.append(_suite(evidence, host, by_host[host.name], number, output_of))
    ET.indent(root)
    file = io.BytesIO()
    ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    return file.getvalue() + b"\n"


def _suite(
    evidence: Evidence,
    host: HostRecord,
    results: list[CheckResult],
    number: int,
    output_of: set[Outcome],
) -> ET.Element:
    counts = {o: sum(r.outcome is o for r in results) for o in Outcome}
    started = datetime.fromisoformat(evidence.started).astimezone(UTC)
    suite = ET.Element(
        "testsuite",
        {
            "name": host.name,
            "package": "manualbuild",
            "id": str(number),
            "hostname": host.name,
            "timestamp": started.strftime("%Y-%m-%dT%H:%M:%S"),
            "tests": str(len(results)),
            "failures": str(counts[Outcome.FAILED]),
            "errors": str(counts[Outcome.ERROR]),
            "skipped": str(counts[Outcome.SKIPPED]),
            "time": f"{sum(r.duration_s for r in results):.3f}",
        },
    )
    facts = {"run_id": evidence.run_id, "complete": str(evidence.complete).lower()}
    facts |= {"plan_sha256": evidence.plan_sha256, "state": host.state}
    if host.facts is not None:
        facts |= {"os": host.facts.os_name, "kernel": host.facts.kernel, "arch": host.facts.arch}
        facts |= {
            "glibc": host.facts.glibc or "",
            "image": host.facts.image_digest or host.facts.origin or "",
        }
    _properties(suite, {name: value for name, value in facts.items() if value})
    for result in results:
        suite.append(_case(evidence, result, output_of))
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    return suite


def _case(evidence: Evidence, result: CheckResult, output_of: set[Outcome]) -> ET.Element:
    planned = evidence.plan.package(result.package)
    host, label = result.host.replace(".", "_"), planned.label.replace(".", "_")
    case = ET.Element(
        "testcase",
        {
            "classname": f"{host}.{label}",
            "name": _clean(result.check),
            "time": f"{result.duration_s:.3f}",
        },
    )
    properties = {
        "sha256": planned.artifact.sha256,
        "artifact": result.package,
        "host": result.host,
        "check": result.check,
        "cause": result.cause,
        "exit_status": "" if result.exit_status is None else str(result.exit_status),
    }
    _properties(case, properties)
    if result.outcome is not Outcome.PASSED:
        message = _clean(result.message)
        ET.SubElement(
            case, _ELEMENTS[result.outcome], {"type": str(result.cause), "message": message}
        ).text = message
    if result.outcome in output_of:
        for name, text in (("system-out", result.stdout), ("system-err", result.stderr)):
            if text:
                ET.SubElement(case, name).text = _clean(text)
    return case


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(
            properties, "property", {"name": f"manualbuild.{name}", "value": _clean(value)}
        )


def _clean(text: str) -> str:
    """Show what XML forbids, and escape sequences, instead of writing it."""
    return _FORBIDDEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def read(data: bytes) -> list[Case]:
    """Return the cases of a report; EvidenceError for what is malformed or hostile."""
    from defusedxml import ElementTree as Safe  # noqa: PLC0415 # only the gate reads
    from defusedxml.common import DefusedXmlException  # noqa: PLC0415

    try:
        if len(data) > 2 * MOST_BYTES:
            raise ValueError("too large")
        depth, cases = 0, []
        for event, element in Safe.iterparse(
            io.BytesIO(data), events=("start", "end"), forbid_dtd=True
        ):
            depth += 1 if event == "start" else -1
            if depth > MOST_DEPTH:
                raise ValueError("nested too deeply")
            if event == "end" and element.tag == "testcase":
                cases.append(_read_case(element))
    except (ET.ParseError, DefusedXmlException, ValueError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise EvidenceError(
            f"junit.xml: not a report as this tool writes it ({reason}).",
            remedy="Run the tests again.",
        ) from error
    return cases


def _read_case(element: ET.Element) -> Case:
    values = {
        one.attrib["name"].removeprefix("manualbuild."): one.attrib["value"]
        for one in element.iterfind("properties/property")
    }
    outcomes = [outcome for outcome, tag in _ELEMENTS.items() if element.find(tag) is not None]
    if len(outcomes) > 1:
        raise ValueError("a case has two results")
    return Case(
        host=values["host"],
        artifact=values["artifact"],
        sha256=values["sha256"],
        check=values["check"],
        outcome=outcomes[0] if outcomes else Outcome.PASSED,
    )
