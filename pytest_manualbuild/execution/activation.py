"""What a test finds when it starts: variables as conda-build's, and an active environment."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import msgspec

from pytest_manualbuild.environment.environments import post_link
from pytest_manualbuild.execution import aftermath, preamble
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.execution.variables import documented
from pytest_manualbuild.model import Artifact, CheckKind, PlannedPackage, builder_subdir
from pytest_manualbuild.records import InstalledPackage, LinkedEnvironment
from pytest_manualbuild.shells import MARK

# What conda gives to a post-link script (gateways/subprocess.py, link.py), which ran at install.
_POST_LINK = """\
mark {mark}
PKG_NAME={name} PKG_VERSION={version} PKG_BUILDNUM={number} ROOT_PREFIX=$PREFIX \\
  PATH=$PREFIX/bin:$PATH bash "$PREFIX/"{script} || exit $?
"""
_BASH = """\
_mb_bash=/bin/bash
[ -x "$_mb_bash" ] || _mb_bash=$(command -v bash)
"""
# A script of the environment may have a `mark` of its own.
_ACTIVATE = """\
set -e
cd {work}
_mb_work=$PWD
{activate}{too}set +e
{bash}cd "$_mb_work"
unset _mb_script IFS
eval "${define}"
{started}mark {mark}
{after}"""
_PLAIN = f"""\
{_BASH}cd {{work}} || exit 1
_mb_work=$PWD
{{started}}mark {{mark}}
"""
# Others mean something to shells and loaders, which begin with them.
_QUIET_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_EXPORTED = 32 * 1024
"""Bytes of what is exported, without a doubt less than a program can begin with."""
# For people, who want a shell although, or because, a script of the environment fails.
_ENTER = """\
export CPU_COUNT=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
cd {work}
{activate}{too}cd {work}
unset _mb_script
{after}PS1={prompt}
"""


class Active(msgspec.Struct, frozen=True, kw_only=True):
    """What makes an environment active."""

    script: str
    """Bash, in which it is active from there on; of POSIX sh with ``exports``."""
    exports: str | None = None
    """Lines that make it so for the shell of the commands alone, where that is all that needs it,
    and the environment has nothing to run: then no shell is begun for that."""


def script(
    planned: PlannedPackage,
    environment: LinkedEnvironment,
    build: LinkedEnvironment | None,
    folder: str,
    marks: Marks,
) -> Active:
    """Return what makes the environments active, in ``work`` below that folder."""
    (section,) = planned.sections
    work = f"{folder}/work"
    text = _variables(planned.artifact, environment, work)
    text += preamble.before(section, planned.artifact)
    if _is_plain(planned, environment) and text.isascii() and len(text) < _MOST_EXPORTED:
        text += "export SHLVL=1 OLDPWD=$PWD\n"
        plain = _PLAIN.format(
            work=shlex.quote(work),
            started=aftermath.before(folder),
            mark=marks.new(Said.ACTIVATED),
        )
        return Active(script=plain, exports=text)
    for name in environment.post_link:
        text += _post_link(next(p for p in environment.packages if p.name == name), marks)
    text += _ACTIVATE.format(
        bash=_BASH,
        define=MARK,
        activate=preamble.activate(environment),
        work=shlex.quote(work),
        too=preamble.activate_too(build),
        started=aftermath.before(folder),
        mark=marks.new(Said.ACTIVATED),
        after=preamble.after(section),
    )
    return Active(script=text)


def _is_plain(planned: PlannedPackage, environment: LinkedEnvironment) -> bool:
    """Say whether all that activation does is to set variables, for commands of a shell."""
    (section,) = planned.sections
    if section.schema or environment.post_link:
        return False
    if {one.language for one in planned.checks if one.kind is not CheckKind.INSTALL} != {"shell"}:
        return False
    if not all(_QUIET_NAME.fullmatch(name) for name in (*planned.artifact.variant, *section.env)):
        return False
    # A link may lead to what is on the host, and no package has one there for a good reason.
    folders = (Path(environment.path, *parts) for parts in (("etc",), ("etc", "conda")))
    return not any(map(Path.is_symlink, folders)) and not any(
        os.path.lexists(Path(environment.path, "etc/conda", name))
        for name in ("activate.d", "env_vars.d")
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
