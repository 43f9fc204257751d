"""Builds packages with py-rattler-build, offline: what the tests of ``recipe.yaml`` are about."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import FORMAT

# A process of its own: its log is long, and what it leaves in memory is not ours.
_BUILD = """\
import json, sys
from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig
asked = json.loads(sys.argv[1])
names = ("target_platform", "build_platform", "host_platform")
platform = PlatformConfig(**dict.fromkeys(names, "linux-64"))
variants = VariantConfig({key: values for key, values in asked["variants"].items()})
recipe = Stage0Recipe.from_file(asked["recipe"])
for rendered in recipe.render(variants, RenderConfig(platform=platform)):
    rendered.run_build(
        output_dir=asked["into"], channels=asked["channels"], package_format=asked["format"]
    )
"""


def write(folder: Path, text: str, files: Mapping[str, str] | None = None) -> Path:
    """Write a recipe and its files; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text)
    if "license_file" in text:
        (folder / "LICENSE").write_text("Do what you like with it.\n")
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def build(
    recipe: Path,
    into: Path,
    *,
    variants: Mapping[str, list[str]] | None = None,
    channels: tuple[str, ...] = (),
    extension: str = FORMAT,
) -> list[Path]:
    """Build every output and variant of a recipe into a channel folder; return the packages.

    A package whose ``package_contents`` fail is left there by rattler-build, and returned too.
    """
    pytest.importorskip("rattler_build")
    asked = {
        "recipe": str(recipe / "recipe.yaml"),
        "into": str(into),
        "variants": dict(variants or {}),
        "channels": [*channels, into.as_uri()] if into.is_dir() else list(channels),
        "format": {".conda": "conda", ".tar.bz2": "tar-bz2"}[extension],
    }
    before = set(into.glob("*/*"))
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    built = sorted(path for path in into.glob(f"*/*{extension}") if path not in before)
    assert built, done.stdout + done.stderr
    for path in into.glob("*/repodata*"):
        path.unlink()  # it may name bytes that a later variant has overwritten
    return built


ABOUT = "about:\n  license: MIT\n  license_file: LICENSE\n"


def noarch(name: str, tests: str, *, run: str = "", script: str = "", extra: str = "") -> str:
    """Return a recipe of a noarch package with these tests (YAML, not indented)."""
    indented = "".join(f"  {line}\n" for line in tests.splitlines())
    return (
        f'package:\n  name: {name}\n  version: "1.0"\n'
        f"build:\n  noarch: generic\n  script:\n"
        f"    - mkdir -p $PREFIX/share/{name} $PREFIX/bin\n"
        f"    - echo {name} > $PREFIX/share/{name}/data.txt\n{script}"
        f"requirements:\n  run: [{run}]\n{ABOUT}{extra}" + (f"tests:\n{indented}" if tests else "")
    )
