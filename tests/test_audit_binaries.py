"""The audit finds what is wrong with binaries, and predicts where they run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import compiled
import pytest
from audited import make
from msgspec.structs import replace

from pytest_manualbuild import audit
from pytest_manualbuild.audit import binaries, forecast
from pytest_manualbuild.audit.binary import Binary, Need, Package, declared, judge
from pytest_manualbuild.audit.forecast import Floor, Forecast
from pytest_manualbuild.model import Host

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
