"""Hostile package files are refused, each by its own reason; good ones are not."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import struct
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import builder
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_manualbuild.errors import ArtifactError, UnsafeArchive
from pytest_manualbuild.package import archive
from pytest_manualbuild.package.containers import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEM = "odd-1-0"


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Make one member, with whatever its header should say."""
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o644, len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    return member, data


def tar(*entries: tuple[tarfile.TarInfo, bytes], tail: bytes = b"") -> bytes:
    """Pack members, with an end as it must be, and something behind it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as plain:
        for member, data in entries:
            plain.addfile(member, io.BytesIO(data))
    return packed.getvalue() + tail


def index(subdir: str = "linux-64") -> tuple[tarfile.TarInfo, bytes]:
    """Make the member that says for which systems a package is."""
    value = {"name": "odd", "version": "1", "build": "0", "build_number": 0, "subdir": subdir}
    return entry("info/index.json", json.dumps(value).encode())


METADATA = b'{"conda_pkg_format_version": 2}'


def conda(
    path: Path,
    pkg: bytes,
    info: bytes | None = None,
    *,
    pack: Callable[[bytes], bytes] = zstd.compress,
    metadata: bytes = METADATA,
    more: tuple[tuple[str, bytes], ...] = (),
    method: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a ``.conda`` of these two tars."""
    with zipfile.ZipFile(path, "w", method) as container:
        container.writestr("metadata.json", metadata)
        container.writestr(f"pkg-{STEM}.tar.zst", pack(pkg))
        container.writestr(f"info-{STEM}.tar.zst", zstd.compress(info or tar(index())))
        for name, data in more:
            container.writestr(name, data)
    return path


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}
FILE = entry("bin/tool", b"x")
# The code that each must get, the subdir, and what lies in the package.
MEMBERS: dict[str, tuple[str, str, list[tuple[tarfile.TarInfo, bytes]]]] = {
    "setuid": ("setid", "linux-64", [entry("bin/su", mode=0o4755)]),
    "setgid": ("setid", "linux-64", [entry("bin/su", mode=0o2755)]),
    "setuid folder": ("setid", "noarch", [entry("bin", type=tarfile.DIRTYPE, mode=0o4755)]),
    "world-writable": ("world-writable", "osx-64", [entry("bin/a", mode=0o666)]),
    "character device": ("device", "linux-64", [entry("dev/null", type=tarfile.CHRTYPE)]),
    "block device": ("device", "linux-64", [entry("dev/sda", type=tarfile.BLKTYPE)]),
    "fifo": ("fifo", "linux-64", [entry("run/pipe", type=tarfile.FIFOTYPE)]),
    "sparse": ("other", "linux-64", [entry("lib/a", type=tarfile.CONTTYPE)]),
    "unknown type": ("other", "linux-64", [entry("lib/a", type=b"Z")]),
    "absolute": ("absolute", "linux-64", [entry("/etc/passwd")]),
    "drive": ("absolute", "linux-64", [entry("C:/Windows/a")]),
    "parent": ("escape", "linux-64", [entry("../a")]),
    "parent within": ("escape", "linux-64", [entry("lib/../../a")]),
    "dot": ("name", "linux-64", [entry("lib/./a")]),
    "empty part": ("name", "linux-64", [entry("lib//a")]),
    "backslash": ("backslash", "linux-64", [entry("lib\\..\\a")]),
    "control": ("control", "linux-64", [entry("lib/a\x1b[2J")]),
    "newline": ("control", "linux-64", [entry("lib/a\nb")]),
    "right to left": ("control", "linux-64", [entry("lib/a\u202egpj.exe")]),
    "not UTF-8": ("control", "linux-64", [entry("lib/a\udcff")]),
    "decomposed": ("unicode", "linux-64", [entry("lib/e\u0301")]),
    "device name": ("reserved", "win-64", [entry("Library/aux.txt")]),
    "device name in noarch": ("reserved", "noarch", [entry("site-packages/con.py")]),
    "colon": ("reserved", "win-64", [entry("Library/a:stream")]),
    "trailing dot": ("reserved", "win-64", [entry("Library/a.")]),
    "long": ("long", "win-64", [entry("Library/" + "a/" * 90 + "a" * 90)]),
    "twice": ("duplicate", "linux-64", [FILE, FILE]),
    "twice with ./": ("duplicate", "linux-64", [FILE, entry("./bin/tool", b"y")]),
    "file and folder": ("duplicate", "linux-64", [FILE, entry("bin/tool", type=tarfile.DIRTYPE)]),
    "case": ("case", "osx-64", [entry("lib/A"), entry("lib/a")]),
    "case of a folder": ("case", "win-64", [entry("Lib/a"), entry("lib/b")]),
    "link up": ("link-escape", "linux-64", [entry("lib/l", linkname="../../a", **LINK)]),
    "link to the root": ("link-absolute", "linux-64", [entry("l", linkname="/etc", **LINK)]),
    "link to a drive": ("link-absolute", "win-64", [entry("l", linkname="C:/a", **LINK)]),
    "link with backslash": ("link-escape", "linux-64", [entry("l", linkname="..\\a", **LINK)]),
    "link round": (
        "link-escape",
        "linux-64",
        [entry("a", linkname="b", **LINK), entry("b", linkname="a", **LINK)],
    ),
    "link through a link": (
        "link-escape",
        "linux-64",
        [entry("a/b/here", linkname=".", **LINK), entry("l", linkname="a/b/here/../../..", **LINK)],
    ),
    "file through a link": (
        "through-link",
        "linux-64",
        [entry("lib64", linkname="lib", **LINK), entry("lib64/a")],
    ),
    "file below a file": ("through-link", "linux-64", [FILE, entry("bin/tool/a")]),
    "hard link out": ("hardlink", "linux-64", [entry("a", linkname="../../etc/shadow", **HARD)]),
    "hard link forward": (
        "hardlink",
        "linux-64",
        [entry("a", linkname="bin/tool", **HARD), FILE],
    ),
    "size twice": ("size-twice", "linux-64", [entry("a", b"12", pax_headers={"size": "2"})]),
}


@pytest.mark.parametrize("case", MEMBERS)
@pytest.mark.parametrize("extension", archive.EXTENSIONS)
def test_a_hostile_member_is_an_error_of_its_own(case: str, extension: str, tmp_path: Path) -> None:
    code, subdir, entries = MEMBERS[case]
    path = tmp_path / (STEM + extension)
    if extension == ".conda":
        conda(path, tar(*entries), tar(index(subdir)))
    else:
        path.write_bytes(bz2.compress(tar(index(subdir), *entries)))

    found = archive.scan(path).findings

    assert f"archive-{code}" in {finding.code for finding in found}
    assert all(finding.severity == "error" and finding.remedy for finding in found)


def test_names_that_differ_in_case_are_a_warning_on_linux(tmp_path: Path) -> None:
    path = conda(tmp_path / f"{STEM}.conda", tar(entry("lib/A"), entry("lib/a")))

    (finding,) = archive.scan(path).findings

    assert (finding.code, finding.severity) == ("archive-case", "warning")


def test_modes_of_a_package_built_on_windows_are_none(tmp_path: Path) -> None:
    path = conda(tmp_path / f"{STEM}.conda", tar(entry("a", mode=0o666)), tar(index("win-64")))

    assert archive.scan(path).findings == ()


def _hidden_header(path: Path) -> Path:
    good = tar(FILE)
    broken = bytearray(tar(entry("bin/hidden", b"x")))
    broken[148:156] = b"0000000\0"  # a checksum that does not fit: tarfile takes it for the end
    return conda(path, good[:1024] + bytes(broken))


def _negative(path: Path) -> Path:
    header = bytearray(tar(entry("a", b"x")))
    header[124:136] = b"\xff" * 11 + b"\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return conda(path, tar(FILE)[:1024] + bytes(header))


def _global_header(path: Path) -> Path:
    packed = io.BytesIO()
    with tarfile.open(
        fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "bin/other"}
    ) as plain:
        plain.addfile(entry("bin/tool")[0])
    return conda(path, packed.getvalue())


def _long_header(path: Path) -> Path:
    return conda(path, tar(entry("a", pax_headers={"comment": "x" * 200_000})))


def _prefixed(path: Path) -> Path:
    conda(path, tar(FILE))
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    return path


def _gap(path: Path) -> Path:
    """Put bytes between the members and the directory, with every offset right."""
    data = conda(path, tar(FILE)).read_bytes()
    start = struct.unpack("<L", data[-6:-2])[0]
    end = data[start:-6] + struct.pack("<L", start + 6) + data[-2:]
    path.write_bytes(data[:start] + b"hidden" + end)
    return path


def _other_name(path: Path) -> Path:
    data = conda(path, tar(FILE)).read_bytes()
    path.write_bytes(data.replace(b"metadata.json", b"metadata.jsom", 1))
    return path


def _after(path: Path) -> Path:
    conda(path, tar(FILE))
    path.write_bytes(path.read_bytes() + b"more")
    return path


def _bz2(path: Path, data: bytes) -> Path:
    path = path.with_name(f"{STEM}.tar.bz2")
    path.write_bytes(data)
    return path


# What makes reading on pointless or dear: the code, and how such a file is made.
CONTAINERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "data behind the zip": ("hidden-data", _after),
    "data before the zip": ("hidden-data", _prefixed),
    "data in the zip": ("hidden-data", _gap),
    "two names in the zip": ("hidden-data", _other_name),
    "data behind the zstd frame": (
        "hidden-data",
        lambda path: conda(path, tar(FILE), pack=lambda data: zstd.compress(data) + b"more"),
    ),
    "a second zstd frame": (
        "hidden-data",
        lambda path: conda(path, tar(FILE), pack=lambda data: zstd.compress(data) * 2),
    ),
    "data behind the bz2": (
        "hidden-data",
        lambda path: _bz2(path, bz2.compress(tar(index())) + b"more"),
    ),
    "data behind the tar": ("hidden-data", lambda path: conda(path, tar(FILE, tail=b"more"))),
    "a tar behind the tar": ("hidden-data", lambda path: conda(path, tar(FILE) + tar(FILE))),
    "a header no reader sees": ("hidden-data", _hidden_header),
    "a header for all": ("hidden-data", _global_header),
    "another member of the zip": (
        "container",
        lambda path: conda(path, tar(FILE), more=(("pkg-other-1-0.tar.zst", b""),)),
    ),
    "compressed by the zip": (
        "container",
        lambda path: conda(path, tar(FILE), method=zipfile.ZIP_DEFLATED),
    ),
    "info in the pkg part": ("part", lambda path: conda(path, tar(entry("info/index.json")))),
    "pkg in the info part": ("part", lambda path: conda(path, tar(FILE), tar(index(), FILE))),
    "a zstd bomb": ("ratio", lambda path: conda(path, bytes(300 << 20))),
    "a bz2 bomb": ("ratio", lambda path: _bz2(path, bz2.compress(bytes(300 << 20)))),
    "a path without end": (
        "long",
        lambda path: conda(path, tar(entry("a/" * 30_000 + "b"))),
    ),
    "a link without end": (
        "long",
        lambda path: conda(path, tar(entry("a", linkname="b" * 2000, **LINK))),
    ),
    "a huge file of info": (
        "size",
        lambda path: conda(path, tar(FILE), tar(index(), entry("info/a", bytes(65 << 20)))),
    ),
}
UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "a size below zero": _negative,
    "an endless header": _long_header,
    "another name": lambda path: conda(path, tar(FILE)).rename(path.with_name("a-1-0.conda")),
    "another format": lambda path: conda(
        path, tar(FILE), metadata=b'{"conda_pkg_format_version": 3}'
    ),
    "no tar": lambda path: conda(path, b"x" * 2000),
    "a tar cut off": lambda path: conda(path, tar(FILE)[:700]),
    "a tar without its end": lambda path: conda(path, tar(FILE)[:1024]),
    "a frame cut off": lambda path: conda(path, tar(FILE), pack=lambda d: zstd.compress(d)[:-5]),
    "an empty file": lambda path: _bz2(path, b""),
    "text": lambda path: _bz2(path, b"<html>404</html>"),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_a_hostile_container_is_refused_by_its_own_reason(case: str, tmp_path: Path) -> None:
    code, make = CONTAINERS[case]
    path = make(tmp_path / f"{STEM}.conda")

    with pytest.raises(UnsafeArchive) as refused:
        archive.scan(path)

    assert refused.value.code == f"archive-{code}"
    assert refused.value.remedy


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_package_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    path = UNREADABLE[case](tmp_path / f"{STEM}.conda")

    with pytest.raises(ArtifactError) as refused:
        archive.scan(path)

    assert "\n" not in str(refused.value)


def test_limits_of_members_and_time_stop_the_scan(tmp_path: Path) -> None:
    path = conda(tmp_path / f"{STEM}.conda", tar(*(entry(f"a/{n}") for n in range(50))))

    for limits, code in (
        (Limits(members=20), "members"),
        (Limits(names=100), "members"),
        (Limits(time_s=-1), "time"),
        (Limits(unpacked=2000), "size"),
    ):
        with pytest.raises(UnsafeArchive) as refused:
            archive.scan(path, limits=limits)
        assert refused.value.code == f"archive-{code}"


@pytest.mark.parametrize("extension", archive.EXTENSIONS)
def test_a_bomb_of_many_gigabytes_costs_little(extension: str, tmp_path: Path) -> None:
    path = tmp_path / (STEM + extension)
    if extension == ".conda":
        packer = zstd.ZstdCompressor()
        frames = [packer.compress(bytes(1 << 20)) for _ in range(2048)]
        bomb = b"".join([*frames, packer.flush()])
        conda(path, b"", pack=lambda _: bomb)
    else:
        path.write_bytes(bz2.compress(bytes(10 << 20)) * 200)
    started = time.monotonic()

    with pytest.raises(UnsafeArchive):
        archive.scan(path)

    assert time.monotonic() - started < 20


FILES = st.dictionaries(
    st.from_regex(r"\A(lib|share/[a-m]{1,5}|bin)/[n-z]{1,8}\Z"), st.binary(max_size=200), max_size=8
)


@given(files=FILES, extension=st.sampled_from(archive.EXTENSIONS))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_good_packages_are_accepted(
    files: dict[str, bytes], extension: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    staged = {name: builder.Staged(data=data) for name, data in files.items()}
    made = builder.Built(
        recipe=None, files=staged, subdir="linux-64", name="good", version="1", depends=()
    )
    (path,) = builder.write(made, tmp_path_factory.mktemp("good"), extension)

    found = archive.scan(path)

    assert found.findings == ()
    assert {m.name for m in found.members if not m.name.startswith("info/")} == files.keys()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One good package in both formats."""
    made = builder.Built(
        recipe=None,
        files={f"lib/{n}": builder.Staged(data=b"text" * n) for n in range(20)},
        subdir="linux-64",
        name="odd",
        version="1",
        depends=(),
    )
    paths = builder.write(made, tmp_path_factory.mktemp("seeds"))
    return {path.name: path.read_bytes() for path in paths}


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "double"]), st.integers(0), st.binary()),
    min_size=1,
    max_size=4,
)


@given(mutations=MUTATIONS, extension=st.sampled_from(archive.EXTENSIONS), inner=st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_package_is_scanned_or_refused(
    mutations: list[tuple[str, int, bytes]],
    extension: str,
    inner: bool,  # noqa: FBT001 # hypothesis gives it
    seeds: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Mutations of the tar below the compression reach further than those of the file."""
    path = tmp_path_factory.mktemp("mutated") / (STEM + extension)
    data = bytearray(seeds[path.name] if not inner else tar(index(), FILE, entry("lib/b", b"b")))
    for what, where, new in mutations:
        at = where % (len(data) or 1)
        if what == "set":
            data[at : at + len(new)] = new
        elif what == "cut":
            del data[at : at + len(new) + 1]
        elif what == "insert":
            data[at:at] = new
        else:
            data[at:at] = data[at : at + 512]
    if not inner:
        path.write_bytes(data)
    elif extension == ".conda":
        conda(path, bytes(data))
    else:
        path.write_bytes(bz2.compress(bytes(data)))

    try:
        archive.scan(path)
    except ArtifactError as refused:
        assert "\n" not in refused.problem.removeprefix(str(path))
    with contextlib.suppress(ArtifactError):
        archive.info_members(path)
    assert not unpacking()


def unpacking() -> list[str]:
    """Return the threads that still unpack something: collected later, they could wait for ever."""
    return [one.name for one in threading.enumerate() if "ThreadPoolExecutor" in one.name]


@pytest.mark.parametrize("extension", archive.EXTENSIONS)
def test_nothing_goes_on_after_a_package_was_refused(
    extension: str, seeds: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / (STEM + extension)
    path.write_bytes(seeds[path.name])

    def look(name: str, _: object) -> None:
        raise ArtifactError(f"{name} is looked at.", remedy="")

    with pytest.raises(ArtifactError) as refused:
        archive.scan(path, look)

    assert not unpacking()
    assert refused.value.problem  # its traceback still holds whatever was under way
