"""What we plan is what rattler-build itself writes into its packages, for recipes of all shapes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recipe_v1 import build, write

from pytest_manualbuild import package, plan
from pytest_manualbuild.recipe import rattler_tests

WORDS = st.sampled_from(
    ["echo a", "true", "echo ${{ version }}", "echo ${{ nothing }} x", "echo 'q' \"r\"", "a: b",
     "# c", "echo ${{ flavor }}", "é", "echo a\necho b", "echo a\n", "printf '%s' {}", "1.0"]
)  # fmt: skip
LISTS = st.lists(WORDS, min_size=1, max_size=3)
CONDITIONS = st.sampled_from(["unix", "win", 'flavor == "a"', 'flavor == "b"', "not linux"])
SCRIPTS = st.one_of(
    WORDS,
    LISTS,
    st.sampled_from([{"file": "check.py"}, "check", {"file": "check.sh", "env": {"A": "b"}}]),
    st.fixed_dictionaries(
        {"content": st.one_of(WORDS, LISTS)},
        optional={
            "interpreter": st.sampled_from(
                ["bash", "python", "perl", "rscript", "ruby", "nushell"]
            ),
            "env": st.just({"FOO": "${{ version }}", "BAR": "b a r"}),
            "cwd": st.just("share"),
        },
    ),
)
TESTS = st.one_of(
    st.fixed_dictionaries(
        {"script": SCRIPTS},
        optional={
            "requirements": st.sampled_from(
                [{"run": ["python", "q >=1,<2"]}, {"build": ["${{ compiler('c') }}"]}]
            ),
            "files": st.sampled_from([{"recipe": ["d.txt"]}, {"recipe": ["data/", "*.none"]}]),
        },
    ),
    st.fixed_dictionaries(
        {
            "python": st.fixed_dictionaries(
                {"imports": st.just(["a", "a.b"])},
                optional={
                    "pip_check": st.booleans(),
                    "python_version": st.sampled_from(
                        ["3.11", ["3.11", "3.12.*"], "*", "${{ python_min }}.*", ["3.9"]]
                    ),
                },
            )
        }
    ),
    st.sampled_from(
        [
            {"perl": {"uses": ["A::B", "C"]}},
            {"r": {"libraries": ["x"]}},
            {"ruby": {"requires": ["y"]}},
            {"downstream": "other"},
            {"package_contents": {"files": ["**"], "lib": {"not_exists": ["z"]}}},
        ]
    ),
)
RECIPES = st.lists(
    st.one_of(
        TESTS,
        st.builds(lambda c, t, e: {"if": c, "then": t, "else": e}, CONDITIONS, TESTS, TESTS),
        st.builds(lambda c, t: {"if": c, "then": [t]}, CONDITIONS, TESTS),
    ),
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(RECIPES)
@example([{"script": {"content": ["echo a", "echo ${{ version }}"], "interpreter": "python"}}])
@example(
    [{"package_contents": {"files": ["**"]}}, {"script": "true", "files": {"recipe": ["d.txt"]}}]
)
def test_the_planned_tests_are_those_that_rattler_build_packs(tests: list[dict[str, Any]]) -> None:
    described = {
        "context": {"version": "1.50", "python_min": "3.10"},
        "package": {"name": "p", "version": "${{ version }}"},
        "build": {"noarch": "generic", "script": ["echo ${{ flavor }} > $PREFIX/f"]},
        "tests": tests,
    }
    with tempfile.TemporaryDirectory() as folder:
        recipe = write(
            Path(folder) / "recipe",
            json.dumps(described, indent=1),  # which is YAML
            {"check.py": "pass\n\n", "check.sh": "echo ${{ no jinja here }}\n", "d.txt": "d",
             "data/x/y": "y"},
        )  # fmt: skip

        (path,) = build(recipe, Path(folder) / "out", variants={"flavor": ["a"]})

        artifact = package.read(path)
        carried = package.member(path, package.TESTS)
        assert carried is not None
        packed = rattler_tests.packaged(carried, "p")
        assert rattler_tests.shipped(plan.sections_of(recipe, artifact)) == packed
