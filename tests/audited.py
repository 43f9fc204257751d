"""Packages for the tests of the audit, built as conda-build lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builder

from pytest_manualbuild import audit

RECIPE = """
package: {name: odd, version: "1"}
source: {url: https://example.org/odd.tar.gz, sha256: %s}
test: {commands: ["odd"]}
about: {license: MIT, license_file: LICENSE}
""" % ("a" * 64)
LICENSE = {"info/licenses/LICENSE": b"Do what you like.\n"}


def make(
    folder: Path,
    files: dict[str, bytes] | None = None,
    *,
    recipe: str | None = RECIPE,
    **fields: Any,
) -> Path:
    """Build one package as conda-build lays it out, in a folder of its subdir."""
    source = folder / "recipe"
    source.mkdir(exist_ok=True)
    (source / "meta.yaml").write_text(recipe or RECIPE)
    staged = {name: builder.Staged(data=data) for name, data in (files or {}).items()}
    values: dict[str, Any] = {
        "recipe": recipe and source,
        "files": staged,
        "subdir": "linux-64",
        **fields,
    }
    values["info"] = {**LICENSE, **values.get("info", {})}
    (path,) = builder.write(builder.Built(**values), folder, ".conda")
    return path


def codes(path: Path) -> set[tuple[str, str, str]]:
    """Audit a package; return what was found in short."""
    return {(f.severity, f.code, f.file) for f in audit.audit(path)}


A = {"lib/a": b"x"}
TOKEN = b"token = ghp_" + b"aB3" * 12 + b"\n"
