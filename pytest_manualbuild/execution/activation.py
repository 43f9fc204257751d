"""What a test finds when it starts: variables as conda-build's, and an active environment."""

from __future__ import annotations

import re
import shlex

from pytest_manualbuild.environment.environments import post_link
from pytest_manualbuild.execution import aftermath, preamble
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.model import (
    Artifact,
    InstalledPackage,
    LinkedEnvironment,
    PlannedPackage,
    builder_subdir,
)

# What conda gives to a post-link script (gateways/subprocess.py, link.py), which ran at install.
_POST_LINK = """\
mark {mark}
PKG_NAME={name} PKG_VERSION={version} PKG_BUILDNUM={number} ROOT_PREFIX=$PREFIX \\
  PATH=$PREFIX/bin:$PATH bash "$PREFIX/"{script} || exit $?
"""
# conda activates under errexit: a failing script in activate.d fails the test.
_ACTIVATE = """\
_mb_bash=/bin/bash
[ -x "$_mb_bash" ] || _mb_bash=$(command -v bash)
set -e
cd {work}
_mb_work=$PWD
export PATH={prefix}/bin:$PATH
for _mb_script in {prefix}/etc/conda/activate.d/*.sh; do
  if [ -e "$_mb_script" ]; then . "$_mb_script"; fi
done
{too}set +e
cd "$_mb_work"
unset _mb_script
{started}mark {mark}
{after}"""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def script(
    planned: PlannedPackage,
    environment: LinkedEnvironment,
    build: LinkedEnvironment | None,
    folder: str,
    marks: Marks,
) -> str:
    """Return the bash script that makes the environments active, in ``work`` below that folder."""
    (section,) = planned.sections
    work = f"{folder}/work"
    text = variables(planned.artifact, environment, work)
    text += preamble.before(section, planned.artifact)
    for name in environment.post_link:
        text += _post_link(next(p for p in environment.packages if p.name == name), marks)
    return text + _ACTIVATE.format(
        prefix=shlex.quote(environment.prefix),
        work=shlex.quote(work),
        too=preamble.activate_too(build),
        started=aftermath.before(folder),
        mark=marks.new(Said.ACTIVATED),
        after=preamble.after(section),
    )


def _post_link(installed: InstalledPackage, marks: Marks) -> str:
    number = re.search(r"\d+$", installed.build)
    return _POST_LINK.format(
        mark=marks.new(Said.LINKING, name=installed.name),
        name=shlex.quote(installed.name),
        version=shlex.quote(installed.version),
        number=number.group() if number else "0",
        script=shlex.quote(post_link(installed.name)),
    )


def variables(artifact: Artifact, environment: LinkedEnvironment, work: str) -> str:
    """Return the exports that conda-build documents for the time of the test (environ.py)."""
    subdir = builder_subdir(artifact.subdir)
    system, _, arch = subdir.partition("-")
    values = {name: value for name, value in artifact.variant.items() if _NAME.fullmatch(name)}
    values |= {
        "ARCH": {"64": "64", "32": "32"}.get(arch, arch),
        "CMAKE_GENERATOR": "Unix Makefiles",
        "CONDA_BUILD": "1",
        "CONDA_BUILD_STATE": "TEST",
        "CONDA_DEFAULT_ENV": environment.prefix,
        "CONDA_PREFIX": environment.prefix,
        "CONDA_SHLVL": "1",
        "PKG_BUILDNUM": str(artifact.build_number),
        "PKG_BUILD_STRING": artifact.build,
        "PKG_CONFIG_PATH": f"{environment.prefix}/lib/pkgconfig",
        "PKG_NAME": artifact.name,
        "PKG_VERSION": artifact.version,
        "PREFIX": environment.prefix,
        "PYTHONNOUSERSITE": "1",
        "RECIPE_DIR": work,
        "SHLIB_EXT": ".dylib" if system == "osx" else ".so",
        "SRC_DIR": work,
        "SUBDIR": subdir,
        "build_platform": subdir,
    }
    if hashed := re.search(r"h[0-9a-f]{7}", artifact.build):
        values["PKG_HASH"] = hashed.group()
    if system == "linux":
        values["LD_RUN_PATH"] = f"{environment.prefix}/lib"
    for installed in environment.packages:
        if installed.name == "python":
            short = ".".join(installed.version.split(".")[:2])
            values["PY_VER"] = short
            values["CONDA_PY"] = short.replace(".", "")
            values["STDLIB_DIR"] = f"{environment.prefix}/lib/python{short}"
            values["SP_DIR"] = f"{environment.prefix}/lib/python{short}/site-packages"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(values.items())]
    lines.append('export CPU_COUNT="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"')
    return "\n".join(lines) + "\n"
