"""From a recipe to its packages: variants, outputs, and what each inherits.

Follows conda-build's render.py (``distribute_variants``) and metadata.py
(``get_output_metadata_set``, ``get_output_metadata``).
"""

from __future__ import annotations

import graphlib
import itertools
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import specs, variants
from pytest_manualbuild.recipe.document import extracted, listed
from pytest_manualbuild.recipe.metadata import TOP_REQUIREMENTS, Metadata
from pytest_manualbuild.recipe.problems import Unresolved
from pytest_manualbuild.recipe.variants import Variant

Key = tuple[object, ...]
_CONDA = (None, "", "conda", "conda_v2")


def expand(recipe: Metadata, found: Sequence[Variant]) -> list[Metadata]:
    """Return every output of a recipe for every variant that makes a difference to it."""
    packages: dict[Key, Metadata] = {}
    for top in distribute(recipe, list(found)):
        for out in _outputs(top):
            packages[(out.type, *_identity(out))] = out
    return list(packages.values())


def _identity(metadata: Metadata) -> Key:
    used = metadata.used()
    return (
        metadata.name,
        metadata.version,
        metadata.build_number,
        str(metadata.value("build", "string") or ""),
        tuple(sorted((key, str(metadata.variant[key])) for key in used)),
        _languages(metadata),
    )


def _languages(metadata: Metadata) -> Key:
    """Return the versions that stand in a build string though nothing else uses their keys."""
    run, built = metadata.depends("run"), metadata.depends(metadata.build_env)
    return tuple(
        (name, str(metadata.variant.get(name.replace("-", "_"))))
        for name in ("python", "perl", "lua", "r-base")
        if name in run and name in built and metadata.noarch != name
    )


def distribute(recipe: Metadata, found: list[Variant]) -> list[Metadata]:
    """Return one rendering of the whole recipe for each variant of its top level."""
    if recipe.noarch or recipe.value("build", "noarch_python"):
        # One package serves every Python; it is made with the newest.
        newest = max((one["python"] for one in found if "python" in one), key=_order, default=None)
        if newest is not None:
            found = variants.narrow(found, "python", [newest])
    recipe.variants = recipe.input_variants = found
    recipe.variant = found[0]
    recipe.__dict__.pop("names", None)
    loops = recipe.loops()
    tops: dict[Key, Metadata] = {}
    for variant in variants.reduced(found, loops):
        top = recipe.copy()
        top.variant = variant
        for key in sorted(loops):
            top.variants = variants.narrow(top.variants, key, [variant[key]])
        top.resolve()
        tops[_identity(top)] = top
    return list(tops.values())


def _order(version: object) -> list[tuple[int, str]]:
    text = str(version).split(" ")[0]
    return [(int(part) if part.isdecimal() else -1, part) for part in text.split(".")]


def _outputs(top: Metadata) -> list[Metadata]:
    loops = top.loops(everywhere=True)
    packages: list[tuple[dict[str, Any], Metadata]] = []
    reason: Unresolved | None = None
    for variant in variants.reduced(top.variants, loops) or top.variants[:1]:
        reference = top.copy()
        reference.variant = variant
        reference.resolve()
        try:
            for out in _sections(reference):
                if requirements := out.get("requirements"):
                    requirements = specs.expanded(requirements)
                    for env in ("build", "host", "run"):
                        specs.pin_variants(requirements, variant, env, reference.source.file)
                    out["requirements"] = requirements
                packages.append((out, _output(reference, out)))
                packages[-1][1].used()
        except Unresolved as error:
            # conda-build drops all outputs it had so far, and fails if none comes after.
            packages, reason = [], error
    if not packages and reason is not None:
        raise reason
    _order_of([(out, metadata) for out, metadata in packages])
    _constrained(metadata for _, metadata in packages)
    kept: dict[Key, Metadata] = {}
    others = []
    for out, metadata in packages:
        if out.get("type") in _CONDA:
            used = metadata.used()
            key = tuple(sorted((name, str(metadata.variant[name])) for name in used))
            kept[(metadata.name, key)] = metadata
        else:
            others.append(metadata)
    return [*kept.values(), *others]


def _sections(reference: Metadata) -> list[dict[str, Any]]:
    """Return the outputs' sections, the top level's own among them if conda-build adds it."""
    name = reference.name
    outputs = reference.outputs
    if isinstance(reference.meta.get("outputs"), dict) and reference.meta["outputs"]:
        raise RecipeError(
            f"{reference.source.file}: outputs must be a list.", remedy="Put a '-' before each."
        )
    if not outputs:
        outputs = [{"name": name}]
    elif _needs_top(reference) and not any(out.get("name", "") == name for out in outputs):
        outputs.append({"name": name})
    for out in outputs:
        if out.get("name") == name and "package:" in reference.text():
            _combine(reference, out)
    return outputs


def _needs_top(reference: Metadata) -> bool:
    """Whether the top level depends on an output, and so is a package itself."""
    run = [str(item) for item in reference.requirements("run")]
    for out in reference.outputs:
        name = out.get("name")
        if name and any(
            item == name or re.match(rf"{re.escape(str(name))}\s", item) for item in run
        ):
            return True
    text = extracted(reference.source.text, TOP_REQUIREMENTS)
    return bool(re.search(r"{{\s*pin_subpackage\(.*\)\s*}}", reference.select(text).text))


def _combine(reference: Metadata, out: dict[str, Any]) -> None:
    """Merge requirements, build and about of the top level and of the output of its name."""
    for section in ("requirements", "build", "about"):
        above = reference.meta.get(section) or {}
        below = out.get(section) or {}
        if section == "requirements":
            below = specs.expanded(below)
        if not isinstance(below, dict):
            raise RecipeError(
                f"{reference.source.file}: {section} of the output {out.get('name')!r} must be a"
                " mapping.",
                remedy="Indent its keys below it.",
            )
        out[section] = {**above, **below}
        reference.meta[section] = out[section]


def _output(reference: Metadata, out: dict[str, Any]) -> Metadata:
    """Return the metadata of one output, made of its section and what it inherits."""
    made = reference.copy()
    made.skipped = reference.skip
    made.type = out.get("type") or "conda"
    name = reference.name
    if out.get("name") == name:
        return made
    needs = specs.expanded(out.get("requirements"))
    own = out.get("name")
    for env in ("build", "host", "run"):
        needs[env] = [
            item for item in needs.get(env, [])
            if own is None or not re.match(rf"{re.escape(str(own))}(?:\s|$)", str(item))
        ]  # fmt: skip
    meta = made.meta
    meta.setdefault("package", {})["name"] = out.get("name", name)
    test = meta.get("test") or {}
    for key in ("commands", "imports"):
        test.pop(key, None)
    build = meta.setdefault("build", {})
    for key in ("entry_points", "run_exports", "script"):
        build.pop(key, None)
        if key in out:
            build[key] = out[key]
    meta["requirements"] = {env: items for env, items in needs.items() if items}
    meta["package"]["version"] = str(out.get("version") or reference.version)
    _set_noarch(made, out.get("noarch") or False)
    meta["build"] = _build(made, out)
    for section in ("test", "about"):
        if section in out:
            meta[section] = deepcopy(out[section])
    made.parent = name
    return made


def _build(made: Metadata, out: dict[str, Any]) -> dict[str, Any]:
    """Return an output's build section: its own, else the top level's."""
    build: dict[str, Any] = made.meta["build"]
    for key in ("number", "string"):
        if key in out:
            build[key] = out[key]
    if "build" not in out:
        return build
    own = out["build"] or {}
    if not isinstance(own, dict):
        raise RecipeError(
            f"{made.source.file}: build of the output {out.get('name')!r} must be a mapping.",
            remedy="Indent its keys below it.",
        )
    return {"number": out.get("number", made.build_number), **deepcopy(own)}


def _set_noarch(made: Metadata, noarch: object) -> None:
    made.meta["build"]["noarch"] = noarch
    if noarch:
        made.noarch_platform = True
        made.__dict__.pop("names", None)


def _order_of(packages: Iterable[tuple[dict[str, Any], Metadata]]) -> None:
    """Refuse outputs that need each other: conda-build cannot order them."""
    names: dict[str, set[str]] = {}
    found = list(packages)
    _no_pairs([metadata for _, metadata in found])
    for out, _ in found:
        if str(out.get("type") or "conda").startswith("conda"):
            if "name" not in out:
                raise RecipeError(
                    f"{found[0][1].source.file}: an output has no name.", remedy="Add it."
                )
            names.setdefault(str(out["name"]), set())
    for out, metadata in found:
        if str(out.get("name")) in names:
            envs = ["run", "host"] + ["build"] * (metadata.build_env == "build")
            for env in envs:
                items = listed(metadata.value("requirements", env))
                wanted = {str(item).split(" ")[0] for item in items if item}
                names[str(out["name"])] |= wanted & names.keys()
    for name, needed in names.items():
        needed.discard(name)
    try:
        graphlib.TopologicalSorter(names).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise RecipeError(
            f"{found[0][1].source.file}: outputs need each other: {cycle}.",
            remedy="Break the cycle.",
        ) from error


def _no_pairs(packages: Sequence[Metadata]) -> None:
    """Refuse two outputs that need each other, also to be built."""

    def needs(metadata: Metadata) -> set[str]:
        envs = ("build", "host", "run")
        items = [item for env in envs for item in listed(metadata.value("requirements", env))]
        return {str(item).split(" ")[0] for item in items if item}

    for one, other in itertools.combinations(packages, 2):
        if one.name in needs(other) and other.name in needs(one):
            raise RecipeError(
                f"{one.source.file}: outputs need each other: {one.name} and {other.name}.",
                remedy="Break the cycle.",
            )


def _constrained(packages: Iterable[Metadata]) -> None:
    for metadata in packages:
        for item in listed(metadata.value("requirements", "run_constrained")):
            if item and "{{" not in str(item):
                specs.check(item, f"{metadata.source.file}: requirements/run_constrained")
