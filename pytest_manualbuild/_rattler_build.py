"""The child process that builds a ``recipe.yaml``: ``RECIPE INTO -c CHANNEL ...``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pytest_manualbuild.recipe import recipe_yaml
from pytest_manualbuild.recipe._rattler_build import read_variants


def main() -> int:
    """Build every output and variant of a recipe; what was done goes to standard output."""
    from rattler_build import (  # noqa: PLC0415 # only in this child
        JinjaConfig,
        RattlerBuildError,
        Stage0Recipe,
    )

    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("into", type=Path)
    parser.add_argument("-c", dest="channels", action="append", default=[])
    asked = parser.parse_args()
    try:
        stage = Stage0Recipe.from_file(asked.recipe)
        beside = (asked.recipe.parent / name for name in recipe_yaml.VARIANT_FILES)
        variants = read_variants(filter(Path.is_file, beside), JinjaConfig())
        for rendered in stage.render(variants):
            made = rendered.run_build(output_dir=asked.into, channels=asked.channels)
            sys.stdout.write("".join(f"{line}\n" for line in made.log))
            sys.stdout.flush()
    except RattlerBuildError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # its library can crash while the interpreter shuts down
