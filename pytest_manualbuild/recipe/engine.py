"""Renders a recipe's folder to plain values, one for each package that it describes.

Runs in the child process (``_render``), never in the controller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document, functions, outputs, used, variants
from pytest_manualbuild.recipe.document import listed
from pytest_manualbuild.recipe.metadata import Metadata, Source
from pytest_manualbuild.recipe.variants import Variant

_TESTS = ("imports", "commands", "requires", "files", "source_files", "downstreams")
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
# Defined by the machine that builds, and empty on any other: what conda-build makes of them.
_BUILDERS = {
    *("CONDA_BUILD_SYSROOT", "SDKROOT", "CYGWIN_PREFIX", "SCRIPTS", "BUILD"),
    *("LIBRARY_PREFIX", "LIBRARY_BIN", "LIBRARY_INC", "LIBRARY_LIB", "LANG", "LC_ALL"),
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "MAKEFLAGS", "DISPLAY"),
    *("PYTHON", "PERL", "R", "LUA", "OSX_ARCH", "MACOSX_DEPLOYMENT_TARGET"),
}
_MOST_UNKNOWN = 20
_MOST_SCRIPTS = 1_000
_ALWAYS = ("python", "numpy", "target_platform", "channel_targets")


def render(
    folder: Path,
    *,
    subdir: str,
    configs: Sequence[Path] = (),
    exclusive: Path | None = None,
    variant: Mapping[str, Any] | None = None,
    config: str = "",
) -> list[dict[str, Any]]:
    """Return what each package of a recipe is: name, version, variant, test section and more.

    For the arguments see ``wanted.Wanted``. Raises RecipeError, also for an unknown name in
    jinja that the tests depend on; conda-build refuses any such name when it builds.
    """
    path = folder / "meta.yaml"
    source = Source(folder=folder, file=str(path), text=document.read(path), subdir=subdir)
    own = folder / "conda_build_config.yaml"
    built = variants.parse(config, "conda_build_config.yaml of the package", subdir)
    files = [exclusive] if exclusive else [own] if own.is_file() and not built else []
    sources = [variants.read(file, subdir) for file in [*files, *configs]]
    sources += [built] if built else []
    if variant:
        sources.append(dict(variant))
    described, problem = _packages(source, sources, {})
    given: dict[str, str] = {}
    while problem is not None:
        found = _UNDEFINED.search(problem.problem)
        if found is None or found.group(1) in given or len(given) > _MOST_UNKNOWN:
            raise problem
        name = found.group(1)
        given[name] = f"\ue003{name}"
        try:
            other, next_problem = _packages(source, sources, given)
        except RecipeError:  # about what stands for it, in a name or version: that says nothing
            raise problem from None
        if other != described and name not in _BUILDERS:
            raise problem
        described, problem = (described if name in _BUILDERS else other), next_problem
    return described


def _packages(
    source: Source, sources: Sequence[Variant], given: Mapping[str, str]
) -> tuple[list[dict[str, Any]], RecipeError | None]:
    """Render once; return the packages, and what the first of them lacks."""
    recipe = Metadata(source, {}, given)
    spec = variants.combine([variants.defaults(source.subdir), *sources])
    found = variants.explode(spec, _mentioned(source, spec), sources)
    extra = recipe.meta.get("extra") or {}
    if extra.get("final"):
        # What a package carries: it was rendered when it was built.
        recipe.variant = found[0]
        parent = (extra.get("parent_recipe") or {}).get("name")
        recipe.parent = None if parent == recipe.value("package", "name") else parent
        packages = [recipe]
    else:
        packages = outputs.expand(recipe, found)
    problem = next((one.unresolved for one in packages if one.unresolved), None)
    return [_plain(one) for one in packages], problem


def _mentioned(source: Source, spec: Variant) -> set[str]:
    """Return the keys that the recipe can use: those whose name stands anywhere in its files."""
    scripts = (p for p in source.folder.rglob("*") if p.suffix in (".sh", ".bat"))
    names = (str(path.relative_to(source.folder)) for path in islice(scripts, _MOST_SCRIPTS))
    texts = [source.text, *(source.script(name) or "" for name in names)]
    whole = "\n".join(texts).replace("-", "_")
    return {
        key
        for key in spec
        if key in _ALWAYS or any(word.replace("-", "_") in whole for word in used.words(key))
    }


def _plain(metadata: Metadata) -> dict[str, Any]:
    for key, value in (("name", metadata.name), ("version", metadata.version)):
        # With outputs the top level needs no version.
        if not value and (key == "name" or not metadata.outputs):
            raise RecipeError(
                f"{metadata.source.file}: package/{key} is missing.", remedy="Add it."
            )
    test = metadata.meta.get("test") or {}
    keys, final = metadata.used(), (metadata.meta.get("extra") or {}).get("final")
    values = {
        "name": metadata.name,
        "version": metadata.version,
        "build_number": metadata.build_number,
        "noarch": metadata.noarch or None,
        "skip": metadata.skip or metadata.skipped,
        "is_output": metadata.parent is not None,
        "type": metadata.type,
        "variant": {key: metadata.variant[key] for key in sorted(keys)},
        "run": listed(metadata.value("requirements", "run")),
        "test": {key: listed(metadata.value("test", key)) for key in _TESTS},
        "unknown": sorted(str(key) for key in test if key not in (*_TESTS, "script")),
        "extra": metadata.meta.get("extra"),
        # A rendered output's script lies in the recipe that it is an output of.
        "test_script": test.get("script") if metadata.parent and not final else None,
    }
    system = metadata.source.subdir.partition("-")[0]
    return {key: functions.at_test_time(value, system) for key, value in values.items()}
