"""The child process in which conda-build renders a recipe: one JSON request, one JSON answer.

The answer has the form of ``engine.render``. Nothing is solved, downloaded or finalized.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_TESTS = ("imports", "commands", "requires", "files", "source_files", "downstreams")


def render(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the packages that conda-build's own API gives."""
    from conda_build import api  # noqa: PLC0415 # a conda package

    platform, _, arch = asked["subdir"].partition("-")
    config = api.Config(
        platform=platform,
        arch=arch,
        croot=str(Path.cwd() / "croot"),
        set_build_id=False,
        no_download_source=True,
        trim_skip=False,
        variant_config_files=asked["configs"],
        exclusive_config_files=[asked["exclusive"]] if asked["exclusive"] else [],
        verbose=False,
    )
    found = api.render(
        asked["folder"],
        config=config,
        variants=asked["variant"],
        permit_unsatisfiable_variants=True,
        finalize=False,
        bypass_env_check=True,
    )
    return [plain(metadata) for metadata, *_ in found]


def plain(metadata: Any) -> dict[str, Any]:  # noqa: ANN401 # conda-build's, without types
    """Return one of conda-build's ``MetaData`` as plain values."""
    test = metadata.get_section("test") or {}
    variant = metadata.config.variant
    values = {
        "name": metadata.name(),
        "version": str(metadata.version()),
        "build_number": int(metadata.build_number() or 0),
        "noarch": metadata.noarch or None,
        "skip": bool(metadata.skip()),
        "is_output": bool(metadata.is_output),
        "type": metadata.type or "conda",
        "variant": {key: variant[key] for key in sorted(metadata.get_used_vars())},
        "run": _listed(metadata.get_value("requirements/run")),
        "test": {key: _listed(test.get(key)) for key in _TESTS},
        "unknown": sorted(str(key) for key in test if key not in (*_TESTS, "script")),
        "extra": metadata.get_section("extra"),
        "test_script": test.get("script") if metadata.is_output else None,
    }
    # The folders of this machine are variables where the tests run.
    form = "%{}%" if str(variant.get("target_platform", "")).startswith("win") else "${}"
    config = metadata.config
    folders = {"PREFIX": config.host_prefix, "BUILD_PREFIX": config.build_prefix}
    folders |= {"SRC_DIR": config.work_dir}
    text = json.dumps(values)
    for name, folder in folders.items():
        text = text.replace(json.dumps(str(folder))[1:-1], form.format(name))
    said: dict[str, Any] = json.loads(text)
    return said


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def main() -> None:
    """Answer the one request on standard input."""
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may speak on the stream of answers
    asked = json.load(sys.stdin)
    said: dict[str, Any]
    try:
        said = {"packages": render(asked)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 # a recipe can raise anything
        words = " ".join(str(error).split())[:300]
        said = {"problem": f"{type(error).__name__}: {words}"}
    with os.fdopen(answers, "w") as stream:
        stream.write(json.dumps(said))


if __name__ == "__main__":
    main()
