"""What a test finds when it starts: variables as conda-build's, and an active environment."""

from __future__ import annotations

import re
import shlex

from pytest_manualbuild.environment.environments import post_link
from pytest_manualbuild.execution import aftermath, preamble
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.execution.variables import documented
from pytest_manualbuild.model import Artifact, PlannedPackage, builder_subdir
from pytest_manualbuild.records import InstalledPackage, LinkedEnvironment

# What conda gives to a post-link script (gateways/subprocess.py, link.py), which ran at install.
_POST_LINK = """\
mark {mark}
PKG_NAME={name} PKG_VERSION={version} PKG_BUILDNUM={number} ROOT_PREFIX=$PREFIX \\
  PATH=$PREFIX/bin:$PATH bash "$PREFIX/"{script} || exit $?
"""
_ACTIVATE = """\
_mb_bash=/bin/bash
[ -x "$_mb_bash" ] || _mb_bash=$(command -v bash)
set -e
cd {work}
_mb_work=$PWD
{activate}{too}set +e
cd "$_mb_work"
unset _mb_script IFS
{started}mark {mark}
{after}"""
# For people, who want a shell although, or because, a script of the environment fails.
_ENTER = """\
export CPU_COUNT=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
cd {work}
{activate}{too}cd {work}
unset _mb_script
{after}PS1={prompt}
"""


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
    text = _variables(planned.artifact, environment, work)
    text += preamble.before(section, planned.artifact)
    for name in environment.post_link:
        text += _post_link(next(p for p in environment.packages if p.name == name), marks)
    return text + _ACTIVATE.format(
        activate=preamble.activate(environment),
        work=shlex.quote(work),
        too=preamble.activate_too(build),
        started=aftermath.before(folder),
        mark=marks.new(Said.ACTIVATED),
        after=preamble.after(section),
    )


def enter(
    planned: PlannedPackage,
    environment: LinkedEnvironment,
    build: LinkedEnvironment | None,
    folder: str,
    host: str,
) -> str:
    """Return what gives a person's bash the environment and the folder that the tests had."""
    (section,) = planned.sections
    work = f"{folder}/work"
    text = _variables(planned.artifact, environment, work)
    text += preamble.before(section, planned.artifact)
    return text + _ENTER.format(
        activate=preamble.activate(environment),
        work=shlex.quote(work),
        too=preamble.activate_too(build),
        after=preamble.after(section).replace(" || exit 1", ""),
        prompt=shlex.quote(f"({planned.label}) {host}:\\W\\$ "),
    )


def _post_link(installed: InstalledPackage, marks: Marks) -> str:
    number = re.search(r"\d+$", installed.build)
    return _POST_LINK.format(
        mark=marks.new(Said.LINKING, name=installed.name),
        name=shlex.quote(installed.name),
        version=shlex.quote(installed.version),
        number=number.group() if number else "0",
        script=shlex.quote(post_link(installed.name, "")),
    )


def _variables(artifact: Artifact, environment: LinkedEnvironment, work: str) -> str:
    values = documented(artifact, environment, work, builder_subdir(artifact.subdir))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(values.items())]
    return "\n".join(lines) + "\n"
