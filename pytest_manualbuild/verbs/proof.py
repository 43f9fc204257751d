"""The verbs that judge: policy, approve, waive, verify, compare."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_manualbuild.verbs import place

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse's type

Verb = Callable[[argparse.Namespace], int]


def add(verbs: Verbs) -> None:
    """Add these verbs to the parser of the command line."""
    policy = verbs.add_parser("policy", help="look at what a policy demands")
    check = policy.add_subparsers(required=True, metavar="ACTION").add_parser(
        "check", help="check a policy file and say in words what it demands"
    )
    check.add_argument("policy", type=Path, metavar="FILE")
    check.set_defaults(verb=_policy_check)

    approve = _add(
        verbs, "approve", "sign a report, as who ran it or as who looked at it", _approve
    )
    _sign_options(approve)
    approve.add_argument("--role", choices=("approve", "report"), default="approve",
                         help="report: I built this and ran these tests")  # fmt: skip
    approve.add_argument("--checked", metavar="WHAT[,WHAT]", default="log,audit",
                         help="log, audit, rebuild, run; default: %(default)s")  # fmt: skip
    approve.add_argument("--note", default="", metavar="TEXT")

    waive = _add(verbs, "waive", "let one check not matter for a while; signed", _waive)
    _sign_options(waive)
    waive.add_argument("--package", required=True, metavar="NAME")
    waive.add_argument("--version", required=True, metavar="VERSION")
    waive.add_argument("--host", required=True, metavar="HOST", help="or '*', with one check")
    waive.add_argument("--check", required=True, metavar="CHECK", help="or '*', with one host")
    waive.add_argument("--reason", required=True, metavar="TEXT")
    waive.add_argument("--link", required=True, metavar="URL", help="where it is discussed")
    waive.add_argument("--expires", type=_date, metavar="YYYY-MM-DD",
                       help="at most 90 days from now; default: 30")  # fmt: skip

    verify = _add(verbs, "verify", "judge a report: 0 accept, 1 reject, 8 inconclusive", _verify)
    verify.add_argument("--json", action="store_true", help="print the verdict as JSON")
    other = verbs.add_parser("compare", help="compare two builds: 0 the same, 1 they differ")
    other.add_argument("first", type=Path, metavar="PACKAGE")
    other.add_argument("second", type=Path, metavar="PACKAGE")
    other.set_defaults(verb=_compare)
    verify.add_argument("--artifacts", type=place, metavar="DIR")
    verify.add_argument("--policy", type=Path, metavar="FILE")


def _add(verbs: Verbs, name: str, words: str, verb: Verb) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=words)
    parser.add_argument("evidence", type=place, metavar="EVIDENCE")
    parser.set_defaults(verb=verb)
    return parser


def _sign_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, required=True, metavar="FILE",
                        help="your SSH key; a public one is looked for in the agent")  # fmt: skip
    parser.add_argument("--policy", type=Path, required=True, metavar="FILE")


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-01-31") from error


def _policy_check(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild.gate import explain, policy  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.reports.text import visible  # noqa: PLC0415

    for sentence in explain.explain(policy.load(arguments.policy)):
        sys.stdout.write(f"{visible(sentence)}\n")
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild.gate import approvals, policy  # noqa: PLC0415 # only what the verb needs

    loaded = policy.load(arguments.policy)
    if arguments.role == "report":
        signature = approvals.sign_report(arguments.evidence, arguments.key, loaded)
        file = arguments.evidence / "evidence.json.sig"
    else:
        checked = tuple(arguments.checked.split(","))
        file, signature = approvals.approve(
            arguments.evidence, arguments.key, loaded, checked, arguments.note
        )
    sys.stdout.write(f"{file}: signed by {signature.principal}, key {signature.fingerprint}\n")
    return 0


def _waive(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild.gate import approvals, policy  # noqa: PLC0415 # only what the verb needs

    today = datetime.now(UTC).date()
    waiver = approvals.Waiver(
        id=approvals.waiver_id(
            arguments.package, arguments.version, arguments.host, arguments.check
        ),
        package=arguments.package,
        version=arguments.version,
        host=arguments.host,
        check=arguments.check,
        reason=arguments.reason,
        link=arguments.link,
        created=today,
        expires=arguments.expires or today + timedelta(days=30),
    )
    file, signature = approvals.waive(
        arguments.evidence, arguments.key, policy.load(arguments.policy), waiver
    )
    sys.stdout.write(f"{file}: signed by {signature.principal}, until {waiver.expires}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild.gate import policy, verify  # noqa: PLC0415 # only what the verb needs

    found = verify.verify(
        arguments.evidence, arguments.artifacts, policy.load(arguments.policy)
    ).verdict
    sys.stdout.write(
        json.dumps(found.to_json(), indent=2) + "\n" if arguments.json else found.text()
    )
    return found.exit_code


def _compare(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import compare, diffoscope  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.reports.text import visible  # noqa: PLC0415

    found = compare.compare(arguments.first, arguments.second)
    sys.stdout.write(found.text())
    differing = [one.file for one in found.differences if one.in_bytes]
    said = diffoscope.explain(arguments.first, arguments.second, differing)
    if said is not None:
        sys.stdout.write("\ndiffoscope says:\n")
        sys.stdout.writelines(f"{visible(line)}\n" for line in said.splitlines())
    return 1 if found.likeness is compare.Likeness.DIFFERS else 0
