"""Makes the plan: which checks of which packages run on which hosts.

The plan touches no host, is plain JSON, and has a digest. The gate makes the
same list again from the package, so the rules for it stand here once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pytest_manualbuild import matrix as matrices
from pytest_manualbuild import package, recipe
from pytest_manualbuild.checks import checks
from pytest_manualbuild.errors import ArtifactError, ManualBuildError, RecipeError
from pytest_manualbuild.model import (
    Artifact,
    Cell,
    CheckKey,
    Host,
    Matrix,
    Output,
    Plan,
    PlannedPackage,
    TestSection,
)
from pytest_manualbuild.recipe import own_tests as own
from pytest_manualbuild.recipe.folder import folder_sha256

Rendered = dict[tuple[object, ...], tuple[Output, ...]]
"""The outputs of one recipe by subdir, file of variants and variant."""
_HASH = re.compile(r"h[0-9a-f]{7}")


def make(
    recipe_folder: Path,
    artifacts: Path | None,
    matrix: Matrix,
    on: str | None = None,
    *,
    renderer: str = "own",
    own_tests: bool = False,
) -> Plan:
    """Plan the checks of a recipe for the packages built from it.

    ``artifacts`` is where the packages are looked for (None: beside the recipe,
    see ``package.find``). ``on`` is a glob that selects hosts by name; what it
    leaves out is left out of the plan's cells, not of its matrix. ``renderer`` is one of
    ``recipe.RENDERERS``. With ``own_tests`` the test functions of the recipe's folder are part
    of it.
    Raises RecipeError, ArtifactError or MatrixError.
    """
    selected = matrices.select(matrix, on)
    # The recipe first: without one there is nothing to look for packages of.
    folder = recipe.file(recipe_folder).parent
    found = [package.read(path) for path in package.find(folder, artifacts)]
    rendered: Rendered = {}
    planned = [
        (artifact, output_of(folder, artifact, renderer, rendered, own_tests=own_tests))
        for artifact in sorted(found, key=lambda a: a.key)
    ]
    labels = _labels([artifact for artifact, _ in planned])
    packages = tuple(
        PlannedPackage(
            artifact=artifact,
            label=label,
            sections=output.sections,
            checks=checks(output.sections),
            needs=output.needs,
        )
        for (artifact, output), label in zip(planned, labels, strict=True)
    )
    return Plan(
        recipe=str(folder),
        recipe_sha256=folder_sha256(folder),
        matrix=matrix,
        packages=packages,
        cells=cells(selected, [artifact for artifact, _ in planned]),
    )


def sections_of(folder: Path, artifact: Artifact) -> tuple[TestSection, ...]:
    """Return the tests of a package in a recipe; see ``output_of``."""
    return output_of(folder, artifact).sections


def output_of(
    folder: Path,
    artifact: Artifact,
    renderer: str = "own",
    rendered: Rendered | None = None,
    *,
    own_tests: bool = False,
) -> Output:
    """Render the recipe with the package's variant; return the output that it is.

    ``rendered`` keeps what the recipe gives, for other packages of the same variant.
    With ``own_tests`` the functions of the recipe's folder are among its tests. Raises
    RecipeError, or ArtifactError when the recipe describes no such package.
    """
    config = package.member(Path(artifact.path), "info/recipe/conda_build_config.yaml") or b""
    variant = _variant(artifact)
    rendered = {} if rendered is None else rendered
    key = (artifact.subdir, config, *sorted(variant.items()))
    if key not in rendered:
        rendered[key] = recipe.load(
            folder,
            subdir=artifact.subdir,
            variant=variant,
            config=config.decode(errors="replace"),
            renderer=renderer,
        ).outputs
    outputs = tuple(output for output in rendered[key] if output.kind == "conda")
    for output in outputs:
        if output.name == artifact.name and output.version == artifact.version:
            found = _checked(output, artifact)
            return own.added(folder, found) if own_tests else found
    described = ", ".join(f"{output.name} {output.version}" for output in outputs) or "nothing"
    raise ArtifactError(
        f"{artifact.key}: the recipe {folder} describes no {artifact.name} {artifact.version},"
        f" only {described}.",
        remedy="Give the recipe that it was built from, or other --artifacts.",
    )


_PYTHON = re.compile(r"python(?:_abi)? (?:>=)?(\d+\.\d+)")


def _variant(artifact: Artifact) -> dict[str, str]:
    """Return the variant of a package; the hash leaves out the Python that its name has."""
    found = filter(None, (_PYTHON.match(spec) for spec in artifact.depends))
    python = next((match.group(1) for match in found), None)
    given = {} if python is None or artifact.noarch else {"python": python}
    return {**given, **artifact.variant}


def _checked(output: Output, artifact: Artifact) -> Output:
    if output.skip:
        raise ArtifactError(
            f"{artifact.key}: the recipe skips {output.name} on {artifact.subdir}.",
            remedy="Remove the package, or correct the recipe's skip.",
        )
    if bool(output.noarch) != (artifact.subdir == "noarch"):
        raise ArtifactError(
            f"{artifact.key}: the recipe says noarch: {output.noarch or 'no'}, the package is in"
            f" {artifact.subdir}.",
            remedy="Build it again from this recipe.",
        )
    if output.unknown:
        raise RecipeError(
            f"{artifact.key}: the recipe's test section has an unknown key {output.unknown[0]!r},"
            " and what it holds would not be tested.",
            remedy="Correct its spelling, or remove it.",
        )
    if output.build_number != artifact.build_number:
        raise ArtifactError(
            f"{artifact.key}: the recipe says build number {output.build_number}, the package"
            f" {artifact.build_number}.",
            remedy="Build it again from this recipe, or give the one that it was built from.",
        )
    return output


def cells(hosts: Iterable[Host], artifacts: Sequence[Artifact]) -> tuple[Cell, ...]:
    """Return which package goes to which host: those of the host's subdir, and noarch ones."""
    return tuple(
        Cell(host=host.name, package=artifact.key)
        for host in hosts
        for artifact in artifacts
        if artifact.subdir in (host.subdir, "noarch")
    )


def _labels(artifacts: Sequence[Artifact]) -> list[str]:
    """Name each package by as little as tells it from the others, without hashes."""

    def forms(artifact: Artifact) -> tuple[str, ...]:
        build = _HASH.sub("", artifact.build).strip("_") or artifact.build
        extension = "conda" if artifact.filename.endswith(".conda") else "tar_bz2"
        name, version = artifact.name, artifact.version
        return (
            name,
            f"{name}-{extension}",
            f"{name}-{build}",
            f"{name}-{version}-{build}",
            f"{name}-{version}-{build}-{extension}",
            f"{name}-{version}-{build}-{extension}-{artifact.subdir}",
            artifact.key.replace("/", "-"),
        )

    for level in zip(*map(forms, artifacts), strict=True):
        labels = [label.replace(".", "_") for label in level]
        if len(set(labels)) == len(labels):
            return labels
    return [artifact.key.replace("/", "-") for artifact in artifacts]


def expected(plan: Plan) -> list[CheckKey]:
    """Return every (host, package key, check name) of the plan, in order."""
    return [
        (cell.host, cell.package, check.name)
        for cell in plan.cells
        for check in plan.package(cell.package).checks
    ]


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain JSON values."""
    value: dict[str, Any] = msgspec.to_builtins(plan)
    return value


def from_json(value: object) -> Plan:
    """Return the plan from what ``to_json`` gave; ManualBuildError for anything else."""
    try:
        return msgspec.convert(value, type=Plan)
    except msgspec.ValidationError as error:
        raise ManualBuildError(
            f"This is not a plan: {error}.", remedy="Make it again with `manualbuild plan --json`."
        ) from error


def digest(plan: Plan) -> str:
    """Return the sha256 of what is planned, whatever the folders are where it lies."""
    return digest_of(to_json(plan))


def digest_of(value: dict[str, Any]) -> str:
    """Return the digest of a plan as plain JSON values: as it was written, by whatever version.

    KeyError, TypeError or AttributeError for what is no plan.
    """
    value = {key: one for key, one in value.items() if key != "recipe"}
    value["packages"] = [
        planned | {"artifact": {k: v for k, v in planned["artifact"].items() if k != "path"}}
        for planned in value["packages"]
    ]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
