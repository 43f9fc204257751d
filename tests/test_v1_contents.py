"""``package_contents`` is checked on the package file, with rattler-build's globs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_v1 import build, noarch, write

from conftest import LOCAL, results, run_local
from pytest_manualbuild import globs
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.execution import contents
from pytest_manualbuild.model import Artifact, ContentsRule

# Rows as the library globset answers them: rattler-build asks it, and its `*` matches a slash.
MATCHES = [
    ("share/*", "share/a/b", True),
    ("share/?", "share/a", True),
    ("share/?", "share/ab", False),
    ("*.txt", "deep/down/a.txt", True),
    ("**/a", "a", True),
    ("**/a", "x/y/a", True),
    ("**/a", "xa", False),
    ("lib/**/a", "lib/a", True),
    ("lib/**/a", "lib/x/y/a", True),
    ("lib/**", "lib/x", True),
    ("lib/**", "lib", False),
    ("**", "anything/at/all", True),
    ("lib/{,lib}z.so", "lib/libz.so", True),
    ("lib/{,lib}z.so", "lib/z.so", True),
    ("lib/{a,{b,c}}.so", "lib/c.so", True),
    ("a[0-9].txt", "a7.txt", True),
    ("a[!0-9].txt", "a7.txt", False),
    ("a[]].txt", "a].txt", True),
    ("a[^x]", "ay", True),
    (r"a\*", "a*", True),
    (r"a\*", "ab", False),
    ("a.b", "axb", False),
    ("a+(b)$", "a+(b)$", True),
    ("a,b", "a,b", True),
]


@pytest.mark.parametrize(("glob", "path", "wanted"), MATCHES)
def test_globs_match_as_rattler_build_matches(glob: str, path: str, wanted: bool) -> None:  # noqa: FBT001 # a table
    assert globs.matches(glob, path) is wanted


@pytest.mark.parametrize("glob", ["[", "a{b", "a}b", "a\\", "[!", "x" * 5000, "[z-a]", "{a,b}" * 9])
def test_what_is_no_glob_is_refused(glob: str) -> None:
    with pytest.raises(globs.BadGlob):
        globs.regexes(glob)


@given(st.text(alphabet="ab/*?[]{},!\\.-^é", max_size=12), st.text(alphabet="ab/.é", max_size=8))
def test_any_text_is_a_glob_or_refused(glob: str, path: str) -> None:
    with suppress(globs.BadGlob):
        globs.matches(glob, path)


def test_a_glob_of_many_stars_is_answered_at_once() -> None:
    assert not globs.matches("*a" * 500 + "b", "a" * 4000)
    assert globs.matches("*a" * 500 + "*b", "a" * 4000 + "b")
    with pytest.raises(globs.BadGlob):
        globs.matches("{a,b}" * 50, "a" * 50)


@given(st.text(alphabet="abc/._-", max_size=20))
def test_a_path_without_signs_matches_itself_alone(path: str) -> None:
    assert globs.matches(path, path)
    assert not globs.matches(path, f"{path}x")


def package(path: Path, subdir: str = "linux-64", noarch_kind: str | None = None) -> Artifact:
    return Artifact(
        path=str(path), subdir=subdir, filename=path.name, sha256="0" * 64, size=1, name="p",
        version="1", build="0", build_number=0, noarch=noarch_kind, depends=(), constrains=(),
    )  # fmt: skip


# kind, glob, subdir, noarch, a path that satisfies it
RULES = [
    ("bin", "tool", "linux-64", None, "bin/tool"),
    ("bin", "tool", "win-64", None, "Library/bin/tool.exe"),
    ("bin", "tool", "win-64", None, "Scripts/tool.bat"),
    ("bin", "tool", "win-64", None, "tool.cmd"),
    ("lib", "z", "linux-64", None, "lib/libz.so.1"),
    ("lib", "libz.so", "linux-64", None, "lib/libz.so"),
    ("lib", "libz.a", "linux-64", None, "lib/libz.a"),
    ("lib", "z", "osx-64", None, "lib/libz.1.dylib"),
    ("lib", "z.dll", "win-64", None, "Library/bin/z.dll"),
    ("include", "zlib.h", "linux-64", None, "include/zlib.h"),
    ("include", "zlib.h", "win-64", None, "Library/include/zlib.h"),
    ("site_packages", "a.b", "linux-64", None, "lib/python3.11/site-packages/a/b.py"),
    ("site_packages", "a.b", "linux-64", None, "lib/python3.11/site-packages/a/b/__init__.py"),
    ("site_packages", "a", "win-64", None, "Lib/site-packages/a.py"),
    ("site_packages", "a", "noarch", "python", "site-packages/a/__init__.py"),
    ("site_packages", "a/data.txt", "noarch", "python", "site-packages/a/data.txt"),
    ("files", "share/**/x", "noarch", "generic", "share/a/x"),
]


@pytest.mark.parametrize(("kind", "glob", "subdir", "noarch_kind", "path"), RULES)
def test_each_kind_of_file_is_looked_for_where_rattler_build_looks(
    tmp_path: Path,
    kind: str,
    glob: str,
    subdir: str,
    noarch_kind: str | None,
    path: str,
) -> None:
    artifact = package(tmp_path / "p-1-0.conda", subdir, noarch_kind)
    rules = [
        ContentsRule(kind=kind, glob=glob),
        ContentsRule(kind=kind, glob=glob, exists=False),
        ContentsRule(kind="strict"),
    ]

    there = contents.problems(artifact, rules, [path])
    elsewhere = contents.problems(artifact, rules, ["share/other"])

    assert [bool(one) for one in there] == [False, True, False]
    assert [bool(one) for one in elsewhere] == [True, False, True]


def test_a_library_for_windows_needs_both_of_its_files(tmp_path: Path) -> None:
    (problem,) = contents.problems(
        package(tmp_path / "p-1-0.conda", "win-64"),
        [ContentsRule(kind="lib", glob="z")],
        ["Library/bin/z.dll"],
    )

    assert problem == "No file matches Library/lib/z.lib."


def test_a_kind_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        contents.problems(package(tmp_path / "p"), [ContentsRule(kind="moon", glob="x")], [])


@pytest.mark.parametrize("extension", [".conda", ".tar.bz2"])
def test_the_contents_of_a_package_that_was_built_long_ago_are_checked(
    tmp_path: Path, extension: str
) -> None:
    """rattler-build looks only when it builds: here the recipe was made stricter later."""
    folder = write(tmp_path / "recipe", noarch("p", "- script: [echo old]\n"))
    build(folder, tmp_path / "build_artifacts", extension=extension)
    write(
        folder,
        noarch(
            "p",
            "- package_contents:\n    bin: [tool]\n    files:\n      exists: ['share/**']\n"
            "      not_exists: ['*.txt']\n    strict: true\n",
        ),
    )
    (tmp_path / "local.toml").write_text(LOCAL)

    ran = run_local(tmp_path)

    assert ran.status == 1, ran.out
    said = {check: got for (_, check), got in results(tmp_path / "manualbuild-report").items()}
    assert said == {
        "install": ("passed", "ok"),
        "tests[0].package_contents.bin: tool": ("failed", "contents"),
        "tests[0].package_contents.files: share/**": ("passed", "ok"),
        "tests[0].package_contents.files.not_exists: *.txt": ("failed", "contents"),
        "tests[0].package_contents.strict": ("passed", "ok"),
    }
