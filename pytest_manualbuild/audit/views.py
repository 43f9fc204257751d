"""Shows audits as text, as JSON, and as SARIF for the dashboards of code hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import pytest_manualbuild
from pytest_manualbuild.audit import Audit
from pytest_manualbuild.audit.forecast import Prediction
from pytest_manualbuild.records import Finding, Severity

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def text(package: str, audit: Audit, predictions: Sequence[Prediction] = ()) -> str:
    """Return an audit in lines for people."""
    counts = {s: sum(f.severity is s for f in audit.findings) for s in Severity}
    words = [f"{count} {s}{'s' * (count != 1)}" for s, count in counts.items() if count]
    lines = [f"{package}: {', '.join(words) or 'nothing found'}"]
    for found in audit.findings:
        where = f"{_plain(found.file)}: " if found.file else ""
        lines.append(f"  {found.severity:7} {found.code}: {where}{_plain(found.message)}")
        if found.severity is not Severity.NOTE:
            lines.append(f"          {_plain(found.remedy)}")
    lines += [f"  predicted on {p.host}: {p.forecast}. {_plain(p.reason)}" for p in predictions]
    return "\n".join(lines) + "\n"


def _plain(words: str) -> str:
    """Keep a package from writing to the terminal what is not text."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in words)


def to_json(
    audits: Mapping[str, Audit], predictions: Mapping[str, Sequence[Prediction]]
) -> dict[str, Any]:
    """Return audits as plain values."""
    return {
        "version": 1,
        "packages": [
            {
                "package": package,
                "findings": [msgspec.to_builtins(found) for found in audit.findings],
                "binaries": [msgspec.to_builtins(binary) for binary in audit.binaries],
                "predictions": [msgspec.to_builtins(p) for p in predictions.get(package, ())],
            }
            for package, audit in audits.items()
        ],
    }


def to_sarif(audits: Mapping[str, Audit]) -> dict[str, Any]:
    """Return audits as one SARIF 2.1.0 run; a place is ``PACKAGE/MEMBER``."""
    rules: dict[str, Finding] = {}
    results = []
    for package, audit in audits.items():
        for found in audit.findings:
            rules.setdefault(found.code, found)
            place = f"{package}/{found.file}" if found.file else package
            results.append(
                {
                    "ruleId": found.code,
                    "level": str(found.severity),
                    "message": {"text": f"{found.message} {found.remedy}"},
                    "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(place)}}}],
                }
            )
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "manualbuild audit",
                        "version": pytest_manualbuild.__version__,
                        "rules": [
                            {
                                "id": code,
                                "shortDescription": {"text": code.replace("-", " ")},
                                "help": {"text": rule.remedy},
                            }
                            for code, rule in sorted(rules.items())
                        ],
                    }
                },
                "results": results,
            }
        ],
    }


def _uri(place: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 # only here

    return quote(place.encode(errors="surrogateescape"), safe="/")
