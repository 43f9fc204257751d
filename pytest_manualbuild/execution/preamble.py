"""What the script of a ``recipe.yaml`` test begins with, beyond what every section's does.

The rules are rattler-build's (``package_test/run_test.rs``, ``rattler_build_script``): other
variables than conda-build's, a second environment for programs of the build, a folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pytest_manualbuild.execution import variables
from pytest_manualbuild.model import Artifact, TestSection, builder_subdir
from pytest_manualbuild.records import LinkedEnvironment

# conda activates under errexit, and before `install` ends: what fails here, such as a script in
# activate.d, is a failing environment.
_ACTIVATE = """\
export PATH={prefix}/bin:$PATH
{variables}for _mb_script in {prefix}/etc/conda/activate.d/*.sh; do
  if [ -e "$_mb_script" ]; then . "$_mb_script"; fi
done
"""
# A folder that is not there fails the first check, as nothing may look as if it was not tried.
_FOLDER = 'cd "$PREFIX"/{folder} || exit 1\n'


def before(section: TestSection, artifact: Artifact) -> str:
    """Return what comes before the environment is activated."""
    if not section.schema:
        return _exports(section.env)
    subdir = builder_subdir(artifact.subdir)
    values = {
        "CONDA_BUILD_CROSS_COMPILATION": "0",
        "PKG_BUILD_NUMBER": str(artifact.build_number),
        "host_platform": subdir,
        "target_platform": artifact.subdir,
        **section.env,
    }
    return f"unset RECIPE_DIR SRC_DIR\n{_exports(values)}"


def _exports(values: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def activate(environment: LinkedEnvironment) -> str:
    """Return what activates an environment, as ``conda activate`` does."""
    try:
        values = variables.of_packages(environment)
        lines = [
            f"unset {name}\n" if value is None else f"export {name}={shlex.quote(value)}\n"
            for name, value in values.items()
        ]
    except (OSError, ValueError) as error:
        lines = [f"printf '%s\\n' {shlex.quote(str(error))} >&2\n", "false\n"]
    return _ACTIVATE.format(prefix=shlex.quote(environment.prefix), variables="".join(lines))


def activate_too(build: LinkedEnvironment | None) -> str:
    """Return what activates the environment of ``requirements/build`` after the package's."""
    if build is None:
        return ""
    return f"export BUILD_PREFIX={shlex.quote(build.prefix)}\n{activate(build)}"


def after(section: TestSection) -> str:
    """Return what comes between activation and the checks."""
    return _FOLDER.format(folder=shlex.quote(section.cwd)) if section.cwd else ""
