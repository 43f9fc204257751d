"""``docs/policy.schema.json`` says of policies what the loader does."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import ROOT
from pytest_manualbuild.deviations import Kind
from pytest_manualbuild.errors import PolicyError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.records import Severity

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs/policy.schema.json").read_text())
TABLES = SCHEMA["properties"]
GATE = TABLES["gate"]["properties"]


def fits(text: str) -> bool:
    value = json.loads(json.dumps(tomllib.loads(text), default=str))
    return not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(value))


def loads(folder: Path, text: str) -> bool:
    (folder / "policy.toml").write_text(text)
    try:
        policies.load(folder / "policy.toml")
    except PolicyError:
        return False
    return True


def test_it_has_the_keys_and_words_of_the_loader() -> None:
    assert set(TABLES) | {"gate.accepted", "gate.accepted_deviations"} == set(policies._TABLES)
    for name, keys in policies._TABLES.items():
        table: dict[str, Any] = SCHEMA
        for part in name.split("."):
            table = table["properties"][part]
            table = table.get("items", table)
        assert set(table["properties"]) == set(keys), name
    assert GATE["severities"]["additionalProperties"]["enum"] == list(Severity)
    kinds = GATE["accepted_deviations"]["items"]["properties"]["kind"]["enum"]
    assert set(kinds) == set(Kind)


def test_the_example_of_the_documentation_fits() -> None:
    assert fits((ROOT / "docs/verdict.md").read_text().split("```toml\n")[1].split("```")[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# approvals = 2\n",
        "[gat]\n",
        "[gate]\nmore = 1\n",
        "[gate]\napprovals = -1\n",
        "[gate]\nmax_age_days = 0\n",
        '[gate]\nreviewed_branch = "--all"\n',
        '[gate.severities]\nlink-script = "bad"\n',
        '[[gate.accepted]]\ncode = "leak-home"\n',
        '[[gate.accepted_deviations]]\nkind = "x"\npackage = "odd"\nreason = "x"\n',
        "[[enabled]]\npr = 1\n",
        '[[enabled]]\npackage = " "\n',
        '[[enabled]]\npackage = "od*"\n',
        '[gate]\nledger = ""\n',
        '[enabled]\npackage = "odd"\n',
        '[target]\nkind = "ftp"\n',
        '[target]\nlabel = "a b"\n',
        '[target]\nowner = "-x"\n',
        '[sigstore]\nidentity = "x"\nissuer = "http://x"\n',
    ],
)
def test_what_the_schema_refuses_the_loader_refuses(tmp_path: Path, text: str) -> None:
    assert (fits(text), loads(tmp_path, text)) == (False, False)


def test_what_is_no_policy_file_is_refused_and_a_matrix_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"^/dev/zero: it has more than"):
        policies.load(Path("/dev/zero"))
    path = tmp_path / "policy.toml"
    path.write_text("[gate]\nmatrix = 'none.toml'\n")
    with pytest.raises(PolicyError, match=r"policy.toml: gate.matrix: .*none.toml"):
        policies.load(path)
    path.write_text("a" + ".a" * 60_000 + " = 1\n")
    with pytest.raises(PolicyError, match="500 dots"):
        policies.load(path)
