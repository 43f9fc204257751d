"""The verb that makes packages: build."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_manualbuild.verbs import place

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse's type


def add(verbs: Verbs) -> None:
    """Add this verb to the parser of the command line."""
    build = verbs.add_parser("build", help="build by hand, with a record of how it was done")
    build.add_argument("recipe", type=place, metavar="RECIPE|FEEDSTOCK")
    build.add_argument("--config", metavar="NAME", help="which file of .ci_support to build with")
    build.add_argument("--image", metavar="IMAGE", help="in place of the one that it names")
    build.add_argument("--channel", metavar="URL", action="append", default=[],
                       help="of a recipe without a feedstock; default: conda-forge")  # fmt: skip
    build.set_defaults(verb=_build)


def _build(arguments: argparse.Namespace) -> int:
    from pytest_manualbuild import build  # noqa: PLC0415 # only what the verb needs

    path, record = build.build(
        arguments.recipe,
        config=arguments.config,
        image=arguments.image,
        channels=arguments.channel,
        tell=_tell,
    )
    for one in record.packages:
        sys.stdout.write(f"built {one.key}  sha256 {one.sha256}\n")
    sys.stdout.write(f"record: {path}\n")
    if record.sources is not None and record.sources.dirty:
        sys.stdout.write("note: it was built with changes that are in no commit.\n")
    return 0


def _tell(chunk: bytes) -> None:
    """Show the log as it comes, as ``tee`` does."""
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()
