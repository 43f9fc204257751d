"""Data flows one way: which module may import which, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest_manualbuild

PACKAGE = Path(pytest_manualbuild.__file__).parent
# Down the road; a module imports from its own stop or from an earlier one.
ROAD = [
    {"__init__", "errors", "model", "records"},
    {"globs", "strictjson", "tomlfile", "untrusted", "package", "recipe"},
    {
        "matrix",
        "checks",
        "plan",
        "outline",
        "carried",
        "build",
        "build_record",
        "commits",
        "_rattler_build",
    },
    {"hosts", "framing", "patience", "shells", "batch"},
    {"audit", "compare", "diffoscope"},
    {"environment"},
    {"languages", "execution"},
    {"evidence", "deviations", "reports", "body"},
    {"gate"},
    {"targets", "copies", "upload", "attestations", "request", "published"},
    {
        "importing",
        "scheduling",
        "nodes",
        "narrowing",
        "outfiles",
        "recipe_tests",
        "recipe_fixtures",
        "show",
        "session",
        "controller",
        "plugin",
        "verbs",
        "cli",
    },
]
STOP = {name: number for number, names in enumerate(ROAD) for name in names}
FRONT_ENDS = ROAD[-1]


def modules() -> dict[str, ast.Module]:
    """Return every module of the package by its dotted name below the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


def imports(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, also those inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(names: set[str]) -> set[str]:
    """Return the stops of the road among imported names."""
    tops = {name.split(".")[1] for name in names if name.startswith("pytest_manualbuild.")}
    return {top for top in tops if top in STOP}


def test_every_module_has_its_place_on_the_road() -> None:
    assert {name.partition(".")[0] for name in modules()} == set(STOP)


def test_imports_go_up_the_road_only() -> None:
    wrong = [
        f"{name} imports {top}"
        for name, tree in modules().items()
        for top in sorted(ours(imports(tree)))
        if STOP[top] > STOP[name.partition(".")[0]]
    ]
    assert wrong == []


def test_only_the_front_ends_know_pytest() -> None:
    wrong = [
        name
        for name, tree in modules().items()
        if name.partition(".")[0] not in FRONT_ENDS
        and any(one.partition(".")[0] in {"pytest", "_pytest", "xdist"} for one in imports(tree))
    ]
    assert wrong == []


def test_hosts_and_execution_do_not_know_reports() -> None:
    early = set().union(*ROAD[: STOP["execution"] + 1])
    wrong = [
        name
        for name, tree in modules().items()
        if name.partition(".")[0] in early and "reports" in ours(imports(tree))
    ]
    assert wrong == []


def test_only_the_front_ends_print() -> None:
    wrong = [
        name
        for name, tree in modules().items()
        # A module with an underscore is a process of its own, and that is how it answers.
        if name.partition(".")[0] not in FRONT_ENDS and not name.rpartition(".")[2].startswith("_")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}
            and isinstance(node.value, ast.Name) and node.value.id == "sys")
    ]  # fmt: skip
    assert wrong == []
