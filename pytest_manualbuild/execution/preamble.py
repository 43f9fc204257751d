"""What the script of a ``recipe.yaml`` test begins with, beyond what every section's does.

The rules are rattler-build's (``package_test/run_test.rs``, ``rattler_build_script``): other
variables than conda-build's, a second environment for programs of the build, a folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pytest_manualbuild.model import Artifact, LinkedEnvironment, TestSection, builder_subdir

# Under errexit, and before `install` ends: what fails here is a failing environment.
_ACTIVATE_TOO = """\
export BUILD_PREFIX={prefix}
export PATH=$BUILD_PREFIX/bin:$PATH
for _mb_script in "$BUILD_PREFIX"/etc/conda/activate.d/*.sh; do
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


def activate_too(build: LinkedEnvironment | None) -> str:
    """Return what activates the environment of ``requirements/build`` after the package's."""
    return _ACTIVATE_TOO.format(prefix=shlex.quote(build.prefix)) if build else ""


def after(section: TestSection) -> str:
    """Return what comes between activation and the checks."""
    return _FOLDER.format(folder=shlex.quote(section.cwd)) if section.cwd else ""
