"""What a recipe will have tested, before any package of it exists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_manualbuild import recipe
from pytest_manualbuild.checks import checks
from pytest_manualbuild.model import Check, Output

_TESTS = ("imports", "commands", "requires", "files", "source_files", "downstreams")


def outputs(
    folder: Path, *, subdir: str, configs: Sequence[Path] = (), exclusive: Path | None = None
) -> tuple[Output, ...]:
    """Render a recipe, or a feedstock, for a subdir; return its packages in the order of names.

    Without ``configs`` and ``exclusive`` a feedstock's own variants (``.ci_support``) are used.
    Raises RecipeError.
    """
    found = recipe.file(folder).parent
    sets: list[Sequence[Path]] = [configs]
    if not configs and exclusive is None:
        sets = [[path] for path in _ci_support(found, subdir)] or sets
    rendered = [
        output
        for one in sets
        for output in recipe.load(found, subdir=subdir, configs=one, exclusive=exclusive).outputs
    ]
    distinct = {
        (one.name, tuple(sorted(one.variant.items())), one.version): one for one in rendered
    }
    return tuple(distinct[key] for key in sorted(distinct))


def _ci_support(folder: Path, subdir: str) -> list[Path]:
    """Return the variant files that conda-smithy wrote for a subdir beside the recipe."""
    prefix = subdir.replace("-", "_")
    return [
        path
        for path in sorted((folder.parent / ".ci_support").glob("*.yaml"))
        if path.stem == prefix or path.stem.startswith(f"{prefix}_")
    ]


def to_json(found: Iterable[Output]) -> list[dict[str, Any]]:
    """Return outputs in the form that ``docs/plan.schema.json`` describes."""
    return [
        {
            "name": one.name,
            "version": one.version,
            "build_number": one.build_number,
            "noarch": one.noarch,
            "skip": one.skip,
            "variant": one.variant,
            "run": list(one.run),
            "test": {key: one.test.get(key, []) for key in _TESTS},
            "test_script": one.test.get("script"),
            "checks": [
                {"name": c.name, "kind": c.kind, "language": c.language, "text": c.text}
                for c in _checks(one)
            ],
        }
        for one in found
    ]


def _checks(output: Output) -> tuple[Check, ...]:
    """Return what will be checked of an output: nothing if it is not built."""
    return () if output.skip else checks(output.sections)


def text(found: Sequence[Output], subdir: str) -> str:
    """Return outputs, the variants that tell them apart, and their checks, in lines for people."""
    lines = [f"outputs for {subdir}:"]
    for one in found:
        same = [other for other in found if other.name == one.name]
        apart = [
            f"{key}={value}"
            for key, value in sorted(one.variant.items())
            if any(other.variant.get(key) != value for other in same)
        ]
        words = [one.name, one.version, f"build {one.build_number}", *apart]
        words += [f"noarch: {one.noarch}"] * bool(one.noarch) + ["skipped"] * one.skip
        lines.append("  " + "  ".join(words))
        lines += [f"    - {check.name}" for check in _checks(one)]
        if not one.skip and len(_checks(one)) == 1:
            lines.append("      (no tests: an installation proves little)")
    return "\n".join(lines) + "\n"
