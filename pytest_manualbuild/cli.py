"""The ``manualbuild`` command: reads arguments, calls one verb, prints what it says.

Errors that the user can do something about become one line and an exit status;
the verbs themselves print nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_manualbuild import errors, outfiles
from pytest_manualbuild.errors import ArtifactError, ManualBuildError, RecipeError
from pytest_manualbuild.model import SUBDIRS
from pytest_manualbuild.reports.text import shown
from pytest_manualbuild.verbs import hosts, making, place, proof, publishing

BROKEN_PIPE = 141  # what a shell reports for a program that wrote to a closed pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status of the process."""
    _speak()
    parsed = _parser().parse_args(arguments)
    verb: Callable[[argparse.Namespace], int] = parsed.verb
    try:
        with _orderly():
            _look_where_we_are()
            return verb(parsed)
    except _Ended as ended:
        with contextlib.suppress(OSError):  # the terminal may be what went away
            sys.stderr.write(f"manualbuild: ended by {ended.number.name}.\n")
            sys.stderr.flush()
        return 128 + ended.number
    except ManualBuildError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("manualbuild: interrupted.\n")
        return 130
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        _tell(errors.of_system(error))
        return ManualBuildError.exit_code


def _speak() -> None:
    """Have streams that take every text: one that the caller closed is none, and its number free.

    The next file to be opened would get that number, and the words of child processes with it.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, flags), "r" if name == "stdin" else "w")
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: names may be any text


def _tell(error: ManualBuildError) -> None:
    sys.stderr.write(f"manualbuild: {shown(error)}\n")


class _Ended(KeyboardInterrupt):
    """A signal asks for our end: what cleans up after Ctrl-C cleans up after it as well."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _orderly() -> Iterator[None]:
    """Make TERM and HUP an orderly end: no copies are left, no build goes on unfollowed."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGHUP)
        # As it was started: `nohup` has HUP ignored. Only the main thread gets signals.
        if signal.getsignal(number) is signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    }

    def end(number: int, _: object) -> None:
        for one in before:  # a second one must not cut the clean-up
            signal.signal(one, lambda *_: None)
        raise _Ended(signal.Signals(number))

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _look_where_we_are() -> None:
    """Say clearly that the current folder was removed; whatever is relative to it is lost."""
    try:
        Path.cwd()
    except OSError as error:
        raise ManualBuildError(
            "The current folder is not there any more.", remedy="Go to another one (cd)."
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manualbuild",
        description="Prove conda packages built by hand, and publish only what was proven.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="show what would be tested where; touches no host")
    plan.add_argument("--recipe", type=place, required=True, metavar="DIR")
    plan.add_argument("--artifacts", type=place, metavar="DIR")
    plan.add_argument("--matrix", metavar="NAME|FILE")
    plan.add_argument("--on", metavar="GLOB")
    plan.add_argument("--json", action="store_true", help="print it as JSON (docs/recipes.md)")
    plan.add_argument("--subdir", choices=SUBDIRS, help="default: that of the matrix's first host")
    plan.add_argument(
        *("-m", "--variant-config"),
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="variants, after the recipe's own conda_build_config.yaml",
    )
    plan.add_argument(
        "--exclusive-config", type=Path, metavar="FILE", help="variants, in place of the recipe's"
    )
    plan.add_argument("--renderer", choices=("own", "conda-build"), default="own",
                      help="what renders a meta.yaml (default: own)")  # fmt: skip
    plan.add_argument("--recipe-tests", action="store_true",
                      help="with the recipe's own tests/test_*.py, as in pytest")  # fmt: skip
    plan.add_argument("--compare-renderers", action="store_true",
                      help="print where they differ; exit status 1 if they do")  # fmt: skip
    plan.set_defaults(verb=_plan)

    hosts.add(verbs)

    audit = verbs.add_parser("audit", help="look for what must not be in a package, and why not")
    audit.add_argument("packages", type=Path, nargs="+", metavar="PACKAGE")
    audit.add_argument("--json", action="store_true", help="print findings and binaries as JSON")
    audit.add_argument("--sarif", type=Path, metavar="FILE", help="write them for dashboards, too")
    audit.add_argument("--matrix", metavar="NAME|FILE", help="predict what runs on its hosts")
    audit.set_defaults(verb=_audit)

    making.add(verbs)
    proof.add(verbs)
    publishing.add(verbs)
    return parser


def _plan(arguments: argparse.Namespace) -> int:
    try:
        return _planned(arguments)
    except RecipeError as error:
        _tell(error)
        return 1


def _planned(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import matrix, outline, package, plan, recipe  # noqa: PLC0415
    from pytest_manualbuild.reports import terminal  # noqa: PLC0415

    machines = matrix.load(arguments.matrix)
    subdir = arguments.subdir or machines.hosts[0].subdir
    configs, exclusive = arguments.variant_config, arguments.exclusive_config
    if arguments.compare_renderers:
        differ = outline.differences(
            arguments.recipe, subdir=subdir, configs=configs, exclusive=exclusive
        )
        sys.stdout.write("".join(f"{line}\n" for line in differ or ["the renderers agree"]))
        return 1 if differ else 0
    renderer, own_tests, made = arguments.renderer, arguments.recipe_tests, None
    if arguments.artifacts is not None or package.are_beside(recipe.file(arguments.recipe).parent):
        made = plan.make(
            arguments.recipe, arguments.artifacts, machines, arguments.on,
            renderer=renderer, own_tests=own_tests,
        )  # fmt: skip
    try:
        outputs = outline.outputs(
            arguments.recipe, subdir=subdir, configs=configs, exclusive=exclusive,
            renderer=renderer, own_tests=own_tests,
        )  # fmt: skip
    except RecipeError:
        if made is None or configs or exclusive:
            raise
        # Only the packages know the values that it was built with.
        folder = Path(made.recipe)
        outputs = tuple(
            plan.output_of(folder, one.artifact, renderer, own_tests=own_tests)
            for one in made.packages
        )
    if arguments.json:
        value: dict[str, object] = {"outputs": outline.to_json(outputs)}
        value |= {"digest": plan.digest(made), **plan.to_json(made)} if made else {}
        sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write(outline.text(outputs, subdir))
        if made:
            sys.stdout.write(terminal.plan_text(made) + f"digest: {plan.digest(made)}\n")
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import audit, matrix  # noqa: PLC0415 # only what the verb needs
    from pytest_manualbuild.audit import forecast, views  # noqa: PLC0415

    machines = () if arguments.matrix is None else matrix.load(arguments.matrix).hosts
    audits: dict[str, audit.Audit] = {}
    predictions: dict[str, list[forecast.Prediction]] = {}
    status = 0
    for path in dict.fromkeys(arguments.packages):
        try:
            found = audit.examine(path)
        except ArtifactError as error:  # the others are looked at nevertheless
            _tell(error)
            status = error.exit_code
            continue
        audits[str(path)] = found
        predictions[str(path)] = forecast.predict_all(found, machines)
        if not arguments.json:
            sys.stdout.write(views.text(str(path), found, predictions[str(path)]))
        if status == 0 and any(finding.severity == "error" for finding in found.findings):
            status = 1
    if arguments.json:
        sys.stdout.write(json.dumps(views.to_json(audits, predictions), indent=2) + "\n")
    if arguments.sarif and (why := outfiles.refusal(arguments.sarif, "sarif")):
        raise ManualBuildError(f"--sarif {arguments.sarif}: {why}.", remedy="Name another file.")
    if arguments.sarif:
        try:
            arguments.sarif.write_text(json.dumps(views.to_sarif(audits), indent=2) + "\n")
        except OSError as error:
            raise ArtifactError(
                f"{arguments.sarif}: cannot be written: {error.strerror}.", remedy="Check --sarif."
            ) from error
    return status


if __name__ == "__main__":
    sys.exit(main())
