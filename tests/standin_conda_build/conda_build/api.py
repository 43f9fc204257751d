"""What ``conda_build.api`` documents of ``Config`` and ``render``, and nothing behind it.

The answer is read from ``answer.json`` of the recipe, in the form of the conformance data; how it
was called is written to ``called.json`` there. It proves nothing about the real conda-build.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Config(SimpleNamespace):
    """Keeps what it is given, and names the folders of the builder."""

    host_prefix = "/home/me/croot/_h_env_placehold_placehold"
    build_prefix = "/home/me/croot/_build_env"
    work_dir = "/home/me/croot/work"


class MetaData:
    """One output, with the methods that are used of conda-build's class of that name."""

    def __init__(self, output: dict[str, Any], config: Config) -> None:
        self._output = output
        self.config = Config(**{**vars(config), "variant": {**output["variant"], "unused": "1"}})
        self.noarch = output["noarch"] or False
        self.is_output = output["is_output"]
        self.type = output.get("type", "conda")

    def name(self) -> str:
        return str(self._output["name"])

    def version(self) -> str:
        return str(self._output["version"])

    def build_number(self) -> int:
        return int(self._output["build_number"])

    def skip(self) -> bool:
        return bool(self._output["skip"])

    def get_used_vars(self) -> set[str]:
        return set(self._output["variant"])

    def get_value(self, name: str) -> Any:
        return {"requirements/run": self._output["run"]}[name]

    def get_section(self, name: str) -> Any:
        return {"test": self._output["test_raw"], "extra": {}}[name]


def render(
    recipe_path: str, config: Config, variants: object, **options: object
) -> list[tuple[MetaData, bool, bool]]:
    """Return what ``answer.json`` says."""
    print("conda-build speaks on standard output as it likes")  # noqa: T201 # so does the real one
    folder = Path(recipe_path)
    called = {"config": vars(config), "variants": variants, **options, "environ": dict(os.environ)}
    (folder / "called.json").write_text(json.dumps(called))
    answer = json.loads((folder / "answer.json").read_text())
    if "error" in answer:
        raise ValueError(answer["error"]["message"])
    return [(MetaData(output, config), False, False) for output in answer["outputs"]]
