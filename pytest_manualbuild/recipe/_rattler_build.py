"""The child process that talks to py-rattler-build: renders one ``recipe.yaml`` and ends.

A process of its own, without the caller's environment and with limits, because a recipe is a
stranger's text and its parser is native code. One JSON request comes in, one JSON answer goes
out. Nothing here needs a channel or the network.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattler_build import JinjaConfig, VariantConfig

MOST_MEMORY = 384 << 20
"""Bytes of address space; the library itself maps 100 MB of them."""
MOST_VARIANTS = 1000
_CONDA_BUILD = "conda_build_config.yaml"
"""The one name by which rattler-build knows a variant file of conda-build's form."""


def render(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a recipe, each as rattler-build describes it (stage 1).

    ``variant`` of the request has the values that a package was built with; whatever it does not
    name, and everything where it is None, comes from ``files``, of which a later one wins.
    """
    from rattler_build import (  # noqa: PLC0415 # only in this child
        JinjaConfig,
        PlatformConfig,
        RenderConfig,
        Stage0Recipe,
        VariantConfig,
    )

    path = Path(asked["path"])
    names = ("target_platform", "build_platform", "host_platform")
    platform = PlatformConfig(**dict.fromkeys(names, asked["subdir"]))

    def jinja(values: Mapping[str, Any]) -> JinjaConfig:
        return JinjaConfig(platform=platform, variant=dict(values), allow_undefined=True)

    def text(template: str, values: Mapping[str, Any]) -> str:
        # The only way into its jinja: a value of a variant file. The letter keeps it a text.
        one = VariantConfig.from_yaml_with_context(
            json.dumps({"k": [f"s{template}"]}), jinja(values)
        )
        return str(one.get_values("k")[0])[1:]  # type: ignore[index] # it was just given

    variants = read_variants(map(Path, asked["files"]), jinja({}))
    if (exact := asked["variant"]) is not None:
        # A package names what its own output used; other outputs may need the rest of the files.
        zipped = [keys for keys in variants.zip_keys or [] if not exact.keys() & set(keys)]
        given = {key: [value] for key, value in exact.items()}
        variants = VariantConfig({**variants.to_dict(), **given}, zipped)
    recipe = Stage0Recipe.from_file(path)
    outputs = []
    for rendered in recipe.render(variants, RenderConfig(platform=platform)):
        described = rendered.recipe.to_dict()
        values = {**rendered.variant, **(described.get("context") or {})}
        outputs.append(
            {
                "recipe": described,
                "variant": {key: str(value) for key, value in rendered.variant.items()},
                "pins": {
                    name: [pin.version, pin.build_string or ""]
                    for name, pin in rendered.pin_subpackages.items()
                },
                "skip": _skipped(recipe.to_dict(), described["package"]["name"], values, text),
                "scripts": [
                    [text(one, values) for one in _inline(test.get("script"))]
                    for test in described.get("tests") or []
                ],
            }
        )
        if len(outputs) > MOST_VARIANTS:
            return {"error": f"it describes more than {MOST_VARIANTS} packages"}
    return {"outputs": outputs}


def read_variants(files: Iterable[Path], jinja: JinjaConfig) -> VariantConfig:
    """Return what variant files say together, of which a later one wins."""
    from rattler_build import VariantConfig  # noqa: PLC0415 # only in this child

    variants = VariantConfig()
    for file in files:
        read = (
            VariantConfig.from_conda_build_config
            if file.name == _CONDA_BUILD
            else VariantConfig.from_file_with_context
        )
        variants = variants.merge(read(file, jinja))
    return variants


def _inline(script: object) -> Iterator[str]:
    """Yield the texts of a test's script that jinja may still stand in."""
    if isinstance(script, dict):
        script = script.get("content")
    if isinstance(script, str):
        yield script
    elif isinstance(script, list):
        yield from (str(one) for one in script)


def _skipped(
    recipe: Mapping[str, Any],
    name: str,
    values: Mapping[str, Any],
    text: Callable[[str, Mapping[str, Any]], str],
) -> bool:
    """Say whether the recipe skips the output of that name; the rendered one does not tell."""
    builds = [recipe.get("build") or {}]
    for output in recipe.get("outputs") or ():
        given = str((output.get("package") or {}).get("name", ""))
        if text(given, values) == name:
            builds.append(output.get("build") or {})
    conditions = [one for build in builds for one in _listed(build.get("skip"))]
    return any(
        one is True or text(f"${{{{ 'yes' if ({one}) else 'no' }}}}", values) == "yes"
        for one in conditions
        if one is not False
    )


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def main() -> None:
    """Answer the one request on standard input."""
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may speak on the stream of answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
    if sys.platform == "linux":  # macOS counts the shared cache of the system, too
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    try:
        said = render(json.load(sys.stdin))
    except BaseException as error:  # noqa: BLE001 # its panics are no Exception
        said = {"error": str(error) or type(error).__name__}
    answer = json.dumps(said).encode()
    while answer:
        answer = answer[os.write(answers, answer) :]
    os._exit(0)


if __name__ == "__main__":
    main()
