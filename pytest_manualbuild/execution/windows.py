r"""Writes the script of a test section in batch, for the command processor of Windows.

It is a batch file of ours alone: what tests bring runs in processes of its own, so that no
``exit`` and no ``%ERRORLEVEL%`` of theirs reaches it. Activation scripts are the exception, as in
conda, and what they end has ended before the environment was active.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_manualbuild.environment.environments import post_link
from pytest_manualbuild.execution.asked import Asked, Written
from pytest_manualbuild.execution.marks import Said
from pytest_manualbuild.execution.variables import documented, of_packages
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.languages import LANGUAGES
from pytest_manualbuild.languages.base import BatchSite
from pytest_manualbuild.languages.run_test_bat import CMD
from pytest_manualbuild.records import InstalledPackage, LinkedEnvironment

_PATH = (
    "{prefix}",
    r"{prefix}\Library\mingw-w64\bin",
    r"{prefix}\Library\usr\bin",
    r"{prefix}\Library\bin",
    r"{prefix}\Scripts",
    r"{prefix}\bin",
)
"""What conda puts before PATH on Windows, in that order."""
_FAILED = "IF %ERRORLEVEL% NEQ 0 exit %ERRORLEVEL%\n"


def work(folder: str) -> str:
    """Return the folder of the tests below one of ours."""
    return f"{folder}\\work"


def look(folder: str, prefix: str, following: Sequence[str]) -> str:
    """Return a script that looks at the host after the tests (see ``aftermath``)."""
    del folder
    found = {prefix: "gone", **dict.fromkeys(following, "spoilt")}
    return "".join(
        f'@if not exist "{_text(one)}\\conda-meta" echo {word}\n' for one, word in found.items()
    )


def script(asked: Asked, connection: Connection) -> Written:
    """Return the script of a section, and the files that go into its folder of tests."""
    site = BatchSite(
        marks=asked.marks,
        marker=connection.marker,
        work=_text(work(asked.folder)),
        prefix=_text(asked.environment.prefix),
    )
    (section,) = asked.planned.sections
    text = "@echo off\n"
    artifact = asked.planned.artifact
    subdir = "win-64" if artifact.subdir == "noarch" else artifact.subdir
    text += _variables(documented(artifact, asked.environment, work(asked.folder), subdir))
    text += "set CPU_COUNT=%NUMBER_OF_PROCESSORS%\n"
    if section.schema:
        text += 'set "RECIPE_DIR="\nset "SRC_DIR="\n'
    text += _variables(section.env)
    for name in asked.environment.post_link:
        installed = next(one for one in asked.environment.packages if one.name == name)
        text += _post_link(installed, site)
    text += f'cd /d "{site.work}"\n{activate(asked.environment)}'
    if asked.build is not None:
        text += _variables({"BUILD_PREFIX": asked.build.prefix}) + activate(asked.build)
    # A variable of that name would hide what programs return.
    text += f'set "ERRORLEVEL="\ncd /d "{site.work}"\n{site.say(Said.ACTIVATED)}'
    if section.cwd:
        folder = section.cwd.replace("/", "\\")
        text += f'cd /d "{site.prefix}\\{_text(folder)}" || exit 1\n'
    files = dict(asked.files)
    for language in LANGUAGES:
        if numbered := asked.checks(language):
            piece = language.batch(numbered, dict(asked.files), site)
            text += piece.script
            files.update(piece.files)
    # A test may say so with a file of this name (conda-build, build.py).
    failed = site.say(Said.TEST_FAILED)
    text += f'cd /d "{site.work}"\nif exist TEST_FAILED (\n{failed})\n'
    return Written(script=f"{text}{site.say(Said.COMPLETE)}exit 0\n", files=files)


def activate(environment: LinkedEnvironment) -> str:
    """Return what activates an environment, as ``conda activate`` does."""
    prefix = _text(environment.prefix)
    folders = ";".join(one.format(prefix=prefix) for one in _PATH)
    scripts = sorted((Path(environment.path) / "etc/conda/activate.d").glob("*.bat"))
    calls = "".join(
        f'call "{prefix}\\etc\\conda\\activate.d\\{_text(one.name)}"\n' for one in scripts
    )
    # As conda-build's runner looks at what activation left, and at each script by itself.
    text = f'set "PATH={folders};%PATH%"\n{_of_packages(environment)}'
    return text + (f"{calls}{_FAILED}" if calls else "")


def _of_packages(environment: LinkedEnvironment) -> str:
    try:
        values = of_packages(environment)
    except (OSError, ValueError) as error:
        said = re.sub(r"[^A-Za-z0-9 ,.:/_'-]", "?", str(error))
        return f"echo {said}>&2\nexit 1\n"
    # Without a value cmd takes a variable away.
    return _variables({name: value or "" for name, value in values.items()})


def _post_link(installed: InstalledPackage, site: BatchSite) -> str:
    number = re.search(r"\d+$", installed.build)
    values = {
        "PKG_NAME": installed.name,
        "PKG_VERSION": installed.version,
        "PKG_BUILDNUM": number.group() if number else "0",
        "ROOT_PREFIX": site.prefix,
    }
    script = post_link(installed.name, "win-").replace("/", "\\")
    return (
        site.say(Said.LINKING, name=installed.name)
        + "setlocal\n"
        + _variables(values)
        + f'"{CMD}" /d /c "{site.prefix}\\{script}"\n{_FAILED}endlocal\n'
    )


def _variables(values: Mapping[str, str]) -> str:
    """Return the lines that set variables; a text of several lines is more than cmd can set."""
    return "".join(
        f'set "{name}={_text(" ".join(value.splitlines()))}"\n'
        for name, value in sorted(values.items())
    )


def _text(value: str) -> str:
    return value.replace("%", "%%")
