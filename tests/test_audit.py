"""The audit finds what tests cannot show, and predicts where a package runs."""

from __future__ import annotations

import bz2
import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import builder
import compiled
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_archive import CONTAINERS, MEMBERS

from conftest import ROOT, manualbuild
from pytest_manualbuild import audit
from pytest_manualbuild.audit import Waiver, binaries, forecast, leaks, waive
from pytest_manualbuild.audit.binary import Binary, Need, Package, declared, judge
from pytest_manualbuild.audit.forecast import Floor, Forecast
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import Finding, Severity

RECIPE = """
package: {name: odd, version: "1"}
source: {url: https://example.org/odd.tar.gz, sha256: %s}
test: {commands: ["odd"]}
about: {license: MIT, license_file: LICENSE}
""" % ("a" * 64)
LICENSE = {"info/licenses/LICENSE": b"Do what you like.\n"}


def make(
    folder: Path,
    files: dict[str, bytes] | None = None,
    *,
    recipe: str | None = RECIPE,
    **fields: Any,
) -> Path:
    """Build one package as conda-build lays it out, in a folder of its subdir."""
    source = folder / "recipe"
    source.mkdir(exist_ok=True)
    (source / "meta.yaml").write_text(recipe or RECIPE)
    staged = {name: builder.Staged(data=data) for name, data in (files or {}).items()}
    values: dict[str, Any] = {
        "recipe": recipe and source,
        "files": staged,
        "subdir": "linux-64",
        **fields,
    }
    values["info"] = {**LICENSE, **values.get("info", {})}
    (path,) = builder.write(builder.Built(**values), folder, ".conda")
    return path


def codes(path: Path) -> set[tuple[str, str, str]]:
    """Audit a package; return what was found in short."""
    return {(f.severity, f.code, f.file) for f in audit.audit(path)}


def test_nothing_is_found_in_a_good_package(tmp_path: Path) -> None:
    library = compiled.elf(tmp_path)
    path = make(tmp_path, {"lib/libu.so": library, "share/odd/a.txt": b"text"})

    assert audit.audit(path) == ()


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
A = {"lib/a": b"x"}
HOME = b"\0/home/karla/src/odd/a.c\0"
KEY = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEpAIBAAKCAQEA" * 4 + b"\n"
TOKEN = b"token = ghp_" + b"aB3" * 12 + b"\n"
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
        ("{package_contents: {files: [a]}}", b"[]\n", "tests-none"),
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


# --- binaries -----------------------------------------------------------------------------------

LINUX = Package(subdir="linux-64", depends=(), files=frozenset(), names=frozenset())
LIB = Binary(file="lib/a.so", format="elf", archs=("x86_64",))
DYLIB = Binary(file="lib/a.dylib", format="macho", archs=("x86_64", "arm64"))
DLL = Binary(file="Library/bin/a.dll", format="pe", archs=("x86_64",))
OSX, WIN = replace(LINUX, subdir="osx-arm64"), replace(LINUX, subdir="win-64")
CXX = Need(what="GLIBCXX", version="3.4.32", symbol="_ZSt1x")
JUDGED: dict[str, tuple[str, str, Binary, Package]] = {
    "unreadable": ("error", "binary-unreadable", replace(LIB, problem="no headers"), LINUX),
    "another processor": ("error", "binary-arch", replace(LIB, archs=("arm64",)), LINUX),
    "another system": ("warning", "binary-format", DLL, LINUX),
    "in noarch": ("error", "noarch-binary", LIB, replace(LINUX, subdir="noarch")),
    "launcher in noarch": (
        "warning", "noarch-binary", replace(DLL, file="a.exe"), replace(LINUX, subdir="noarch"),
    ),
    "glibc not declared": (
        "error", "elf-undeclared", replace(LIB, needs=(Need(what="glibc", version="2.28"),)), LINUX,
    ),
    "glibc declared too low": (
        "error", "elf-undeclared", replace(LIB, needs=(Need(what="glibc", version="2.28"),)),
        replace(LINUX, depends=("__glibc >=2.17,<3.0.a0",)),
    ),
    "private symbols": (
        "error", "elf-private", replace(LIB, needs=(Need(what="glibc-private", version="1"),)),
        LINUX,
    ),
    "libstdcxx not declared": ("warning", "elf-libstdcxx", replace(LIB, needs=(CXX,)), LINUX),
    "libstdcxx too old": (
        "error", "elf-libstdcxx", replace(LIB, needs=(CXX,)),
        replace(LINUX, depends=("libstdcxx-ng >=12",)),
    ),
    "musl": (
        "error", "elf-interpreter", replace(LIB, interpreter="/lib/ld-musl-x86_64.so.1"), LINUX,
    ),
    "library missing": ("error", "library-missing", replace(LIB, libraries=("libz.so.1",)), LINUX),
    "library of somebody": (
        "warning", "library-unresolved", replace(LIB, libraries=("libz.so.1",)),
        replace(LINUX, depends=("libcurl >=8",)),
    ),
    "library of nobody": (
        "error", "library-missing", replace(LIB, libraries=("libz.so.1",)),
        replace(LINUX, depends=("zlib",), provided=frozenset({"libx.so"})),
    ),
    "build folder": ("error", "elf-rpath", replace(LIB, rpaths=("/home/karla/lib",)), LINUX),
    "out of the prefix": ("error", "elf-rpath", replace(LIB, rpaths=("$ORIGIN/../../a",)), LINUX),
    "for all to write": ("error", "elf-rpath", replace(LIB, rpaths=("$ORIGIN:/tmp/a",)), LINUX),
    "current folder": ("error", "elf-rpath", replace(LIB, rpaths=("$ORIGIN:",)), LINUX),
    "text relocations": ("warning", "elf-textrel", replace(LIB, marks=("textrel",)), LINUX),
    "executable stack": ("warning", "elf-execstack", replace(LIB, marks=("execstack",)), LINUX),
    "unsigned": ("error", "macho-unsigned", replace(DYLIB, marks=("unsigned",)), OSX),
    "macOS not declared": (
        "error", "macho-undeclared", replace(DYLIB, needs=(Need(what="macos", version="12"),)), OSX,
    ),
    "Homebrew": (
        "error", "macho-library", replace(DYLIB, libraries=("/opt/homebrew/lib/a.dylib",)), OSX,
    ),
    "rpath of macOS": ("error", "macho-rpath", replace(DYLIB, rpaths=("/usr/local/lib",)), OSX),
    "dylib missing": (
        "error", "library-missing", replace(DYLIB, libraries=("@rpath/libz.dylib",)), OSX,
    ),
    "debug runtime": (
        "error", "pe-debug-runtime", replace(DLL, libraries=("vcruntime140d.dll",)), WIN,
    ),
    "runtime not declared": (
        "error", "library-missing", replace(DLL, libraries=("vcruntime140.dll",)), WIN,
    ),
    "no ASLR": ("warning", "pe-aslr", replace(DLL, marks=("no-aslr",)), WIN),
    "no NX": ("warning", "pe-nx", replace(DLL, marks=("no-nx",)), WIN),
}  # fmt: skip


@pytest.mark.parametrize("case", JUDGED)
def test_each_fault_of_a_binary_is_found(case: str) -> None:
    severity, code, binary, package = JUDGED[case]

    found = list(judge(binary, package))

    assert [(f.severity, f.code, f.file) for f in found] == [(severity, code, binary.file)]


def test_what_belongs_in_a_binary_is_not_found() -> None:
    glibc = Need(what="glibc", version="2.28", symbol="fcntl64")
    linux = replace(
        LINUX, depends=("__glibc >=2.28,<3.0.a0", "libstdcxx >=13"), names=frozenset({"libb.so.1"})
    )
    library = replace(
        LIB,
        needs=(glibc, CXX),
        libraries=("libc.so.6", "ld-linux-x86-64.so.2", "libstdc++.so.6", "libb.so.1"),
        rpaths=("$ORIGIN/../lib", "/opt/_h_env_placehold_placehold/lib"),
    )
    dylib = replace(
        DYLIB,
        libraries=("/usr/lib/libSystem.B.dylib", "@rpath/liba.1.dylib"),
        rpaths=("@loader_path/../lib",),
    )
    dll = replace(
        DLL, libraries=("kernel32.dll", "vcruntime140.dll", "api-ms-win-crt-heap-l1-1-0.dll")
    )

    assert list(judge(library, linux)) == []
    assert list(judge(dylib, replace(OSX, names=frozenset({"liba.1.dylib"})))) == []
    assert list(judge(dll, replace(WIN, depends=("vc14_runtime >=14.29",)))) == []


@pytest.mark.parametrize(
    ("specs", "wanted"),
    [
        (("__glibc >=2.17,<3.0.a0",), "2.17"),
        (("__glibc >=2.17", "__glibc>=2.28"), "2.28"),
        (("__glibc 2.28.*",), "2.28"),
        (("__glibc <3",), ""),
        (("__glibc2 >=2.28", "glibc"), ""),
    ],
)
def test_the_least_version_that_is_demanded(specs: tuple[str, ...], wanted: str) -> None:
    assert declared(specs, "__glibc") == wanted


def _host(name: str, subdir: str, image: str | None = None) -> Host:
    return Host(name=name, kind="docker", subdir=subdir, image=image)


def test_the_symbol_and_file_that_decide_are_predicted(tmp_path: Path) -> None:
    path = make(tmp_path, {"lib/libu.so": compiled.elf(tmp_path, glibc="2.38")})
    hosts = [
        _host("old", "linux-64", "debian:11-slim"),
        _host("fedora-40", "linux-64"),
        _host("centos-6", "linux-64"),
        _host("strange", "linux-64", "example.org/strange:1"),
        _host("osx-10.9", "osx-64"),
    ]

    audited = audit.examine(path)
    old, fedora, centos, strange = forecast.predict_all(audited, hosts)

    assert (old.forecast, old.file, old.symbol) == (Forecast.FAILS, "lib/libu.so", "strlcpy")
    assert old.reason == "lib/libu.so needs glibc 2.38 (for strlcpy), and the host has 2.31."
    assert [p.forecast for p in (fedora, centos, strange)] == ["runs", "fails", "unknown"]
    assert ("elf-undeclared", "lib/libu.so") in {(f.code, f.file) for f in audited.findings}


def test_where_a_package_may_not_go_nothing_else_is_predicted(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        {"lib/libu.so": compiled.elf(tmp_path, glibc="2.38")},
        depends=("__glibc >=2.38,<3.0.a0",),
    )

    audited = audit.examine(path)
    (prediction,) = forecast.predict_all(audited, [_host("debian-12", "linux-64")])

    assert audited.findings == ()
    assert prediction.forecast is Forecast.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("arch", "subdir", "built_for", "host", "wanted"),
    [
        ("x86_64", "osx-64", "10.13", "osx-10.9", Forecast.FAILS),
        ("x86_64", "osx-64", "10.13", "macos-10.13", Forecast.RUNS),
        ("aarch64", "osx-arm64", "11.0", "macos-14", Forecast.RUNS),
    ],
)
def test_macos_binaries_say_which_system_they_need(
    arch: str, subdir: str, built_for: str, host: str, wanted: Forecast, tmp_path: Path
) -> None:
    library = compiled.macho(tmp_path, macos=built_for, arch=arch)
    path = make(
        tmp_path, {"lib/liba.dylib": library}, subdir=subdir, depends=(f"__osx >={built_for}",)
    )

    audited = audit.examine(path)
    # Without what it demands, as if the package had not told the solver.
    found = forecast.predict(
        audited.binaries, (), _host(host, subdir), forecast.named(_host(host, subdir))
    )

    assert audited.findings == ()
    assert (found.forecast, found.file) == (wanted, "lib/liba.dylib")


@pytest.mark.parametrize(
    ("dll", "function", "wanted"),
    [
        ("KERNEL32.dll", "GetTickCount", Forecast.RUNS),
        ("KERNEL32.dll", "CreateFile2", Forecast.FAILS),
        ("api-ms-win-core-path-l1-1-0.dll", "PathCchAppend", Forecast.FAILS),
        ("api-ms-win-core-file-l1-1-0.dll", "ReadFile", Forecast.RUNS),
        ("api-ms-win-core-file-l1-2-1.dll", "ReadFile", Forecast.FAILS),
        ("api-ms-win-crt-heap-l1-1-0.dll", "malloc", Forecast.RUNS),
    ],
)
def test_functions_that_windows_7_lacks_are_found(
    dll: str, function: str, wanted: Forecast, tmp_path: Path
) -> None:
    library = compiled.pe(tmp_path, dll=dll, function=function)
    path = make(tmp_path, {"Library/bin/a.dll": library}, subdir="win-64")

    audited = audit.examine(path)
    seven, ten = forecast.predict_all(
        audited, [_host("windows-7", "win-64"), _host("windows-10", "win-64")]
    )

    assert audited.findings == ()
    assert (seven.forecast, ten.forecast) == (wanted, Forecast.RUNS)
    assert wanted is Forecast.RUNS or seven.symbol == f"{dll.lower()}!{function}"


def test_facts_of_a_host_that_was_reached_count_more_than_its_name() -> None:
    binary = replace(LIB, needs=(Need(what="glibc", version="2.30", symbol="x"),))
    host = _host("debian-11", "linux-64")

    found = forecast.predict([binary], (), host, Floor(glibc="2.28"))

    assert found.forecast is Forecast.FAILS


def test_a_binary_without_section_headers_hides_nothing(tmp_path: Path) -> None:
    """What the loader reads stands elsewhere."""
    library = bytearray(compiled.elf(tmp_path, glibc="2.38"))
    library[0x28:0x30] = bytes(8)
    library[0x3C:0x40] = bytes(4)
    path = make(tmp_path, {"lib/libu.so": bytes(library)})

    (binary,) = audit.examine(path).binaries

    assert binary.needs == (Need(what="glibc", version="2.38", symbol="strlcpy"),)


@pytest.mark.parametrize("ending", [signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP])
def test_a_parser_that_crashes_or_hangs_costs_one_file(
    ending: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is replaced by one that ends as such a parser would, at the second file."""
    reader = tmp_path / "ending_reader.py"
    reader.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        f"    if asked['file'] == 'lib/b.so': os.kill(os.getpid(), {int(ending)})\n"
        "    found = {'file': asked['file'], 'format': asked['format'], 'archs': ['x86_64']}\n"
        "    print(json.dumps(found), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    monkeypatch.setattr(binaries, "_READER", "ending_reader")
    monkeypatch.setattr(binaries, "MOST_S", 1)
    header = b"\x7fELF" + bytes(100)
    path = make(tmp_path, {f"lib/{name}.so": header for name in "abc"})
    started = time.monotonic()

    found = audit.examine(path)

    assert [(b.file, bool(b.problem)) for b in found.binaries] == [
        ("lib/a.so", False), ("lib/b.so", True), ("lib/c.so", False),
    ]  # fmt: skip
    assert ("binary-unreadable", "lib/b.so") in {(f.code, f.file) for f in found.findings}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("kind", ["elf", "macho", "pe"])
def test_broken_binaries_are_told_and_harm_nobody(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[], bytes]] = {
        "elf": lambda: compiled.elf(tmp_path),
        "macho": lambda: compiled.macho(tmp_path, macos="11.0"),
        "pe": lambda: compiled.pe(tmp_path),
    }
    good = makers[kind]()
    files = {}
    for number in range(60):
        broken = bytearray(good)
        for step in range(1 + number % 5):
            place = (number * 7919 + step * 104_729) % min(len(good), 2048)
            broken[place : place + 4] = bytes([255 - step, 255, number, 127])
        broken[:4] = good[:4]
        files[f"lib/b{number}"] = bytes(broken)
    files["lib/cut"] = good[: len(good) // 2]
    subdir = {"elf": "linux-64", "macho": "osx-64", "pe": "win-64"}[kind]

    found = audit.examine(make(tmp_path, files, subdir=subdir))

    assert all(f.remedy for f in found.findings)


# --- the command --------------------------------------------------------------------------------


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
    "name", ["missing.conda", "empty.conda", "text.tar.bz2", "a.txt", "d.conda"]
)
def test_bad_input_is_one_line_and_4(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.conda").write_bytes(b"")
    (tmp_path / "text.tar.bz2").write_bytes(b"<html>")
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "d.conda").mkdir()

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


# --- waivers and documentation -------------------------------------------------------------------


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
