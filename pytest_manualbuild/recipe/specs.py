"""Requirements: what conda-build makes of them, and which it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe.document import listed
from pytest_manualbuild.recipe.problems import Unresolved

# utils.py, ``spec_needing_star_re``: name and version without an operator, star or build.
_BARE = re.compile(r"([\w\d\.\-\_]+)\s+((?<![><=])[\w\d\.\-\_]+?(?!\*))(\s+[\w\d\.\_]+)?$")
_XX = re.compile(r"([0-9a-zA-Z\.\-\_]+)\s+x\.x")
_VERSION = re.compile(r"(?:[!=<>~]=|[<>=])?\s*[0-9a-z_.+!*-]*", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_.*-]+")
_OPERATORS = (">", ">=", "=", "==", "!=", "<", "<=")


def starred(spec: str) -> str:
    """Return a spec with ``.*`` after a bare version (``ensure_valid_spec``)."""
    found = _BARE.match(spec)
    if found and not found.group(3):
        if found.group(1) in ("python", "numpy") and found.group(2) == "x.x":
            return spec
        if "*" not in spec:
            return f"{found.group(1)} {found.group(2)}.*"
    return spec


def expanded(requirements: object) -> dict[str, Any]:
    """Return an output's requirements by environment; a list means host and run."""
    if isinstance(requirements, dict):
        return {str(name): listed(items) for name, items in requirements.items()}
    items = listed(requirements)
    return {"host": list(items), "run": list(items)} if items else {}


def pin_variants(
    requirements: dict[str, Any], variant: Mapping[str, Any], env: str, file: str
) -> None:
    """Give bare requirements of an environment the variant's versions, in place.

    ``file`` is what an error names.
    """
    built = [*listed(requirements.get("build")), *listed(requirements.get("host"))]
    specs = listed(requirements.get(env))
    for index, spec in enumerate(specs):
        if not isinstance(spec, str) or not spec.strip():
            raise RecipeError(
                f"{file}: requirements/{env}: {spec!r} is not a package.", remedy="Write its name."
            )
        name = spec.rstrip()
        key = name.replace("-", "_")
        value = variant.get(key, variant.get(name))
        if value is not None and (env in ("build", "host") or name in built):
            first = value if isinstance(value, str) else next(iter(listed(value)), "")
            specs[index] = starred(f"{name} {first}")
        if found := _XX.match(specs[index]):
            specs[index] = starred(f"{found.group(1)} {variant.get(found.group(1))}")
    if specs:
        requirements[env] = specs


def check(spec: object, where: str) -> str:
    """Return the name that a spec is about; RecipeError when conda cannot read the spec."""
    if not isinstance(spec, str):
        raise RecipeError(f"{where}: {spec!r} is not a package.", remedy="Write its name.")
    text = spec.split("#", maxsplit=1)[0].strip()
    text = re.sub(r"\[[^\]]*\]$", "", text).rpartition("::")[2].strip()
    found = re.match(r"([^\s=<>!~]+)\s*(.*)$", text)
    if found is None:
        raise RecipeError(f"{where}: {spec!r} is not a package.", remedy="Write its name.")
    name, rest = found.groups()
    version = re.match(r"((?:[<>=!~]+\s+)?\S*)", rest)
    version_text = version.group(1) if version else ""
    if not version_text.startswith("^"):
        if "=" in version_text.lstrip("=<>!~") and not re.search(r"[,|<>]", version_text):
            version_text = version_text.rpartition("=")[0]  # name=version=build
        for piece in re.split(r"[,|()]", version_text):
            if not _VERSION.fullmatch(piece):
                raise RecipeError(
                    f"{where}: {spec!r}: {piece!r} is not a version.", remedy="Correct it."
                )
    return name.lower()


def readable(spec: str, where: str) -> None:
    """Raise RecipeError for a requirement that no solver can read; it may still be unsolvable."""
    text = spec.split("#", maxsplit=1)[0].strip()
    if not text or "://" in text or "[" in text:
        return  # an address, or one of the newer forms, which are not known here
    if not _NAME.fullmatch(name := check(spec, where)):
        raise RecipeError(
            f"{where}: {spec!r}: {name!r} is no name of a package.",
            remedy="A name has letters, digits, '-', '_' and '.'; write its version after a space.",
        )


def dependencies(specs: object, own: str, where: str, *, itself: bool) -> list[str]:
    """Return the names of requirements, checked as conda-build does (``ms_depends``).

    Raises RecipeError for a spec that it cannot read or one that is the package itself,
    and Unresolved for what it forgives.
    """
    names = []
    for spec in listed(specs):
        if not spec:
            continue
        name = check(spec, where)
        if name == own and not itself:
            raise RecipeError(f"{where}: {own} cannot depend on itself.", remedy="Remove it.")
        if any(char in name for char in "=!@#$%^&*:;\"'\\|<>?/"):
            raise Unresolved(f"{where}: {spec!r}: a bad character.", remedy="Correct it.")
        words = str(spec).split()
        if len(words) > 1 and words[1] in _OPERATORS:
            raise Unresolved(
                f"{where}: {spec!r}: a space after {words[1]!r}.", remedy="Remove the space."
            )
        names.append(name)
    return names


def agree(reviewed: Iterable[str], carried: Iterable[str]) -> bool:
    """Whether a package's requirements are those of the recipe, or pin them more narrowly.

    conda-build gives bare names versions when it builds (``pin_run_as_build``,
    ``pin_subpackage``), and bare versions a ``.*``.
    """
    ours, theirs = _by_name(reviewed), _by_name(carried)
    return ours.keys() == theirs.keys() and all(
        specs <= theirs[name] or not any(specs) for name, specs in ours.items()
    )


def _by_name(requirements: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for spec in requirements:
        name, _, rest = starred(" ".join(spec.split())).partition(" ")
        found.setdefault(name, set()).add(rest)
    return found
