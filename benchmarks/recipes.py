"""Prints how long a corpus of recipes takes to render, and the slowest of them.

    python benchmarks/recipes.py FOLDER

FOLDER holds ``ID/recipe/meta.yaml``, ``ID/variant.SUBDIR.yaml`` and ``pinning.yaml``, as the
conformance corpus does; each recipe is rendered for each subdir that it has an answer for.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from pytest_manualbuild import recipe
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe.renderer import renderer


def main(corpus: Path) -> None:
    """Render all, and print the figures."""
    times: list[tuple[float, str]] = []
    refused = 0
    began_s = time.monotonic()
    for answer in sorted(corpus.glob("*/expected.*.json")):
        folder, subdir = answer.parent, answer.name.split(".")[1]
        source = json.loads((folder / "source.json").read_text())
        configs = [folder / name for name in source.get("variant_files", {}).get(subdir, ())]
        one_s = time.monotonic()
        try:
            recipe.load(
                folder / "recipe",
                subdir=subdir,
                configs=configs if source["config"] == "ci_support" else (),
                exclusive=corpus / "pinning.yaml" if source["config"] == "pinning" else None,
            )
        except RecipeError:
            refused += 1
        times.append((time.monotonic() - one_s, f"{folder.name} {subdir}"))
    print(f"{len(times)} renders in {time.monotonic() - began_s:.1f} s, {refused} refused")
    for seconds, name in sorted(times, reverse=True)[:5]:
        print(f"  {seconds:.2f} s  {name}")
    renderer.close()
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"  {most / (1024 if sys.platform == 'linux' else 1 << 20):.0f} MiB at most")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
