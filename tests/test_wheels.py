"""The binary audit on binaries of others: wheels of numpy and pyarrow for every system.

Downloads 250 MB, so only with MANUALBUILD_TEST_WHEELS=DIR, where they are kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_manualbuild.audit.binaries import Binaries
from pytest_manualbuild.audit.binary import Binary, version

NUMPY, PYARROW = "numpy==1.26.4", "pyarrow==15.0.2"
KEPT = os.environ.get("MANUALBUILD_TEST_WHEELS")
pytestmark = pytest.mark.skipif(not KEPT, reason="MANUALBUILD_TEST_WHEELS names no folder")


def _wheel(requirement: str, tag: str) -> Path:
    """Return a wheel, from the folder or from the package index."""
    folder = Path(str(KEPT)) / tag
    name = requirement.partition("==")[0]
    if not list(folder.glob(f"{name}-*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
             "--python-version=311", f"--platform={tag}", f"--dest={folder}", requirement],
            check=True,
            timeout=600,
        )  # fmt: skip
    return next(folder.glob(f"{name}-*.whl"))


def _binaries(wheel: Path) -> list[Binary]:
    def pieces(name: str) -> Iterator[memoryview]:
        with container.open(name) as file:
            while piece := file.read(1 << 20):
                yield memoryview(piece)

    with zipfile.ZipFile(wheel) as container, Binaries() as binaries:
        for name in container.namelist():
            for _ in binaries.watch(name, pieces(name)):
                pass
        binaries.finish()
    return binaries.found


@pytest.mark.parametrize(
    ("requirement", "tag", "what", "wanted"),
    [
        (NUMPY, "manylinux_2_17_x86_64", "glibc", "2.17"),
        (PYARROW, "manylinux_2_17_x86_64", "glibc", "2.17"),
        (PYARROW, "manylinux_2_28_x86_64", "glibc", "2.28"),
        (NUMPY, "macosx_10_9_x86_64", "macos", "10.9"),
        (PYARROW, "macosx_10_15_x86_64", "macos", "10.15"),
        (NUMPY, "macosx_11_0_arm64", "macos", "11.0"),
        (NUMPY, "win_amd64", "windows", "6.0"),
        (PYARROW, "win_amd64", "windows", "6.0"),
    ],
)
def test_wheels_need_what_their_names_promise(
    requirement: str, tag: str, what: str, wanted: str
) -> None:
    found = _binaries(_wheel(requirement, tag))

    needs = {need.version for binary in found for need in binary.needs if need.what == what}
    assert max(needs, key=version) == wanted
    assert [binary.problem for binary in found if binary.problem] == []
    signed = [binary for binary in found if "unsigned" not in binary.marks]
    assert signed == found
