"""Whatever lies in a file, its reader ends soon, with a value or with one clear error."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import manualbuild, signer
from pytest_manualbuild import evidence
from pytest_manualbuild.errors import EvidenceError, ManualBuildError
from pytest_manualbuild.gate import approvals, explain, verify
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.approvals import Approval, Waiver
from pytest_manualbuild.reports import junit

MANY = settings(max_examples=300)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(
    [*policies._TABLES, *(key for keys in policies._TABLES.values() for key in keys), "x"]
)
TOML_VALUES = st.sampled_from(
    ["1", "-1", "true", '"x"', '""', "[]", "{}", "1.5", "inf", "2020-01-01", "2020-01-01T00:00:00Z",
     "07:00:00", '["a"]', '{ "leak-home" = "note" }', '"local"', '"*"']
)  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, KEYS, TOML_VALUES),
    st.builds("[{}]".format, KEYS),
    st.builds("[[{}]]".format, KEYS),
    st.text(max_size=30),
)


@MANY
@given(st.lists(LINES, max_size=8))
def test_any_policy_is_one_or_an_error(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        assert explain.explain(policies.load(path))
    except ManualBuildError as error:
        assert "\n" not in error.problem.strip() or "TOML" in error.problem


@pytest.fixture(scope="module")
def report(good: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((good / "report/evidence.json").read_text())
    return value


def places(value: object) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON value."""
    items: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, item in pairs:
        items.append((value, key))
        if isinstance(item, dict | list):
            items += places(item)
    return items


@pytest.fixture(scope="module")
def folder(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("wild") / "case"
    shutil.copytree(good, copy)
    return copy


@MANY
@given(st.data())
def test_any_evidence_is_judged_or_an_error(
    report: dict[str, Any], folder: Path, data: st.DataObject
) -> None:
    value = json.loads(json.dumps(report))
    container, key = data.draw(st.sampled_from(places(value)))
    container[key] = data.draw(JSON)
    (folder / "report/evidence.json").write_text(json.dumps(value))
    try:
        found = verify.verify(folder / "report", folder / "build_artifacts", policies.Policy())
        assert found.verdict.text()
    except EvidenceError as error:
        assert "\n" not in error.problem


@MANY
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_evidence(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        evidence.parse(data, Path("evidence.json"))


@MANY
@given(
    st.lists(
        st.sampled_from(
            ["<testsuites>", "</testsuites>", "<testsuite>", "<testcase>", "</testcase>", "<a/>",
             "<failure/>", "<error/>", "<properties>", "</properties>", "&x;", "&#0;", "\0", "<!--",
             '<property name="manualbuild.host" value="h"/>', "<!DOCTYPE a>", "<?x?>", "]]>", "é"]
        ) | st.text(max_size=10),
        max_size=20,
    )
)  # fmt: skip
def test_any_junit_is_a_list_of_cases_or_an_error(pieces: list[str]) -> None:
    try:
        junit.read("".join(pieces).encode(errors="replace"))
    except EvidenceError as error:
        assert "junit.xml" in error.problem


STATEMENTS = st.dictionaries(
    st.sampled_from([name for kind in (Approval, Waiver) for name in kind.__struct_fields__]),
    JSON,
)


@MANY
@given(STATEMENTS)
def test_any_statement_is_one_or_no_valid_one(tmp_path: Path, value: dict[str, Any]) -> None:
    for name, kind in (("approvals", approvals.APPROVAL), ("waivers", approvals.WAIVER)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "x.json").write_text(json.dumps({"kind": kind, **value}))
    now = datetime.now(UTC)
    found: list[approvals.Signed[Any]] = [
        *approvals.read_all(tmp_path, Approval, None, now),
        *approvals.read_all(tmp_path, Waiver, None, now),
    ]
    assert [(one.signature, bool(one.problem)) for one in found] == [(None, True)] * 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, '"\\ud800"'])
def test_deep_and_long_json_is_refused_soon(text: str) -> None:
    with pytest.raises(EvidenceError):
        evidence.parse(text.encode(), Path("evidence.json"))


@pytest.mark.parametrize(
    "name",
    ["evidence.json", "junit.xml", "matrix.toml", "evidence.json.sig", "approvals/x.json",
     "waivers/x.json", "waivers/x.json.sig"],
)  # fmt: skip
def test_a_named_pipe_hangs_nobody(case: Path, keys: Path, name: str) -> None:
    path = case / "report" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == "waivers/x.json.sig":
        path.with_suffix("").write_text("{}")
    (case / "signers").write_text(signer(keys, "alice", "report"))
    (case / "policy.toml").write_text('[signers]\nallowed_signers = "signers"\n')

    ran = manualbuild("verify", "report", "--artifacts", "build_artifacts", "--policy",
                      "policy.toml", cwd=case)  # fmt: skip

    assert (ran.status in (1, 4, 8), "Traceback" in ran.out) == (True, False), ran.out


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "../../x.conda", "/etc/passwd", ""])
def test_names_of_packages_are_only_names(case: Path, name: str) -> None:
    path = case / "report/evidence.json"
    value = json.loads(path.read_text())
    artifact = value["predicate"]["plan"]["packages"][0]["artifact"]
    artifact["filename"] = artifact["path"] = name
    path.write_text(json.dumps(value))
    for artifacts in (None, case / "build_artifacts"):
        found = verify.verify(case / "report", artifacts, policies.Policy()).verdict
        assert found.exit_code == 1
