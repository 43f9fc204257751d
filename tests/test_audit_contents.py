"""The audit finds what tests cannot show in what a package holds and says of itself."""

from __future__ import annotations

import bz2
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import builder
import pytest
from audited import RECIPE, TOKEN, A, codes, make

from pytest_manualbuild import audit
from pytest_manualbuild.audit import leaks

ABOUT = "info/about.json"
INDEX: dict[str, Any] = {
    "name": "odd", "version": "1", "build": "0", "build_number": 0, "subdir": "linux-64",
    "depends": [],
}  # fmt: skip


def index(**changes: Any) -> dict[str, Any]:
    """Say how a package's index differs from a good one."""
    return {"info": {"info/index.json": json.dumps({**INDEX, **changes}).encode()}}


def listed(*rows: dict[str, Any]) -> dict[str, Any]:
    """Write other lists than those of the files."""
    return {
        "info": {
            "info/paths.json": json.dumps({"paths": rows, "paths_version": 1}).encode(),
            "info/files": "".join(f"{row['_path']}\n" for row in rows).encode(),
        }
    }


ROW = {
    "_path": "lib/a",
    "path_type": "hardlink",
    "size_in_bytes": 1,
    "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",  # of b"x"
}
HOME = b"\0/home/karla/src/odd/a.c\0"
KEY = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEpAIBAAKCAQEA" * 4 + b"\n"
NOARCH = {"subdir": "noarch", "recipe": RECIPE + "build: {noarch: generic}\n"}
# What must be found: its severity, code and file; and the package in which it is.
CASES: dict[str, tuple[tuple[str, str, str], dict[str, bytes], dict[str, Any]]] = {
    "no index": (
        ("error", "index-invalid", "info/index.json"), {}, {"info": {"info/index.json": b"[1]"}},
    ),
    "another name": (("error", "index-name", "info/index.json"), {}, index(version="2")),
    "another subdir": (("error", "index-subdir", "info/index.json"), {}, index(subdir="osx-64")),
    "unknown subdir": (("error", "index-subdir", "info/index.json"), {}, index(subdir="amiga")),
    "build number": (("error", "index-invalid", "info/index.json"), {}, index(build_number="0")),
    "dash in the version": (
        ("error", "index-invalid", "info/index.json"), {}, index(version="1-2"),
    ),
    "capitals in the name": (("error", "index-invalid", "info/index.json"), {}, index(name="Odd")),
    "endless spec": (
        ("error", "index-depends", "info/index.json"), {}, index(depends=["1" * 200_000 + "\n?"]),
    ),
    "number without end": (
        ("error", "index-depends", "info/index.json"),
        {"lib/a.cpython-311-x.so": b""}, index(depends=["python >=" + "9" * 5000]),
    ),
    "aliases without end": (
        ("error", "recipe-unreadable", "info/recipe/meta.yaml"), {},
        {"info": {"info/recipe/meta.yaml": b"source: {url: x, sha256: &a [" + b"x," * 60_000
                  + b"]}\ntest: {commands: [" + b"*a," * 1000 + b"]}\n"}},
    ),
    "number to the base of 60": (
        ("error", "source-unpinned", "info/recipe/meta.yaml"), {},
        {"info": {"info/recipe/meta.yaml": b"source: {url: x, sha256: 1%b}" % (b":59" * 200_000)}},
    ),
    "more than is told": (
        ("error", "archive-members", ""), {},
        {"info": {"info/files": b"\n".join(b"f%d" % number for number in range(100_001))}},
    ),
    "noarch": (("error", "index-noarch", "info/index.json"), {}, index(noarch="python")),
    "depends": (("error", "index-depends", "info/index.json"), {}, index(depends=["a;rm"])),
    "no paths.json": (
        ("error", "paths-missing", "info/paths.json"), A, {"info": {"info/paths.json": b"{"}},
    ),
    "other bytes": (("error", "paths-sha256", "lib/a"), {"lib/a": b"y"}, listed(ROW)),
    "other size": (("error", "paths-size", "lib/a"), A, listed({**ROW, "size_in_bytes": 2})),
    "other type": (("error", "paths-type", "lib/a"), A, listed({**ROW, "path_type": "softlink"})),
    "not listed": (("error", "paths-unlisted", "lib/b"), {**A, "lib/b": b""}, listed(ROW)),
    "not there": (("error", "paths-absent", "lib/b"), A, listed(ROW, {**ROW, "_path": "lib/b"})),
    "listed twice": (("error", "paths-duplicate", "info/paths.json"), A, listed(ROW, ROW)),
    "other files": (
        ("error", "paths-files", "lib/b"), A, {"info": {"info/files": b"lib/a\nlib/b\n"}},
    ),
    "prefix kept": (
        ("error", "prefix-kept", "lib/a"), {"lib/a": builder.PLACEHOLDER.encode()},
        {"placeholder": "/another"},
    ),
    "prefix listed elsewhere": (
        ("error", "prefix-files", "lib/a"), A,
        {"info": {"info/has_prefix": b"/opt/placehold text lib/a\n"}},
    ),
    "no recipe": (
        ("error", "recipe-missing", ""), {}, {"recipe": None, "name": "odd", "version": "1"},
    ),
    "broken recipe": (
        ("error", "recipe-unreadable", "info/recipe/meta.yaml"), {},
        {"info": {"info/recipe/meta.yaml": b"[" * 200_000}},
    ),
    "source without hash": (
        ("error", "source-unpinned", "info/recipe/meta.yaml"), {},
        {"recipe": RECIPE.replace("sha256", "md5")},
    ),
    "source from a branch": (
        ("error", "source-unpinned", "info/recipe/meta.yaml"), {},
        {"recipe": RECIPE.replace("url", "git_rev: main, git_url")},
    ),
    "source from a folder": (
        ("warning", "source-path", "info/recipe/meta.yaml"), {},
        {"recipe": RECIPE.replace("url", "path")},
    ),
    "password in the recipe": (
        ("error", "secret-url", "info/recipe/meta.yaml.template"), {},
        {"recipe": RECIPE.replace("https://", "https://karla:secret@")},
    ),
    "no tests": (
        ("warning", "tests-none", "info/recipe/meta.yaml"), {},
        {"recipe": RECIPE.replace("test:", "x:")},
    ),
    "no licence": (
        ("warning", "license-unnamed", ABOUT), {},
        {"info": {ABOUT: b"{}", **index(license="")["info"]}},
    ),
    "odd licence": (
        ("warning", "license-spdx", ABOUT), {}, {"info": {ABOUT: b'{"license": "Beerware-ish"}'}},
    ),
    "empty licence": (
        ("error", "license-empty", "info/licenses/LICENSE"), {},
        {"info": {"info/licenses/LICENSE": b" \n"}},
    ),
    "post-link": (
        ("note", "link-script", "bin/.odd-post-link.sh"), {"bin/.odd-post-link.sh": b"true"}, {},
    ),
    "pre-link": (
        ("warning", "link-script", "bin/.odd-pre-link.sh"), {"bin/.odd-pre-link.sh": b"true"}, {},
    ),
    "activate": (
        ("note", "link-script", "etc/conda/activate.d/odd.sh"),
        {"etc/conda/activate.d/odd.sh": b"true"}, {},
    ),
    "home in a binary": (("error", "leak-home", "lib/a.so"), {"lib/a.so": HOME}, {}),
    "home in a .pc": (("error", "leak-home", "lib/a.pc"), {"lib/a.pc": HOME.strip(b"\0")}, {}),
    "home in a comment": (("warning", "leak-home", "lib/a.py"), {"lib/a.py": HOME[1:-1]}, {}),
    "home on macOS": (
        ("error", "leak-home", "lib/a.so"), {"lib/a.so": HOME.replace(b"home", b"Users")}, {},
    ),
    "home on Windows": (
        ("error", "leak-home", "lib/a.so"), {"lib/a.so": b"\0C:\\Users\\karla\\odd\\a.c\0"}, {},
    ),
    "home across two pieces": (
        ("error", "leak-home", "lib/a.so"), {"lib/a.so": b"\0" * ((1 << 20) - 520) + HOME * 40}, {},
    ),
    "build folder": (
        ("warning", "leak-build-path", "lib/a.so"),
        {"lib/a.so": b"\0/opt/conda-bld/odd_1/work/a.c\0"}, {},
    ),
    "private key": (("error", "secret-key", "etc/a.pem"), {"etc/a.pem": KEY}, {}),
    "private key of tests": (
        ("warning", "secret-key", "a/tests/a.pem"), {"a/tests/a.pem": KEY}, {},
    ),
    "token": (("error", "secret-token", "etc/a"), {"etc/a": TOKEN}, {}),
    "fine-grained token": (
        ("error", "secret-token", "etc/a"), {"etc/a": b"github_pat_" + b"aB3_" * 20}, {},
    ),
    "token of PyPI": (("error", "secret-token", "etc/a"), {"etc/a": b"pypi-AgE" + b"aB3" * 20}, {}),
    "channel token": (
        ("error", "secret-token", "etc/a"),
        {"etc/a": b"https://conda.example.org/t/ka-0f2c4b6d-1111-2222-3333-444455556666/c"}, {},
    ),
    "records of conda": (
        ("error", "forbidden-file", "conda-meta/a.json"), {"conda-meta/a.json": b""}, {},
    ),
    "git": (("error", "forbidden-file", "a/.git/config"), {"a/.git/config": b""}, {}),
    "netrc": (("error", "forbidden-file", ".netrc"), {".netrc": b""}, {}),
    "pth": (
        ("error", "forbidden-file", "lib/easy-install.pth"), {"lib/easy-install.pth": b""}, {},
    ),
    "left behind": (("warning", "forbidden-file", "lib/a.py~"), {"lib/a.py~": b""}, {}),
    "compiled only": (("warning", "pyc-alone", "lib/a.pyc"), {"lib/a.pyc": b""}, {}),
    "compiled noarch": (("error", "noarch-pyc", "lib/a.pyc"), {"lib/a.pyc": b""}, NOARCH),
    "library in noarch": (("error", "noarch-binary", "lib/a.so"), {"lib/a.so": b"x"}, NOARCH),
    "noarch without links": (
        ("error", "noarch-link", "info/link.json"), {},
        {"subdir": "noarch", **index(subdir="noarch", noarch="python")},
    ),
    "another Python": (
        ("error", "python-abi", "lib/a.cpython-311-x86_64-linux-gnu.so"),
        {"lib/a.cpython-311-x86_64-linux-gnu.so": b""}, {"depends": ("python >=3.12,<3.13.0a0",)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_fault_of_the_content_is_found(case: str, tmp_path: Path) -> None:
    wanted, files, fields = CASES[case]

    assert wanted in codes(make(tmp_path, files, **fields))


INNOCENT = {
    "placeholder": b"\0/home/karla/conda-bld/odd_1/_h_env_placehold_placehold_placehold/lib\0",
    "example name": b"see /home/user/project/a and /Users/you/b/c",
    "URL": b"https://example.org/home/karla/page",
    "key header": b"-----BEGIN RSA PRIVATE KEY-----\0-----END RSA PRIVATE KEY-----",
    "example token": b"AKIAIOSFODNN7EXAMPLE",
    "part of base64": b"xxAKIAABCDEFGHIJKLMNOPxx",
}


@pytest.mark.parametrize("case", INNOCENT)
def test_what_only_looks_like_a_leak_is_none(case: str) -> None:
    assert leaks.search("lib/a.so", iter([memoryview(INNOCENT[case])])).findings == ()


def test_many_warnings_hide_no_error(tmp_path: Path) -> None:
    """Names that differ in case are no more than warnings on Linux."""
    staged = {
        f"share/{letter}{number}": builder.Staged(data=b"")
        for number in range(10_001) for letter in "aA"
    }  # fmt: skip
    staged["share/z"] = builder.Staged(data=b"", link="../../../etc/passwd")
    built = builder.Built(recipe=None, files=staged, subdir="linux-64", name="odd", version="1")
    (path,) = builder.write(built, tmp_path, ".conda")

    assert ("error", "archive-members", "") in codes(path)


def test_tests_taken_out_of_a_package_are_missed(tmp_path: Path) -> None:
    path = make(tmp_path, A)
    dist, files = builder.contents(
        builder.Built(
            recipe=tmp_path / "recipe",
            files={"lib/a": builder.Staged(data=b"x")},
            subdir="linux-64",
        )
    )
    path.unlink()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as plain:
        for name, staged in files.items():
            if not name.startswith("info/test/"):
                member = tarfile.TarInfo(name)
                member.size = len(staged.data)
                plain.addfile(member, io.BytesIO(staged.data))
    path = path.with_name(f"{dist}.tar.bz2")
    path.write_bytes(bz2.compress(packed.getvalue()))

    assert ("error", "tests-missing", "info/recipe/meta.yaml") in codes(path)


RATTLER = "recipe:\n  package: {name: odd, version: '1'}\n  tests: [%s]\n  about: {license: MIT}\n"


@pytest.mark.parametrize(
    ("test", "carried", "wanted"),
    [
        ("{script: [odd]}", b"- script: [odd]\n", None),
        ("{script: [odd]}", b"[]\n", "tests-missing"),
        ("{package_contents: {files: [a]}}", b"[]\n", "tests-contents"),
        ("{package_contents: {}}", b"[]\n", "tests-none"),
        ("", b"[]\n", "tests-none"),
    ],
)
def test_tests_in_the_manner_of_rattler_build_are_seen(
    test: str, carried: bytes, wanted: str | None, tmp_path: Path
) -> None:
    info = {
        "info/recipe/rendered_recipe.yaml": (RATTLER % test).encode(),
        "info/recipe/recipe.yaml": b"",
        "info/tests/tests.yaml": carried,
    }
    path = make(tmp_path, A, recipe=None, name="odd", version="1", info=info)

    assert {code for _, code, _ in codes(path)} == ({wanted} if wanted else set())


def test_hostile_archives_are_findings(tmp_path: Path) -> None:
    path = make(tmp_path, A)
    path.write_bytes(path.read_bytes() + b"more")

    (found,) = audit.audit(path)

    assert (found.code, found.severity) == ("archive-hidden-data", "error")


@pytest.mark.parametrize(
    ("late", "wanted"),
    [
        ("info/tests/tests.yaml", {("info/tests/tests.yaml", "archive-late-info")}),
        ("info/tests", set()),
        ("share/tests.yaml", set()),
    ],
)
def test_a_file_of_info_behind_the_others_is_a_finding(
    tmp_path: Path, late: str, wanted: set[tuple[str, str]]
) -> None:
    """Installers take it; who reads the tests that a package carries stops before it."""
    staged = {"lib/a": builder.Staged(data=b"x")}
    built = builder.Built(recipe=None, files=staged, subdir="linux-64", name="odd", version="1")
    (path,) = builder.write(built, tmp_path, ".tar.bz2")
    unpacked = io.BytesIO(bz2.decompress(path.read_bytes()))
    with tarfile.open(fileobj=unpacked, mode="a") as packed:
        member = tarfile.TarInfo(late)
        member.type = tarfile.REGTYPE if "." in late else tarfile.DIRTYPE
        packed.addfile(member, io.BytesIO())
    path.write_bytes(bz2.compress(unpacked.getvalue()))

    found = {(one.file, one.code) for one in audit.audit(path) if one.code.startswith("archive")}

    assert found == wanted
