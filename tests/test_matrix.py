"""Matrix files: what is read, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_manualbuild import matrix
from pytest_manualbuild.errors import MatrixError

DESIGN = """
[defaults]
required = true
network = false

[hosts.debian-12]
kind = "docker"
subdir = "linux-64"
image = "debian:12-slim"

[hosts.mac-mini]
kind = "ssh"
subdir = "osx-64"
address = "builder@mac-mini"
shell = "sh"
eol = 2018-12-01
provides = ["display"]
required = false
"""


def test_the_local_matrix_needs_nothing_and_requires_nothing() -> None:
    (host,) = matrix.load(None).hosts

    assert (host.name, host.kind, host.required) == ("local", "local", False)
    assert host.subdir == matrix.local_subdir()


def test_defaults_are_merged_and_a_host_overrides_them() -> None:
    debian, mac = matrix.parse(DESIGN, "design.toml").hosts

    assert debian.required
    assert not mac.required
    assert (mac.eol, mac.provides) == ("2018-12-01", ("display",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it names no host"),
        ("[hosts.a]\nkind = 'docer'\nsubdir = 'linux-64'", "Did you mean 'docker'?"),
        ("[hosts.a]\nkid = 'docker'", "hosts.a.kid"),
        ("[host.a]\nkind = 'local'", "unknown key host"),
        ("[hosts.a]\nkind = 'docker'\nsubdir = 'linux-64'", "hosts.a.image is missing"),
        ("[hosts.a]\nkind = 'docker'\nimage = 'x'", "hosts.a.subdir is missing"),
        ("[hosts.a]\nkind = 'local'\nimage = 'x'", "kind 'local' has no such key"),
        ("[hosts.a]\nkind = 'local'\nrequired = 'yes'", "true or false"),
        ("[hosts.a]\nkind = 'docker'\nimage = 'x'\nsubdir = 'linux-64'\npids = true", "pids"),
        ("[hosts.a]\nkind = 'local'\nsubdir = 'linux'", "hosts.a.subdir"),
        ("[hosts.'../a']\nkind = 'local'", "not a safe name"),
        ("[hosts.'a b']\nkind = 'local'", "not a safe name"),
        ("[hosts.a]\nkind = 'local'\n[hosts.A]\nkind = 'local'", "one name in reports"),
        ("[hosts.'a.b']\nkind = 'local'\n[hosts.a_b]\nkind = 'local'", "one name in reports"),
        ("[hosts.a]\nkind = 'local'\n[hosts.a]\nkind = 'local'", "line"),
        ("[hosts.a\nkind = 'local'", "line 1"),
        ("hosts = 3", "hosts must be a table"),
        ("[defaults]\ncolour = 'red'\n[hosts.a]\nkind = 'local'", "defaults.colour"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(text: str, says: str) -> None:
    with pytest.raises(MatrixError) as caught:
        matrix.parse(text, "some/matrix.toml")

    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("some/matrix.toml: ")
    assert says in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "--matrix is empty"),
        ("/dev/zero", "/dev/zero: it has more than"),
        ("mark.toml", "mark.toml:1: it begins with a byte order mark"),
        ("latin.toml", "latin.toml:2: not UTF-8"),
    ],
)
def test_what_is_no_matrix_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mark.toml").write_text("[hosts.a]\nkind = 'local'\n", encoding="utf-8-sig")
    Path("latin.toml").write_bytes(b"[hosts.a]\nkind = 'l\xf6cal'\n")

    with pytest.raises(MatrixError) as refused:
        matrix.load(name)

    assert str(refused.value).startswith(says)


def test_an_unknown_name_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="local"):
        matrix.load("cfep99")
    with pytest.raises(MatrixError, match="cannot be read"):
        matrix.load(str(tmp_path / "none.toml"))


def test_the_schema_for_editors_is_up_to_date_and_agrees() -> None:
    stored = json.loads((matrix.shipped_folder() / "matrix.schema.json").read_text())

    assert stored == matrix.schema()
    # JSON has no dates: an editor sees the text of one
    described = json.loads(json.dumps(tomllib.loads(DESIGN), default=str))
    jsonschema.validate(described, stored)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"hosts": {"a": {"kid": "docker"}}}, stored)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        matrix.parse(text, "x.toml")
    except MatrixError as error:
        assert str(error).startswith("x.toml: ")
