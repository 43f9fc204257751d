"""Two builds side by side: what differs is named, and known noise is told from it."""

from __future__ import annotations

import gzip
import importlib.util
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import conftest
from conftest import manualbuild
from pytest_manualbuild import compare, diffoscope
from pytest_manualbuild.compare import Likeness
from pytest_manualbuild.package import archive


def build(folder: Path, files: dict[str, bytes]) -> Path:
    import builder

    recipe = folder / "recipe"
    recipe.mkdir(parents=True)
    (recipe / "meta.yaml").write_text(conftest.META)
    staged = {name: builder.Staged(data=data) for name, data in files.items()}
    built = builder.Built(recipe=recipe, files=staged, subdir="noarch")
    return builder.write(built, folder, ".conda")[0]


def pyc(tmp_path: Path, source: str, time_s: int) -> bytes:
    """Compile as Python does, with the time of the source in the file."""
    import os

    path = tmp_path / "module.py"
    path.write_text(source)
    os.utime(path, (time_s, time_s))
    made = py_compile.compile(str(path), cfile=str(tmp_path / "module.pyc"), dfile="module.py")
    assert made is not None
    return Path(made).read_bytes()


def program() -> bytes:
    """A real ELF program with a build id."""
    for path in (Path(sys.executable).resolve(), Path("/bin/true"), Path("/bin/ls")):
        data = path.read_bytes() if path.is_file() else b""
        if compare._BUILD_ID.search(data) and data.startswith(compare._ELF64):
            return data
    pytest.skip("this machine has no ELF program with a build id")


def rebuilt(data: bytes) -> bytes:
    """Return a program with another build id."""
    note = compare._BUILD_ID.search(data)
    assert note is not None
    return data[: note.end()] + bytes(20) + data[note.end() + 20 :]


def test_the_same_file_is_identical(tmp_path: Path) -> None:
    one = build(tmp_path / "a", {"share/a.txt": b"a\n"})
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    found = compare.compare(one, tmp_path / "b/noarch" / one.name)

    assert (found.likeness, found.differences) == (Likeness.IDENTICAL, ())


def test_what_differs_is_exactly_what_is_named(tmp_path: Path) -> None:
    one = build(tmp_path / "a", {"share/a": b"a", "share/b": b"b", "share/c": b"c"})
    other = build(tmp_path / "b", {"share/a": b"a", "share/b": b"B!", "share/d": b"d"})

    ran = manualbuild("compare", str(one), str(other), cwd=tmp_path)

    assert ran.status == 1, ran.out
    listed = ran.out.partition("\ndiffoscope says:")[0]
    named = {line.split(":")[0].strip() for line in listed.splitlines()[1:]}
    assert {name for name in named if not name.startswith("info/")} == {
        "share/b", "share/c", "share/d",
    }  # fmt: skip
    assert "share/b: other bytes (1 and 2)" in ran.out
    assert "share/c: only in the first" in ran.out
    assert "share/d: only in the second" in ran.out


def test_time_and_build_ids_are_noise(tmp_path: Path) -> None:
    elf = program()
    one = build(tmp_path / "a", {
        "lib/m.pyc": pyc(tmp_path, "x = 1\n", 1_000_000), "bin/tool": elf,
        "share/man.gz": gzip.compress(b"text", mtime=1),
    })  # fmt: skip
    other = build(tmp_path / "b", {
        "lib/m.pyc": pyc(tmp_path, "x = 1\n", 2_000_000), "bin/tool": rebuilt(elf),
        "share/man.gz": gzip.compress(b"text", mtime=2),
    })  # fmt: skip

    ran = manualbuild("compare", str(one), str(other), cwd=tmp_path)

    assert (ran.status, ran.out.splitlines()[0]) == (0, "equal"), ran.out
    assert {line.split(":")[0].strip() for line in ran.out.splitlines()[1:]} == {
        "lib/m.pyc", "bin/tool", "share/man.gz", "info/paths.json",
    }  # fmt: skip


def test_noise_hides_nothing(tmp_path: Path) -> None:
    elf = program()
    changed = rebuilt(elf)[:-1] + bytes([elf[-1] ^ 1])
    # Bytes that look like a build id, where the loader knows no note.
    lookalike = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
    for name, one, other in (
        ("lib/m.pyc", pyc(tmp_path, "x = 1\n", 1), pyc(tmp_path, "x = 2\n", 1)),
        ("bin/tool", elf, changed),
        ("bin/tool", elf + lookalike + b"a" * 20, elf + lookalike + b"b" * 20),
        ("share/man.gz", gzip.compress(b"text"), gzip.compress(b"test")),
        ("share/man.gz", gzip.compress(b"text"), gzip.compress(b"text") + b"more"),
    ):
        assert compare.normalise(name, one) != compare.normalise(name, other)


def read(path: Path) -> dict[str, bytes]:
    """Return every file of a package."""
    files: dict[str, bytes] = {}
    archive.scan(path, lambda name, content: files.update({name: b"".join(content)}))
    return files


def test_headers_of_windows_and_macos(shared: Path) -> None:
    seen = set()
    for path in sorted((shared / "channel").glob("*/hello*.conda")):
        for name, data in read(path).items():
            if data[:2] == b"MZ":
                start = int.from_bytes(data[0x3C:0x40], "little") + 8
            elif data[:4] == compare._MACHO64 and b"\x1b\0\0\0\x18\0\0\0" in data[:4096]:
                start = data.index(b"\x1b\0\0\0\x18\0\0\0") + 8
            else:
                continue
            other = data[:start] + b"\1\2\3\4" + data[start + 4 :]
            assert compare.normalise(name, data) == compare.normalise(name, other)
            assert compare.normalise(name, data) != compare.normalise(name, data[:-1] + b"\xfe")
            seen.add(data[:2])
    if not seen:
        pytest.skip("no such binary in the channel")


@pytest.mark.parametrize("first", ["/home/a/_h_env_placehold", "/root/bb_h_env_placehold"])
def test_the_prefix_of_the_build_is_noise_as_conda_replaces_it(first: str) -> None:
    text = f"#!{first}/bin/python\n".encode()
    other = b"#!/work/c/_h_env_placehold/bin/python\n"

    same = compare.normalise("bin/x", text, first.encode())

    assert same == compare.normalise("bin/x", other, b"/work/c/_h_env_placehold")
    assert same != compare.normalise("bin/x", other)


@example(name="info/index.json", start=b"", rest=b"0")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["info/index.json", "info/about.json", "info/paths.json", "info/has_prefix",
                     "a.pyc", "b"]),
    st.sampled_from([b"", b"\x1f\x8b", b"\x7fELF\x02\x01", b"MZ", compare._MACHO64, b"{"]),
    st.binary(max_size=400),
)  # fmt: skip
def test_any_bytes_are_normalised_or_left(name: str, start: bytes, rest: bytes) -> None:
    assert isinstance(compare.normalise(name, start + rest), bytes)


def test_magic_of_python_is_kept() -> None:
    magic = importlib.util.MAGIC_NUMBER
    assert compare.normalise("a.pyc", magic + bytes(20)).startswith(magic)


def test_diffoscope_is_asked_about_the_differing_files_only(tmp_path: Path) -> None:
    if not shutil.which("diffoscope"):
        pytest.skip("diffoscope is not installed")
    one = build(tmp_path / "a", {"share/a": b"same\n", "share/b": b"one\n\x1b[2J"})
    other = build(tmp_path / "b", {"share/a": b"same\n", "share/b": b"two\n\x1b[2J"})

    ran = manualbuild("compare", str(one), str(other), cwd=tmp_path)

    asked = ran.out.partition("diffoscope says:")[2]
    assert ("-one" in asked, "+two" in asked, "share/a" in asked) == (True, True, False), ran.out
    assert "\x1b" not in ran.out
    said = diffoscope.explain(one, other, ["share/b"], limit_s=0.01)
    assert said == "diffoscope did not end within 0 s."
    again = manualbuild("compare", str(one), str(one), cwd=tmp_path)
    assert "diffoscope" not in again.out


def test_a_diffoscope_that_hangs_or_floods_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a program of that name in its place: the real one does neither when asked."""
    one = build(tmp_path / "a", {"share/b": b"one\n"})
    other = build(tmp_path / "b", {"share/b": b"two\n"})
    program = tmp_path / "bin/diffoscope"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("ANACONDA_API_TOKEN", "canary-token-1234")

    def said(script: str, limit_s: float = 30) -> str:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(diffoscope.explain(one, other, ["share/b"], limit_s=limit_s))

    assert "did not end within" in said("sleep 60 & sleep 60", limit_s=0.2)
    assert len(said("head -c 9000000 /dev/zero; exit 1")) <= 4 * diffoscope.MOST_TEXT
    assert "canary" not in said("env; exit 1")
    assert said("exit 2") == "diffoscope ended with status 2."
    assert said("cat first/share/b; exit 1") == "one\n"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert diffoscope.explain(one, other, ["share/b"]) is None
