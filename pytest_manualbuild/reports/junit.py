"""The JUnit report: one suite for each host, one case for each planned check, nothing left out."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import zip_longest
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

_TOLD = {"system-out", "system-err", *_ELEMENTS.values()}
"""Elements whose text is not compared."""
_TIME = re.compile(r"[0-9]{1,15}\.[0-9]{3}")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test case of a JUnit report, as it was read back."""

    host: str
    artifact: str
    sha256: str
    check: str
    outcome: Outcome
    wrote: bool = False
    """Whether the report has anything that the check wrote."""


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


def parse(data: bytes) -> ET.Element:
    """Return the root of a report; EvidenceError for what is malformed or hostile."""
    from defusedxml import ElementTree as Safe  # noqa: PLC0415 # only the gate reads
    from defusedxml.common import DefusedXmlException  # noqa: PLC0415

    try:
        if len(data) > 2 * MOST_BYTES:
            raise ValueError("too large")
        depth = 0
        root: ET.Element | None = None
        for event, element in Safe.iterparse(
            io.BytesIO(data), events=("start", "end"), forbid_dtd=True
        ):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > MOST_DEPTH:
                raise ValueError("nested too deeply")
        if root is None:
            raise ValueError("empty")
    # LookupError: it names an encoding that Python does not know, or that is none of text.
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise _foreign(error) from error
    return root


def read(data: bytes) -> list[Case]:
    """Return the cases of a report; EvidenceError for what is malformed or hostile."""
    return cases(parse(data))


def cases(root: ET.Element) -> list[Case]:
    """Return the cases below an element; EvidenceError for one as this tool writes none."""
    try:
        return [_read_case(element) for element in root.iter("testcase")]
    except (ValueError, KeyError) as error:
        raise _foreign(error) from error


def difference(evidence: Evidence, root: ET.Element) -> str:
    """Say where a report is not the one that is written of this evidence; empty: nowhere.

    Evidence holds no output, so what a check wrote is not compared.
    """
    try:
        ours = parse(_write(evidence, set()))
    except (EvidenceError, ValueError, KeyError, OverflowError):
        return "no report can be written of this evidence"
    return _difference(ours, root, root.tag)


def _difference(ours: ET.Element, theirs: ET.Element, where: str) -> str:
    if found := _own_difference(ours, theirs):
        return f"{where}: {found}"
    children = [*theirs]
    if ours.tag == "testcase":
        children = children[: len(children) - _outputs(children)]
    for mine, other in zip_longest(ours, children):
        if mine is None or other is None:
            name = _named(mine if other is None else other)
            return f"{where}: {f'it lacks {name}' if other is None else f'{name} is one too many'}"
        if found := _difference(mine, other, f"{where}/{_named(other)}"):
            return found
    return ""


def _own_difference(ours: ET.Element, theirs: ET.Element) -> str:
    """Say in what an element differs, those in it aside."""
    if ours.tag != theirs.tag:
        return f"it should be <{ours.tag}>"
    for name in sorted(ours.attrib.keys() | theirs.attrib.keys()):
        one, other = ours.get(name), theirs.get(name)
        if one != other and not (name == "time" and _same_time(ours, one, other)):
            should = "should not be there" if one is None else f"should be {one!r}"
            return f"{name} is {'not there' if other is None else repr(other)}, and {should}"
    if _is_text(theirs.tail) or (ours.tag not in _TOLD and _is_text(theirs.text)):
        return "there is text where none belongs"
    return ""


def _outputs(children: Sequence[ET.Element]) -> int:
    """Return how many of the last children of a case are what its check wrote."""
    for names in (("system-out", "system-err"), ("system-out",), ("system-err",)):
        last = children[-len(names) :]
        plain = not any(one.attrib or len(one) or _is_text(one.tail) for one in last)
        if tuple(one.tag for one in last) == names and plain:
            return len(names)
    return 0


def _same_time(ours: ET.Element, one: str | None, other: str | None) -> bool:
    """Say whether two times may be of the same results: evidence has them in milliseconds."""
    times = [text for text in (one, other) if text is not None and _TIME.fullmatch(text)]
    if len(times) < len((one, other)):
        return False
    slack_ms = 1 + (len(ours.findall("testcase")) + 1) / 2
    return abs(float(times[0]) - float(times[1])) * 1000 <= slack_ms


def _is_text(text: str | None) -> bool:
    return bool(text and text.strip())


def _named(element: ET.Element) -> str:
    name = element.get("name")
    return element.tag if name is None else f"{element.tag} {name!r}"


def _foreign(error: Exception) -> EvidenceError:
    reason = str(error) or type(error).__name__
    return EvidenceError(
        f"junit.xml: not a report as this tool writes it ({reason}).",
        remedy="Run the tests again.",
    )


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
        wrote=any(element.findtext(name) for name in ("system-out", "system-err")),
    )
