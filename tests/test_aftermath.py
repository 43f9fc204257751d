"""What is said of a host after the tests, by the real find and shell of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_manualbuild.execution import aftermath


def test_a_file_that_only_got_one_more_link_was_not_changed(tmp_path: Path) -> None:
    prefix, work = tmp_path / "prefix", tmp_path / "work"
    for folder in (prefix / "conda-meta", work):
        folder.mkdir(parents=True)
    for name in ("linked", "chmodded", "written"):
        (tmp_path / name).write_text("as it was")
        os.link(tmp_path / name, prefix / name)
    (tmp_path / "chmodded").unlink()  # a file of its own, as copies and overlays have it
    shell(aftermath.before(str(tmp_path)), tmp_path)
    os.link(prefix / "linked", tmp_path / "another environment")
    (prefix / "chmodded").chmod(0o700)
    (prefix / "written").write_text("otherwise")
    (prefix / "new").write_text("")

    said = shell(aftermath.after(str(tmp_path), str(prefix), []), tmp_path)

    assert aftermath.findings(said, [], str(tmp_path)) == [
        "the tests changed or added files of the environment: chmodded, new, written"
    ]


@pytest.mark.parametrize(
    "odd",
    [
        "rm started; mkfifo started",
        "rm step; mkfifo step",
        "rm step started; mkdir step started",
        "rm started; ln -s /dev/full started",
        "chmod 0 step started",
        "touch -t 203701010000 step started",
    ],
)
def test_what_tests_make_of_our_files_is_nothing_to_those_who_come_next(
    tmp_path: Path, odd: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for name in ("first/work", "second/work", "prefix/conda-meta"):
        (tmp_path / name).mkdir(parents=True)
    prefix = tmp_path / "prefix"
    shell(aftermath.before(str(first)), first)
    shell(f"cd {tmp_path}; {odd}", first)
    shell(aftermath.after(str(first), str(prefix), []), first)

    # What a script of an environment may set.
    shell(f"set -o noclobber\n{aftermath.before(str(second))}", second)
    (prefix / "new").write_text("")
    said = shell(aftermath.after(str(second), str(prefix), []), second)

    assert aftermath.findings(said, [], str(second)) == [
        "the tests changed or added files of the environment: new"
    ]


def shell(script: str, folder: Path) -> bytes:
    environment = {**os.environ, "HOME": str(folder / "work"), "TMPDIR": str(folder / "work")}
    return subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, timeout=20, check=True
    ).stdout
