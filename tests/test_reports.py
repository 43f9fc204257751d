"""The page shows every result, and a stranger's text stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from defusedxml import ElementTree

from conftest import LOCAL, results, run_local, write_package
from pytest_manualbuild.reports import html

HOSTILE = """\
test:
  commands:
    - 'true'
    - 'printf "<script>alert(1)</script>\\033]0;owned\\007" >&2; exit 3'
    - echo never
"""


def page(tmp_path: Path) -> Element:
    text = (tmp_path / "manualbuild-report/index.html").read_text()
    assert "\x1b" not in text
    root: Element = ElementTree.fromstring(text)
    return root


def texts(root: Element, tag: str) -> list[str]:
    return ["".join(one.itertext()) for one in root.iter(tag)]


def test_the_page_has_every_result_and_what_was_written_by_what_failed(tmp_path: Path) -> None:
    write_package(tmp_path, HOSTILE)

    ran = run_local(tmp_path)

    assert ran.status == 1, ran.out
    root = page(tmp_path)
    rows = {
        "".join(row[0].itertext()): row[1].get("class")
        for row in root.iter("tr")
        if len(row) > 1 and row[1].get("title") is not None
    }
    found = results(tmp_path / "manualbuild-report")
    assert rows == {check: outcome for (_, check), (outcome, _) in found.items()}
    assert "<script>alert(1)</script>\\x1b]0;owned\\x07" in "".join(texts(root, "pre"))
    assert texts(root, "script") == []


def test_the_page_says_why_a_run_is_not_enough(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n    - 'true'\n")

    run_local(tmp_path, "-k", "install")

    root = page(tmp_path)
    assert "Nothing was proven" in "".join(texts(root, "b"))
    assert "2 of 3 checks were not selected" in "".join(texts(root, "li"))


def test_what_is_kept_of_the_template_may_be_spoilt_and_is_in_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path / "cache"))
    write_package(tmp_path, "test:\n  commands:\n    - 'true'\n")
    for kept in Path(html.__file__).parent.glob("__pycache__/__jinja2*"):
        kept.write_bytes(kept.read_bytes()[:20])

    ran = run_local(tmp_path)

    assert ran.status == 0, ran.out
    assert texts(page(tmp_path), "script") == []
    assert list((tmp_path / "cache").rglob("__jinja2*")) == []


def test_packages_that_passed_are_a_line_each_where_there_are_many(tmp_path: Path) -> None:
    import builder

    names = [f"one{number}" for number in range(6)]
    commands = [f"test {number} != 9" for number in range(8)]
    outputs = [
        {"name": name, "build": {"noarch": "generic"}, "test": {"commands": commands}}
        for name in names
    ]
    outputs[3]["test"] = {"commands": ["false", "echo never"]}
    meta = {"package": {"name": "top", "version": "1.0"}, "outputs": outputs}
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/meta.yaml").write_text(json.dumps(meta))
    for name in names:
        built = builder.Built(recipe=None, files={}, subdir="noarch", name=name, version="1.0")
        builder.write(built, tmp_path / "recipe/build_artifacts", ".conda")
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 1, ran.out
    assert "packages of which every check passed" in " ".join(ran.out.split())
    lines = [re.findall(r"[^│\s][^│]*?(?=\s*│)", line) for line in ran.out.splitlines()]
    passed = [line[0] for line in lines if line[1:] == ["✓ 9 ok"]]
    assert passed == [name for name in names if name != "one3"]
    assert ["commands[0]: false", "✗ FAILED"] in lines
    assert ["commands[1]: echo never", "- not reached"] in lines
