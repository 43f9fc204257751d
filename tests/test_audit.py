"""The audit as a command, what its documentation says, and that nothing breaks it."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import compiled
import pytest
from audited import TOKEN, A, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_archive import CONTAINERS, MEMBERS
from test_audit_binaries import JUDGED
from test_audit_contents import CASES

from conftest import ROOT, manualbuild
from pytest_manualbuild import audit
from pytest_manualbuild.audit import Waiver, waive
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.records import Finding, Severity


def test_nothing_is_found_in_a_good_package(tmp_path: Path) -> None:
    library = compiled.elf(tmp_path)
    path = make(tmp_path, {"lib/libu.so": library, "share/odd/a.txt": b"text"})

    assert audit.audit(path) == ()


def test_the_command_says_what_it_found_and_ends_with_1(tmp_path: Path) -> None:
    bad = make(tmp_path, {"etc/a": TOKEN, "lib/a\x1b[2J": b""})
    sarif = tmp_path / "found.sarif"

    done = manualbuild("audit", str(bad), "--sarif", str(sarif), cwd=tmp_path)

    assert done.status == 1
    assert "error   secret-token: etc/a: It holds a token (ghp_aB3a…)." in done.out
    assert "\x1b" not in done.out
    (run,) = json.loads(sarif.read_text())["runs"]
    assert {"secret-token", "archive-control"} <= {r["ruleId"] for r in run["results"]}
    assert {r["ruleId"] for r in run["results"]} == {
        r["id"] for r in run["tool"]["driver"]["rules"]
    }


def test_the_command_ends_with_0_for_a_good_package(tmp_path: Path) -> None:
    good = make(tmp_path, {"lib/libu.so": compiled.elf(tmp_path)})
    matrix = tmp_path / "hosts.toml"
    matrix.write_text(
        '[hosts.debian-11]\nkind = "docker"\nsubdir = "linux-64"\nimage = "debian:11"\n'
    )

    done = manualbuild("audit", str(good), "--json", "--matrix", str(matrix), cwd=tmp_path)

    (said,) = json.loads(done.out)["packages"]
    assert (done.status, said["findings"]) == (0, [])
    assert said["binaries"][0]["needs"] == [
        {"what": "glibc", "version": "2.17", "symbol": "strlcpy"}
    ]
    assert said["predictions"][0]["forecast"] == "runs"


@pytest.mark.parametrize(
    "name", ["missing.conda", "empty.conda", "text.tar.bz2", "a.txt", "d.conda", "endless.conda"]
)
def test_bad_input_is_one_line_and_4(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.conda").write_bytes(b"")
    (tmp_path / "text.tar.bz2").write_bytes(b"<html>")
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "d.conda").mkdir()
    (tmp_path / "endless.conda").symlink_to("/proc/kmsg")

    done = manualbuild("audit", name, cwd=tmp_path)

    assert done.status == 4
    assert len(done.out.splitlines()) == 1
    assert name in done.out


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    good = make(tmp_path, A)

    done = manualbuild("audit", "missing.conda", str(good), cwd=tmp_path)

    assert done.status == 4
    assert "nothing found" in done.out


def test_an_unwritable_sarif_file_is_one_line(tmp_path: Path) -> None:
    done = manualbuild("audit", str(make(tmp_path, A)), "--sarif", "no/such/file", cwd=tmp_path)

    assert done.status == 4
    assert "Traceback" not in done.out


def test_a_waiver_fits_one_code_and_its_paths() -> None:
    def found(code: str, file: str) -> Finding:
        return Finding(code=code, severity=Severity.ERROR, file=file, message="", remedy="")

    key, other = found("secret-key", "lib/test/a.pem"), found("secret-token", "lib/test/a.pem")
    elsewhere = found("secret-key", "etc/a.pem")
    used = Waiver(code="secret-key", path="lib/test/*", reason="keys of the test suite")
    unused = Waiver(code="leak-home", path="*", reason="long ago")

    stand, waived, idle = waive((key, other, elsewhere), (used, unused))

    assert stand == (other, elsewhere)
    assert waived == ((key, used),)
    assert idle == (unused,)


def test_every_code_is_documented() -> None:
    root = Path(__file__).parents[1]
    documented = (root / "docs" / "audit.md").read_text()
    found = {wanted[1] for wanted, _, _ in CASES.values()}
    found |= {code for _, code, _, _ in JUDGED.values()}
    found |= {f"archive-{case[0]}" for case in (*MEMBERS.values(), *CONTAINERS.values())}

    assert [code for code in sorted(found) if f"`{code}`" not in documented] == []


@given(data=st.binary(max_size=3000), extension=st.sampled_from([".conda", ".tar.bz2"]))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_audited_or_refused(
    data: bytes, extension: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"odd-1-0{extension}"
    path.write_bytes(bz2.compress(data) if extension == ".tar.bz2" else data)
    try:
        audit.audit(path)
    except ArtifactError as refused:
        assert "\n" not in str(refused)


@given(info=st.dictionaries(
    st.sampled_from(["paths.json", "index.json", "about.json", "files", "has_prefix",
                     "recipe/meta.yaml", "recipe/rendered_recipe.yaml"]),
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                st.sampled_from(["paths", "_path", "path_type", "name", "subdir", "depends",
                                 "license", "source", "url", "test", "tests", "recipe"]),
                inner, max_size=4,
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
))  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_info_is_audited(
    info: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in it, the result is a list of findings."""
    changed = {f"info/{name}": content for name, content in info.items()}
    path = make(tmp_path_factory.mktemp("info"), A, info=changed)

    assert all(f.code and f.message and f.remedy for f in audit.audit(path))


def test_every_code_is_described() -> None:
    import re

    from pytest_manualbuild.audit.codes import CODES

    text = (ROOT / "docs/audit.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]

    assert {code for cell in cells for code in re.findall(r"`([a-z0-9-]+)`", cell)} == CODES
