"""What a recipe will have tested, before any package of it exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_manualbuild import recipe
from pytest_manualbuild.checks import checks
from pytest_manualbuild.errors import RecipeError, RendererMissing
from pytest_manualbuild.model import Check, Output
from pytest_manualbuild.recipe import own_tests as own

_TESTS = ("imports", "commands", "requires", "files", "source_files", "downstreams")


def outputs(
    folder: Path,
    *,
    subdir: str,
    configs: Sequence[Path] = (),
    exclusive: Path | None = None,
    renderer: str = "own",
    own_tests: bool = False,
) -> tuple[Output, ...]:
    """Render a recipe, or a feedstock, for a subdir; return its packages in the order of names.

    Without ``configs`` and ``exclusive`` a feedstock's own variants (``.ci_support``) are used.
    ``renderer`` is one of ``recipe.RENDERERS``. With ``own_tests`` the test functions of the
    recipe's folder are among the tests. Raises RecipeError.
    """
    found = recipe.file(folder).parent
    sets: list[Sequence[Path]] = [configs]
    if not configs and exclusive is None:
        sets = [[path] for path in _ci_support(found, subdir)] or sets
    rendered = [
        output
        for one in sets
        for output in recipe.load(
            found, subdir=subdir, configs=one, exclusive=exclusive, renderer=renderer
        ).outputs
    ]
    distinct = {
        (one.name, tuple(sorted(one.variant.items())), one.version): one for one in rendered
    }
    ordered = (distinct[key] for key in sorted(distinct))
    return tuple(own.added(found, one) if own_tests and _tested(one) else one for one in ordered)


def differences(
    folder: Path, *, subdir: str, configs: Sequence[Path] = (), exclusive: Path | None = None
) -> list[str]:
    """Render with both renderers; return in what they differ, in lines for people.

    Raises RecipeError for a recipe that both refuse, or where there is nothing to compare.
    """
    if (file := recipe.file(folder)).name != recipe.FILES[0]:
        raise RecipeError(
            f"{file}: it is rendered by py-rattler-build alone.",
            remedy=f"Compare the renderers on a {recipe.FILES[0]}.",
        )
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    refused: dict[str, RecipeError] = {}
    for renderer in recipe.RENDERERS:
        try:
            rendered = outputs(
                folder, subdir=subdir, configs=configs, exclusive=exclusive, renderer=renderer
            )
        except RendererMissing:
            raise
        except RecipeError as error:
            refused[renderer] = error
            continue
        found[renderer] = {
            (one["name"], " ".join(f"{k}={v}" for k, v in sorted(one["variant"].items()))): one
            for one in to_json(rendered)
        }
    if refused:
        if not found:
            raise refused[recipe.RENDERERS[0]]
        return [f"only {name} refuses it: {error.problem}" for name, error in refused.items()]
    return [_printable(line) for line in _differ(*(found[name] for name in recipe.RENDERERS))]


def _differ(
    own: dict[tuple[str, str], dict[str, Any]], real: dict[tuple[str, str], dict[str, Any]]
) -> Iterator[str]:
    for key in sorted(own.keys() | real.keys()):
        where = " ".join(filter(None, key))
        if key not in own or key not in real:
            has = recipe.RENDERERS[0 if key in own else 1]
            yield f"{where}: only {has} has this output"
            continue
        mine, theirs = ({**one, **one.pop("test")} for one in (own[key], real[key]))
        for name in (one for one in mine if mine[one] != theirs[one]):
            yield f"{where}: {name}: own {mine[name]!r}, conda-build {theirs[name]!r}"


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
            "type": one.kind,
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
    """Return what will be checked of an output: nothing if it is not built, or no conda package."""
    return checks(output.sections) if _tested(output) else ()


def _tested(output: Output) -> bool:
    return not output.skip and output.kind == "conda"


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
        words += [f"{one.kind}: no conda package, not tested"] * (one.kind != "conda")
        lines.append("  " + "  ".join(words))
        lines += [f"    - {check.name}" for check in _checks(one)]
        lines += [f"      (unknown key {key!r}: it is not tested)" for key in one.unknown]
        if len(_checks(one)) == 1:
            lines.append("      (no tests: an installation proves little)")
    return "".join(f"{_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    """Return a line that cannot steer the terminal, whatever a recipe put into it."""
    return "".join(char if char.isprintable() else "?" for char in line)
