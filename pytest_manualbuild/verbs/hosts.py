"""The verb ``hosts``: look at, check, enter and clean up hosts."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from pytest_manualbuild.errors import HostError, HostUnavailable
from pytest_manualbuild.model import Facts, Host

if TYPE_CHECKING:
    from pytest_manualbuild.hosts.kept import Kept


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text} must be a number above 0")


def add(verbs: Any) -> None:  # noqa: ANN401 # argparse's name for it is private
    """Add the verb to the parser's."""
    hosts = verbs.add_parser("hosts", help="look at, check and clean up hosts")
    actions = hosts.add_subparsers(required=True, metavar="ACTION")
    for name, text, verb in (
        ("list", "the hosts of a matrix: which can be used, and what each is", _list),
        ("probe", "the same, with exit status 16 if one cannot be used", _probe),
        ("sweep", "remove what killed runs left behind, and the hosts that were kept", _sweep),
    ):
        action = actions.add_parser(name, help=text)
        if name != "sweep":
            action.add_argument("--matrix", metavar="NAME|FILE")
            action.add_argument("--on", metavar="GLOB", default="*")
            action.add_argument(
                "--timeout",
                type=_seconds,
                metavar="S",
                default=60.0,
                help="seconds that one host may take (default: 60)",
            )
        action.set_defaults(verb=verb)

    shell = actions.add_parser("shell", help="a shell on a host that a run kept (--keep)")
    shell.add_argument("host", metavar="HOST")
    shell.add_argument("--run", metavar="ID", help="the run that kept it (default: the last one)")
    shell.add_argument(
        "--package", metavar="NAME", help="whose environment (default: that of the first failure)"
    )
    shell.add_argument("-c", dest="command", metavar="COMMAND", help="run this, and no shell")
    shell.set_defaults(verb=_shell)


def _list(arguments: argparse.Namespace) -> int:
    _ask_hosts(arguments)
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    return HostError.exit_code if _ask_hosts(arguments) else 0


def _ask_hosts(arguments: argparse.Namespace) -> int:
    """Show each host with what it says of itself; return how many say nothing."""
    from pytest_manualbuild import hosts  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.hosts import kept, survey  # noqa: PLC0415
    from pytest_manualbuild.hosts.runs import Run  # noqa: PLC0415

    wanted = _selected(arguments)
    hosts.sweep_dead()
    run = Run.begin()
    silent = 0
    try:
        for answer in survey.ask(wanted, run, limit_s=arguments.timeout):
            sys.stdout.write(_described(answer.host))
            if answer.facts is None:
                silent += 1
                sys.stdout.write(f"    not usable ({answer.took_s:.1f} s): {answer.problem}\n")
                continue
            said = ", ".join(_words(answer.facts))
            sys.stdout.write(f"    reachable in {answer.took_s:.1f} s: {said}\n")
            for note in answer.facts.notes:
                sys.stdout.write(f"    note: {note}\n")
    finally:
        hosts.sweep(run)
    for one in kept.every():
        sys.stdout.write(_described_kept(one))
    return silent


def _described_kept(one: Kept) -> str:
    packages = ", ".join(
        f"{part.package} (failed)" if part.failed else part.package for part in one.sections
    )
    call = f"manualbuild hosts shell {one.host.name} --run {one.run_id[:12]}"
    return f"kept: {one.host.name} {one.host.kind} since {one.at[:16]}: {packages}\n    {call}\n"


def _shell(arguments: argparse.Namespace) -> int:
    """Run bash on a kept host, as its tests had it; return its exit status."""
    from pytest_manualbuild import hosts  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.hosts import kept  # noqa: PLC0415
    from pytest_manualbuild.hosts.runs import Run  # noqa: PLC0415

    one = kept.find(arguments.host, arguments.run, arguments.package)
    section = one.section(arguments.package)
    terminal = arguments.command is None and sys.stdin.isatty()
    values = dict(one.environment)
    if terminal:
        values["TERM"] = os.environ.get("TERM", "xterm")
    bash = kept.bash(section, arguments.command, terminal=terminal)
    words = ["env", "-i", *(f"{name}={value}" for name, value in values.items()), *bash]
    sys.stderr.write(
        f"{one.host.name} ({one.host.kind}, run {one.run_id[:12]}): the environment of"
        f" {section.package}{', whose tests failed' if section.failed else ''}\n"
    )
    sys.stderr.flush()
    run = Run.begin()
    try:
        with (
            kept.held(one),
            hosts.keeper(one.host).call(one, run, words, terminal=terminal) as call,
        ):
            done = subprocess.run(call.argv, env=dict(call.environment), cwd="/", check=False)
    except OSError as error:
        raise HostUnavailable(
            f"{one.host.name}: no shell can be started on it: {error.strerror}.",
            remedy="Is everything there that hosts of its kind need?",
        ) from error
    finally:
        hosts.sweep(run)
    # As a shell tells of a signal.
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _described(host: Host) -> str:
    what = host.image or host.address or host.root or ""
    marks = ["required" if host.required else "optional"]
    marks += ["stand-in"] * host.standin + [f"end of life {host.eol}"] * bool(host.eol)
    return f"{host.name:20} {host.kind:8} {host.subdir:14} {what}  ({', '.join(marks)})\n"


def _words(facts: Facts) -> list[str]:
    words = [facts.os_name, facts.arch, f"kernel {facts.kernel}"]
    words += [f"glibc {facts.glibc}"] * bool(facts.glibc)
    words += [f"macOS {facts.macos}"] * bool(facts.macos)
    words += [f"image {facts.image_digest}"] * bool(facts.image_digest)
    words += [facts.origin] if facts.origin else []
    words += [f"host key {facts.host_key}"] * bool(facts.host_key)
    return words


def _sweep(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import hosts  # noqa: PLC0415 # only what the verb needs

    del arguments
    removed, problems = hosts.sweep_kept()
    for line in removed:
        sys.stdout.write(f"removed {line}\n")
    if not removed and not problems:
        sys.stdout.write("Nothing was left behind.\n")
    for problem in problems:
        sys.stderr.write(f"manualbuild: {problem}\n")
    return HostError.exit_code if problems else 0


def _selected(arguments: argparse.Namespace) -> list[Host]:
    from pytest_manualbuild import matrix  # noqa: PLC0415 # only what the verb needs

    return matrix.select(matrix.load(arguments.matrix), arguments.on)
