"""A recipe's text and what YAML makes of it, within limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe.problems import Unresolved, at

MOST_BYTES = 1024 * 1024
MOST_VALUES = 100_000
MOST_DEPTH = 100
TRUE = ("y", "on", "true", "yes")
FALSE = ("n", "no", "false", "off")
_SECTIONS = ("package", "build", "requirements", "app", "test", "about", "extra")
_LISTED = ("source", "outputs")
_LICENCES = (
    *("AGPL", "LGPL", "GPL3", "GPL2", "GPL", "BSD", "MIT", "APACHE", "PSF", "CC", "MOZILLA"),
    *("PUBLICDOMAIN", "PROPRIETARY", "OTHER", "NONE"),
)


def read(path: Path) -> str:
    """Return the text of a recipe's file; RecipeError if it is too big, not text, or not there."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)  # a device has no size, and no end
        size = max(path.stat().st_size, len(data))
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read: {error.strerror or error}.",
            remedy="Check that it is there, and no link.",
        ) from error
    if size > MOST_BYTES:
        raise RecipeError(
            f"{path}: {size} bytes; a recipe may have {MOST_BYTES}.", remedy="Is it a recipe?"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8.", remedy="Save it as UTF-8.") from error
    if "\0" in text:
        raise RecipeError(f"{path}: it is not a text.", remedy="Is it a recipe?")
    return text


class _Plain(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML; what cannot be made of a value is told with its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 # PyYAML's
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, AttributeError) as error:  # as of !!int x, !!bool x
            said = f"this is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


class _Loader(_Plain):
    """YAML in which numbers and dates stay text, as conda-build wants numbers.

    What is no text, list or mapping has no order (``!!set``) or no JSON (``!!binary``).
    """


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] in ("bool", "null", "merge")
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in _Loader.yaml_constructors.items()
    if str(tag).rpartition(":")[2] not in ("binary", "timestamp", "set", "omap", "pairs")
}


class _BaseLoader(yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader):  # type: ignore[misc]
    """YAML in which every scalar is text: for variant files."""


class _DataLoader(_Plain):
    """Safe YAML as it is, for files that a recipe reads."""


RECIPE, VARIANTS, DATA = _Loader, _BaseLoader, _DataLoader
"""Numbers stay text; everything is text; everything is what YAML says."""


def load(text: str, file: str, *, as_: type = RECIPE) -> Any:  # noqa: ANN401 # it is YAML
    """Return what YAML makes of a text; of a key given twice the last one wins.

    ``as_`` is ``RECIPE``, ``VARIANTS`` or ``DATA``. Raises RecipeError, naming the line.
    """
    try:
        _limit(text, file, as_)
        return yaml.load(text, Loader=as_)  # noqa: S506 # all are safe loaders
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        lines = text.splitlines()
        line = lines[mark.line].strip()[:60] if mark and mark.line < len(lines) else ""
        said = f" in {line!r}" if line else ""
        remedy = "Correct that line."
        if "\t" in (lines[mark.line] if mark and mark.line < len(lines) else ""):
            remedy = "There is a tab; YAML wants spaces."
        raise RecipeError(
            f"{at(file, mark.line + 1 if mark else None)}: YAML: {problem}{said}.", remedy=remedy
        ) from error
    except (RecursionError, ValueError, TypeError) as error:
        raise RecipeError(f"{file}: YAML: {str(error)[:80]}.", remedy="Correct it.") from error


@lru_cache(maxsize=4)
def shared(text: str, file: str) -> Any:  # noqa: ANN401 # it is YAML
    """Return what ``load`` does, for who only reads it: many outputs ask for the same text."""
    return load(text, file)


def _limit(text: str, file: str, loader: type) -> None:
    """Refuse a text with too many values, each alias counted as all that it stands for."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, loader):
        size = 0
        if isinstance(event, yaml.AliasEvent):
            # What is not closed yet holds itself, and has no end; an unknown one is told later.
            endless = any(anchor == event.anchor for anchor, _ in open_)
            size = sizes.get(event.anchor or "", MOST_VALUES + 1 if endless else 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            sizes |= {anchor: size} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        open_[-1] = (open_[-1][0], open_[-1][1] + size)
        if open_[-1][1] > MOST_VALUES or len(open_) > MOST_DEPTH:
            raise RecipeError(
                f"{file}: YAML: too many values, aliases or levels.", remedy="Write it more simply."
            )


def parse(text: str, file: str) -> dict[str, Any]:
    """Return a rendered recipe's sections, checked as conda-build checks them (``parse``).

    Raises RecipeError, or Unresolved for what conda-build forgives.
    """
    tree = load(text, file)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError(f"{file}: not a recipe: no package section.", remedy="Is it a meta.yaml?")
    for name in (*_SECTIONS, *_LISTED):
        if name not in tree:
            continue
        tree[name] = tree[name] or {}
        kinds = (dict, list) if name in _LISTED else (dict,)
        if not isinstance(tree[name], kinds):
            raise RecipeError(
                f"{file}: {name} must be a mapping.", remedy="Indent its keys below it."
            )
    _check(tree, file)
    package = tree.get("package", {})
    if "version" in package:
        package["version"] = str(package["version"])
    return tree


def merge(base: dict[str, Any], more: Mapping[str, Any], *, append: bool) -> None:
    """Put more sections into a recipe, as conda-build does with ``recipe_append.yaml``.

    Mappings are merged; lists are extended with ``append``, else replaced; None removes.
    """
    for key, value in more.items():
        held = base.get(key)
        if isinstance(value, dict) and isinstance(held, dict):
            merge(held, value, append=append)
        elif append and isinstance(value, list) and isinstance(held, list):
            base[key] = held + value if held != value else held
        elif value is None:
            base.pop(key, None)
        else:
            base[key] = value


def _check(tree: Mapping[str, Any], file: str) -> None:
    build = tree.get("build", {})
    if build.get("pin_depends") not in (None, "", "record", "strict"):
        raise RecipeError(
            f"{file}: build/pin_depends: {build['pin_depends']!r}.", remedy="Use record or strict."
        )
    if build.get("noarch") and build["noarch"] not in ("python", "generic", True):
        raise RecipeError(
            f"{file}: build/noarch: {build['noarch']!r} is not known.",
            remedy="Use python or generic, or leave it out.",
        )
    family = tree.get("about", {}).get("license_family")
    if family is not None and _licence(str(family)) not in _LICENCES:
        raise RecipeError(
            f"{file}: about/license_family: {family!r} is not known.",
            remedy=f"Known: {', '.join(_LICENCES)}.",
        )
    for name in ("build", "run"):
        _no_mappings(tree.get("requirements", {}).get(name), f"requirements/{name}", file)
    _no_mappings(tree.get("test", {}).get("requires"), "test/requires", file)
    features = build.get("features")
    if any("-" in str(item) for item in listed(features)):
        raise RecipeError(f"{file}: build/features: a '-' in a name.", remedy="Use '_'.")
    source = tree.get("source", {})
    for one in source if isinstance(source, list) else [source]:
        if isinstance(one, dict) and len({"git_rev", "git_tag", "git_branch"} & one.keys()) > 1:
            raise Unresolved(f"{file}: source has several git revisions.", remedy="Keep one.")


def _licence(text: str) -> str:
    """Return a licence family as conda-build compares it (license_family.py)."""
    text = text.upper().replace("GENERAL PUBLIC LICENSE", "GPL")
    text = re.sub(r"AFFERO *", "A", re.sub(r"LESSER *", "L", text))
    return re.sub(r"[\W_]+", "", text)


def _no_mappings(items: object, where: str, file: str) -> None:
    if isinstance(items, (list, tuple)) and any(isinstance(item, dict) for item in items):
        raise RecipeError(
            f"{file}: {where} holds a mapping; pip requirements are not supported there.",
            remedy="Write the names of conda packages.",
        )


def listed(value: object) -> list[Any]:
    """Return a value as a list, as conda-build's ``ensure_list`` does: nothing gives none."""
    if value is None:
        return []
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, dict):
        return [value]
    return [value]


@lru_cache(maxsize=256)
def extracted(text: str, pattern: str) -> str:
    """Return the groups that a pattern finds first in a text, or nothing."""
    found = re.search(pattern, text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(dict.fromkeys(group for group in found.groups() if group)) if found else ""
