"""The grid as Markdown, for a comment in a pull request."""

from __future__ import annotations

from pytest_manualbuild.evidence import Evidence
from pytest_manualbuild.reports.terminal import word


def render(evidence: Evidence) -> str:
    """Return the summary: a grid for each package, the hosts, and what the run left out."""
    lines = ["# Tests of packages built by hand", ""]
    lines += [f"**Not complete:** {reason}" for reason in evidence.narrowed]
    results = {(r.host, r.package, r.check): r for r in evidence.results}
    for planned in evidence.plan.packages:
        key = planned.artifact.key
        hosts = [cell.host for cell in evidence.plan.cells if cell.package == key]
        lines += ["", f"## {plain(key)}", "", f"sha256 `{planned.artifact.sha256}`", ""]
        lines.append(f"| check | {' | '.join(hosts)} |")
        lines.append("| --- " * (len(hosts) + 1) + "|")
        for check in planned.checks:
            cells = [word(results.get((host, key, check.name)))[0] for host in hosts]
            lines.append(f"| {plain(check.name)} | {' | '.join(cells)} |")
    lines += ["", "## Hosts", ""]
    for host in evidence.hosts:
        facts = host.facts
        said = f"{facts.os_name}, kernel {facts.kernel}, glibc {facts.glibc}" if facts else ""
        lines.append(f"- {host.name}: {host.state}. {plain(said)} {plain(host.message)}".rstrip())
    lines += ["", f"Run {evidence.run_id}, {evidence.started} to {evidence.finished}."]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Keep a stranger's text from being Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#" else c for c in text if c.isprintable())
