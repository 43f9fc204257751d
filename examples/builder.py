"""Builds the example packages as conda-build lays them out, without conda-build.

For the examples and the tests; not part of the plugin. The recipes are ours,
so they are rendered with plain jinja2 and YAML.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml
from conda_package_streaming.create import conda_builder

MTIME = 1_700_000_000
PLACEHOLDER = ("/opt/" + "placehold_" * 30)[:255]


@dataclass(frozen=True, kw_only=True)
class Staged:
    """One file of a package: its bytes, and whether it is a program."""

    data: bytes
    executable: bool = False
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """What goes into a package besides its files."""

    recipe: Path | None
    files: Mapping[str, Staged]
    subdir: str
    build: str = "0"
    depends: tuple[str, ...] | None = None
    """None: what the recipe says under requirements/run."""
    placeholder: str = PLACEHOLDER
    entry_points: tuple[str, ...] = ()
    info: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of ``info/``, or others in place of ours."""
    name: str | None = None
    version: str | None = None


def render(recipe: Path) -> dict[str, Any]:
    """Render a recipe of our own."""
    text = jinja2.Template((recipe / "meta.yaml").read_text()).render()
    loaded = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 # texts only, as conda-build
    assert isinstance(loaded, dict)  # noqa: S101 # our own recipe
    return loaded


def _tests(recipe: Path, meta: dict[str, Any], dist: str) -> dict[str, bytes]:
    """Return ``info/test`` as conda-build's create_test.py writes it."""
    test = meta.get("test") or {}
    found: dict[str, bytes] = {}
    commands = test.get("commands") or []
    script = recipe / "run_test.sh"
    if commands or script.is_file():
        text = script.read_text() if script.is_file() else ""
        text += "\n\nset -ex\n\n\n\n" + "".join(f"{line}\n" for line in commands) + "exit 0\n"
        found["info/test/run_test.sh"] = text.encode()
    imports = test.get("imports") or []
    script = recipe / "run_test.py"
    if imports or script.is_file():
        text = f"#  tests for {dist} (this is a generated file);\n"
        text += f"print('===== testing package: {dist} =====');\n"
        if script.is_file():
            text += "print('running run_test.py');\n#  --- run_test.py (begin) ---\n"
            text += script.read_text() + "#  --- run_test.py (end) ---\n\n"
            text += f"print('===== {dist} OK =====');\n"
        for name in imports:
            text += f"print(\"import: '{name}'\")\nimport {name}\n\n"
        found["info/test/run_test.py"] = text.encode()
    if test.get("requires"):
        found["info/test/test_time_dependencies.json"] = json.dumps(test["requires"]).encode()
    for glob in test.get("files") or []:
        for path in sorted(recipe.rglob(glob)):
            found[f"info/test/{path.relative_to(recipe).as_posix()}"] = path.read_bytes()
    return found


def _recipe(recipe: Path, meta: dict[str, Any], build: str) -> dict[str, bytes]:
    """Return ``info/recipe``: the rendered text, the original, and the other files."""
    rendered = {**meta, "build": {**(meta.get("build") or {}), "string": build}}
    rendered["extra"] = {**(meta.get("extra") or {}), "final": "true"}
    original = (recipe / "meta.yaml").read_bytes()
    found = {
        f"info/recipe/{path.relative_to(recipe).as_posix()}": path.read_bytes()
        for path in sorted(recipe.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    found["info/recipe/meta.yaml"] = yaml.safe_dump(rendered, sort_keys=False).encode()
    found["info/recipe/meta.yaml.template"] = original
    found["info/recipe/conda_build_config.yaml"] = b"{}\n"
    return found


def _paths(built: Built) -> list[dict[str, Any]]:
    rows = []
    for name, staged in sorted(built.files.items()):
        if staged.link is not None:
            digest = hashlib.sha256(b"").hexdigest()
            rows.append({"_path": name, "path_type": "softlink", "sha256": digest})
            continue
        row: dict[str, Any] = {
            "_path": name,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(staged.data).hexdigest(),
            "size_in_bytes": len(staged.data),
        }
        if built.placeholder.encode() in staged.data:
            row["prefix_placeholder"] = built.placeholder
            row["file_mode"] = "binary" if b"\0" in staged.data else "text"
        rows.append(row)
    return rows


def contents(built: Built) -> tuple[str, dict[str, Staged]]:
    """Return a package's ``name-version-build`` and all of its files, ``info/`` first."""
    meta = render(built.recipe) if built.recipe is not None else {}
    name = built.name or meta["package"]["name"]
    version = built.version or meta["package"]["version"]
    dist = f"{name}-{version}-{built.build}"
    depends = built.depends
    if depends is None:
        depends = tuple((meta.get("requirements") or {}).get("run") or ())
    noarch = (meta.get("build") or {}).get("noarch")
    number = re.search(r"\d+$", built.build)
    index = {
        "name": name,
        "version": version,
        "build": built.build,
        "build_number": int(number.group()) if number else 0,
        "depends": list(depends),
        "subdir": built.subdir,
        "arch": None if noarch else "x86_64",
        "platform": None if noarch else built.subdir.partition("-")[0],
        "license": "BSD-3-Clause",
        "timestamp": MTIME * 1000,
        **({"noarch": noarch} if noarch else {}),
    }
    rows = _paths(built)
    prefixed = [row for row in rows if "prefix_placeholder" in row]
    info: dict[str, bytes] = {
        "info/index.json": json.dumps(index, indent=2, sort_keys=True).encode(),
        "info/paths.json": json.dumps({"paths": rows, "paths_version": 1}, indent=1).encode(),
        "info/about.json": json.dumps({"license": "BSD-3-Clause", "summary": name}).encode(),
        "info/hash_input.json": b"{}",
        "info/files": "".join(f"{row['_path']}\n" for row in rows).encode(),
    }
    if prefixed:
        info["info/has_prefix"] = "".join(
            f"{row['prefix_placeholder']} {row['file_mode']} {row['_path']}\n" for row in prefixed
        ).encode()
    if noarch == "python":
        link = {
            "noarch": {"type": "python", "entry_points": list(built.entry_points)},
            "package_metadata_version": 1,
        }
        info["info/link.json"] = json.dumps(link).encode()
    if built.recipe is not None:
        info |= _recipe(built.recipe, meta, built.build) | _tests(built.recipe, meta, dist)
    info |= built.info
    everything = {name: Staged(data=data) for name, data in sorted(info.items())}
    return dist, everything | dict(sorted(built.files.items()))


def write(built: Built, folder: Path, *extensions: str) -> list[Path]:
    """Write a package as ``.conda`` and ``.tar.bz2`` (or as those asked for) below its subdir."""
    dist, files = contents(built)
    target = folder / built.subdir
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for extension in extensions or (".conda", ".tar.bz2"):
        path = target / f"{dist}{extension}"
        path.unlink(missing_ok=True)
        if extension == ".conda":
            with conda_builder(dist, target, compression_level=9) as archive:
                _add(archive, files)
        else:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as plain:
                _add(plain, files)
            path.write_bytes(bz2.compress(packed.getvalue()))
        written.append(path)
    return written


def _add(archive: tarfile.TarFile, files: Mapping[str, Staged]) -> None:
    for name, staged in files.items():
        member = tarfile.TarInfo(name)
        member.mtime = MTIME
        member.mode = 0o755 if staged.executable else 0o644
        if staged.link is not None:
            member.type, member.linkname = tarfile.SYMTYPE, staged.link
            archive.addfile(member)
        else:
            member.size = len(staged.data)
            archive.addfile(member, io.BytesIO(staged.data))
