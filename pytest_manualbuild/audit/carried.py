"""Looks at the recipe, the tests and the licence that a package carries in its ``info/``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document
from pytest_manualbuild.records import Finding, Severity

_RECIPES = ("info/recipe/rendered_recipe.yaml", "info/recipe/meta.yaml", "info/recipe/recipe.yaml")
_MOST_RECIPE = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CREDENTIALS = re.compile(rb"[a-z]://[^\s/:@\"'{}<>]+:[^\s/:@\"'{}<>]+@")
_TESTED = ("commands", "imports", "script")


def judge(info: Mapping[str, bytes], index: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is missing or doubtful in what a package carries."""
    yield from _licence(info, index)
    for file, content in info.items():
        if file.startswith("info/recipe/") and _CREDENTIALS.search(content):
            yield _finding(
                "secret-url",
                file,
                "It holds a URL with a password.",
                "Revoke it, take it out, and build again.",
            )
    name = next((name for name in _RECIPES if name in info), None)
    if name is None:
        yield _finding(
            "recipe-missing",
            "",
            "It carries no recipe, so nobody can see how it was built and should be tested.",
            "Build it with its recipe inside, as conda-build and rattler-build do by default.",
        )
        return
    recipe = _load(info[name])
    if recipe is None:
        yield _finding(
            "recipe-unreadable", name, "It is not valid YAML.", "Build the package again."
        )
        return
    for source in _tables(recipe.get("source")):
        yield from _source(name, source)
    yield from _tests(name, recipe, info)


def _finding(
    code: str, file: str, message: str, remedy: str, severity: Severity = Severity.ERROR
) -> Finding:
    return Finding(code=code, severity=severity, file=file, message=message, remedy=remedy)


def _load(content: bytes) -> dict[str, Any] | None:
    """Return the rendered recipe; None if it is none. Only its first levels are looked at."""
    loaded = _parse(content)
    if isinstance(loaded, dict) and isinstance(loaded.get("recipe"), dict):
        loaded = loaded["recipe"]  # rattler-build wraps it
    return loaded if isinstance(loaded, dict) else None


def _parse(content: bytes) -> object:
    """Return what a YAML text says, numbers as text; None if it is too large or not valid."""
    if len(content) > _MOST_RECIPE:
        return None
    try:
        parsed: object = document.load(content.decode(), "")
    except (RecipeError, ValueError):
        return None
    return parsed


def _tables(value: object) -> list[Mapping[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    return [row for row in rows if isinstance(row, dict)]


def _source(name: str, source: Mapping[str, Any]) -> Iterator[Finding]:
    git = source.get("git_url") or source.get("git")
    if url := source.get("url"):
        if not _SHA256.fullmatch(str(source.get("sha256", ""))):
            yield _finding(
                "source-unpinned",
                name,
                f"Its source {_short(url)} has no sha256.",
                "Pin the source with its sha256, and build again.",
            )
    elif git:
        if not _COMMIT.fullmatch(str(source.get("git_rev") or source.get("rev") or "")):
            yield _finding(
                "source-unpinned",
                name,
                f"Its source {_short(git)} is not pinned to a full commit.",
                "Name the full hash of the commit, and build again.",
            )
    elif source.get("path"):
        yield _finding(
            "source-path",
            name,
            f"Its source is the folder {_short(source['path'])} of the machine that built it.",
            "Build from a URL with a sha256.",
            # Recipes that live in the repository of their source have `path: ..`.
            Severity.WARNING,
        )
    elif source.get("hg_url") or source.get("svn_url"):
        yield _finding(
            "source-unpinned",
            name,
            "Its source is a repository without commits that name their content.",
            "Build from a URL with a sha256, or from git.",
            Severity.WARNING,
        )


def _short(value: object) -> str:
    return str(value[0] if isinstance(value, list) and value else value)[:120]


def _tests(name: str, recipe: Mapping[str, Any], info: Mapping[str, bytes]) -> Iterator[Finding]:
    section, rows = recipe.get("test"), _tables(recipe.get("tests"))
    # rattler-build looks at `package_contents` when it builds; its tests.yaml leaves that out.
    described = (
        any(row.keys() - {"package_contents"} for row in rows)
        or (isinstance(section, dict) and any(section.get(key) for key in _TESTED))
        or any(file.startswith("info/recipe/run_test.") for file in info)
    )
    carried = any(file.startswith("info/test/run_test.") for file in info) or bool(
        _parse(info.get("info/tests/tests.yaml", b""))
    )
    if described and not carried:
        yield _finding(
            "tests-missing",
            name,
            "Its recipe has tests, and the package does not carry them.",
            "Build it again, and let no one take files out of it.",
        )
    elif described or carried:
        return
    elif any(row.get("package_contents") for row in rows):
        yield _finding(
            "tests-contents",
            name,
            "Its recipe tests only which files it holds (package_contents); nothing of it is run.",
            "Add a test that runs something of it, such as an import or a command.",
            Severity.WARNING,
        )
    else:
        yield _finding(
            "tests-none",
            name,
            "Its recipe has no tests: that it can be installed is all that can be proven.",
            "Add tests to the recipe.",
            Severity.WARNING,
        )


def _licence(info: Mapping[str, bytes], index: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        about = json.loads(info.get("info/about.json", b"{}"))
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        yield _finding(
            "about-unreadable", "info/about.json", "It is not a JSON object.", "Build it again."
        )
        about = {}
    named = about.get("license") or index.get("license")
    if not named:
        yield _finding(
            "license-unnamed",
            "info/about.json",
            "It names no licence, so nobody may distribute it.",
            "Add about/license to the recipe.",
            Severity.WARNING,
        )
    elif not _is_spdx(str(named)):
        yield _finding(
            "license-spdx",
            "info/about.json",
            f"Its licence {str(named)[:80]!r} is no SPDX expression.",
            "Write it as SPDX does, such as BSD-3-Clause.",
            Severity.WARNING,
        )
    texts = [
        name
        for name in info
        if name.startswith("info/licenses/") or re.fullmatch(r"info/LICEN[CS]E.*", name)
    ]
    for name in texts:
        if not info[name].strip():
            yield _finding(
                "license-empty", name, "The licence is empty.", "Name the right license_file."
            )
    if not texts:
        yield _finding(
            "license-missing",
            "",
            "It carries no text of its licence, which most licences demand.",
            "Add about/license_file to the recipe.",
            Severity.WARNING,
        )


def _is_spdx(text: str) -> bool:
    from packaging.licenses import (  # noqa: PLC0415 # 10 ms of tables
        InvalidLicenseExpression,
        canonicalize_license_expression,
    )

    try:
        return bool(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, RecursionError):
        return False
