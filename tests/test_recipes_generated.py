"""Whatever a recipe says, the answer is a rendering or a refusal in one line."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_manualbuild import recipe
from pytest_manualbuild.checks import checks
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import selectors, specs
from pytest_manualbuild.recipe.problems import Unresolved

PIECES = st.sampled_from(
    [
        *("package:\n", "  name: odd\n", "  version: '1'\n", "outputs:\n", "  - name: part\n"),
        *("test:\n", "  commands:\n", "  imports:\n", "  requires:\n", "  files:\n", "    - a\n"),
        *("build:\n", "  noarch: python\n", "  skip: true  # [win]\n", "  number: {{ n }}\n"),
        *("requirements:\n", "  host:\n", "  run:\n", "    - {{ pin_subpackage('part') }}\n"),
        *("{% set n = 1 %}\n", "{% if linux %}\n", "{% endif %}\n", "{% for i in n %}\n"),
        *(
            "{{ compiler('c') }}",
            "{{ n }}",
            "{{",
            "}}",
            "{%",
            "#",
            "[",
            "]",
            "  # [n]\n",
            "*a",
            "&a ",
        ),
        *("!!python/object:os ", "- ", ": ", "\n", "\t", "'", '"', "|\n", ">\n", "\x00", "\u2028"),
    ]
)
TEXT = st.text(alphabet=string.printable, max_size=40)
RECIPES = st.lists(st.one_of(PIECES, PIECES, PIECES, TEXT), max_size=30).map("".join)
LINES = st.text(alphabet="abxy019 ()[]{}'\"#%-+*/<>=!.,:~linuxotadr", max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


def answered(folder: Path, text: str) -> None:
    (folder / "meta.yaml").write_text(text, errors="replace")
    try:
        found = recipe.load(folder, subdir="linux-64").outputs
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(folder) in str(error)
    else:
        assert all(checks(one.sections)[0].name == "install" for one in found)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(RECIPES)
def test_pieces_of_recipes_in_any_order(folder: Path, text: str) -> None:
    answered(folder, text)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(LINES, PIECES), max_size=6))
def test_any_lines_in_a_test_section(folder: Path, lines: list[str]) -> None:
    body = "".join(f"    - {line}\n" for line in lines)

    answered(folder, f"package:\n  name: odd\n  version: '1'\ntest:\n  commands:\n{body}")


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_a_selector_is_decided_or_refused(text: str) -> None:
    known = selectors.names("linux-64", {}, "linux-64")
    try:
        assert selectors.evaluate(text, known, "meta.yaml:1") in (True, False)
    except Unresolved as error:
        assert "\n" not in str(error)


@given(st.lists(st.from_regex(r"[a-z]{1,3}( [<>=]{0,2}[0-9.]{1,4}\*?)?", fullmatch=True)))
def test_requirements_agree_with_themselves_and_with_narrower_ones(items: list[str]) -> None:
    assert specs.agree(items, items)
    assert specs.agree(items, [specs.starred(item) for item in items])
    assert specs.agree({item.split()[0] for item in items}, items)
    assert not specs.agree(items, [*items, "another"])
    assert not specs.agree([*items, "another"], items)
