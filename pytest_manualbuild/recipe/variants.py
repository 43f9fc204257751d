"""Variants: the files that give keys their values, and the combinations that follow.

conda-build multiplies all keys of all files and reduces afterwards (variants.py). Here
only the keys that a recipe can use are multiplied, which gives the same and takes no time.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document, selectors
from pytest_manualbuild.recipe.document import listed

Variant = dict[str, Any]
MOST_VARIANTS = 5_000
_EXTEND = ("pin_run_as_build", "ignore_version", "ignore_build_only_deps", "extend_keys")
_NO_LOOP = ("pin_run_as_build", "zip_keys", "ignore_version", "replacements", *_EXTEND)
_NEGATIVE = ("final", "noarch_python", "zip_keys")


def defaults(subdir: str) -> Variant:
    """Return conda-build's own values for a subdir (variants.py, ``DEFAULT_VARIANTS``)."""
    system = subdir.partition("-")[0]
    compilers = {
        "win": {"c": "vs2017", "cxx": "vs2017", "fortran": "gfortran"},
        "osx": {"c": "clang", "cxx": "clangxx", "fortran": "gfortran"},
    }.get(system, {"c": "gcc", "cxx": "gxx", "fortran": "gfortran"})
    return {
        "python": "3.11",
        "numpy": "1.23",
        "perl": "5.26.2",
        "lua": "5",
        "r_base": "3.5",
        "cpu_optimization_target": "nocona",
        "pin_run_as_build": {
            "python": {"min_pin": "x.x", "max_pin": "x.x"},
            "r-base": {"min_pin": "x.x", "max_pin": "x.x"},
        },
        "ignore_version": [],
        "ignore_build_only_deps": ["python", "numpy"],
        "extend_keys": list(_EXTEND),
        "cran_mirror": "https://cran.r-project.org",
        "target_platform": subdir,
        **{f"{language}_compiler": name for language, name in compilers.items()},
        **({"vc": "14"} if system == "win" else {}),
    }


def read(path: Path, subdir: str) -> Variant:
    """Read a variant file for a subdir; RecipeError, naming file and key, for a bad one."""
    return parse(document.read(path), str(path), subdir)


def parse(text: str, file: str, subdir: str) -> Variant:
    """Return the keys of a variant file's text, which errors name ``file``."""
    known = selectors.names(subdir, {}, subdir)
    tree = document.load(selectors.select(text, known, file).text, file, plain=True)
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise RecipeError(f"{file}: not a mapping of keys.", remedy="Is it a variant file?")
    _trim(tree)
    _validate(tree, file)
    return tree


def _trim(tree: Variant) -> None:
    for key, value in list(tree.items()):
        if isinstance(value, dict):
            _trim(value)
        if value in ([], "", None, {}) or (not value and key in _NEGATIVE):
            del tree[key]
    if "zip_keys" in tree and not any(tree["zip_keys"]):
        del tree["zip_keys"]


def _groups(tree: Mapping[str, Any]) -> list[tuple[str, ...]]:
    groups = [group for group in tree.get("zip_keys") or [] if group]
    if groups and all(isinstance(group, str) for group in groups):
        groups = [groups]
    if not all(isinstance(group, (list, tuple)) for group in groups):
        raise RecipeError("zip_keys must be a list of lists of keys.", remedy="Correct it.")
    return [tuple(map(str, group)) for group in groups]


def _validate(tree: Variant, path: str) -> None:
    seen: set[str] = set()
    for key in tree:
        if "-" in key:
            raise RecipeError(f"{path}: the key {key!r} holds a '-'.", remedy="Use '_'.")
    for group in _groups(tree):
        lengths = {len(listed(tree[key])) for key in group if key in tree}
        missing = [key for key in group if key not in tree]
        if missing or len(lengths) > 1 or seen & set(group):
            what = f"{missing[0]} has no values" if missing else "their lists differ in length"
            raise RecipeError(
                f"{path}: zip_keys: {', '.join(group)}: {what}.",
                remedy="Give each key of the group once, with as many values as the others.",
            )
        seen |= set(group)


def combine(sources: Sequence[Variant]) -> Variant:
    """Merge sources, the later before the earlier; keys of one zip group go together.

    Raises RecipeError when a source changes a part of a group that does not fit.
    """
    extend = {*_EXTEND, *(key for one in sources for key in listed(one.get("extend_keys")))}
    zipped = list(dict.fromkeys(group for one in sources for group in _groups(one)))
    values: Variant = {"zip_keys": zipped} if zipped else {}
    for source in sources:
        for key, value in source.items():
            if key == "zip_keys":
                continue
            if isinstance(value, dict):
                values[key] = {**(values.get(key) or {} if key in extend else {}), **value}
            elif key in extend:
                both = [*listed(values.get(key)), *listed(value)]
                values[key] = list(dict.fromkeys(both))
            else:
                _take(values, source, key, next((g for g in zipped if key in g), (key,)))
    return values


def _take(values: Variant, source: Variant, key: str, group: tuple[str, ...]) -> None:
    items = listed(source[key])
    if all(member in source for member in group):
        values.update({member: listed(source[member]) for member in group})
        return
    if key not in values:
        return
    lengths = [len(listed(held[k])) for k in group for held in (source, values) if k in held]
    if all(length == len(items) for length in lengths):
        values[key] = items
    absent = [item for item in items if item not in listed(values[key])]
    if absent:
        raise RecipeError(
            f"the variants set {key} to {absent[0]!r} without the other keys of its group"
            f" ({', '.join(group)}).",
            remedy="Set all of them.",
        )


def explode(spec: Variant, used: Collection[str], sources: Iterable[Variant]) -> list[Variant]:
    """Return the variants of a merged spec, over the keys in ``used``; others keep their first.

    ``sources`` narrow them, the last one first: what a source lists stays, unless nothing would.
    """
    found = _product(spec, used)
    extend = {*_EXTEND, "zip_keys", *listed(spec.get("extend_keys"))}
    for source in reversed(list(sources)):
        for key, allowed in source.items():
            if key not in extend and not isinstance(allowed, dict) and key in found[0]:
                found = narrow(found, key, listed(allowed))
    return found


def narrow(variants: list[Variant], key: str, allowed: Collection[object]) -> list[Variant]:
    """Return the variants whose key has one of the values; all of them if none has."""
    return [one for one in variants if one.get(key) in allowed] or variants


def _product(spec: Mapping[str, Any], used: Collection[str]) -> list[Variant]:
    groups = [group for group in spec.get("zip_keys", ()) if all(key in spec for key in group)]
    kept = {*_NO_LOOP, *listed(spec.get("extend_keys"))} - {key for g in groups for key in g}
    fixed = {key: value for key, value in spec.items() if key in kept}
    axes: list[list[Variant]] = []
    done: set[str] = set(fixed)
    for group in groups:
        rows = list(
            dict.fromkeys(zip(*(map(str, listed(spec[key])) for key in group), strict=False))
        )
        if not set(group) & set(used):
            rows = rows[:1]
        axes.append([dict(zip(group, row, strict=True)) for row in rows])
        done |= set(group)
    for key in (key for key in spec if key not in done):
        value = spec[key]
        items = [value] if isinstance(value, dict) else list(_distinct(listed(value)))
        if items:
            axes.append([{key: item} for item in (items if key in used else items[:1])])
    count = 1
    for axis in axes:
        count *= len(axis)
        if count > MOST_VARIANTS:
            raise RecipeError(
                f"more than {MOST_VARIANTS} variants.", remedy="Give a narrower variant file."
            )
    combined = []
    for parts in itertools.product(*axes):
        one = deepcopy(fixed)
        for part in parts:
            one.update(part)
        combined.append(one)
    return combined


def _distinct(items: Iterable[Any]) -> Iterable[Any]:
    seen: list[Any] = []
    for item in items:
        if item not in seen:
            seen.append(item)
            yield item


def reduced(variants: Sequence[Variant], used: Collection[str]) -> list[Variant]:
    """Return one variant for each combination of the values of the used keys.

    As conda-build does (``get_reduced_variant_set``), it combines the values anew, so that
    the result may hold combinations that ``variants`` does not.
    """
    first = variants[0]
    spec: Variant = {key: value for key, value in first.items() if key in _NO_LOOP}
    extend = {*_NO_LOOP, *listed(first.get("extend_keys"))}
    zipped = {key for group in first.get("zip_keys", ()) for key in group}
    for key in first:
        if (key in extend and key not in zipped) or isinstance(first[key], dict):
            spec[key] = first[key]
        else:
            spec[key] = [one.get(key) for one in variants]
    return _product(spec, used)


def loops(variants: Sequence[Variant], used: Iterable[str]) -> set[str]:
    """Return the used keys that have several values."""
    first = variants[0]
    special = {*_NO_LOOP, *listed(first.get("extend_keys"))}
    return {
        key
        for key in used
        if key in first and key not in special and any(v.get(key) != first[key] for v in variants)
    }
