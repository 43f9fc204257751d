"""The fixtures of a recipe's own test functions; see ``recipe_tests``, which registers them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_manualbuild.hosts.testinfra_backend import testinfra_host

if TYPE_CHECKING:
    from pytest_manualbuild.execution.visit import Visit
    from pytest_manualbuild.model import Artifact
    from pytest_manualbuild.recipe_tests import RecipeTests

NAME = "manualbuild-recipe-tests"
"""The plugin that runs the functions."""
CELL = "_manualbuild_cell"
"""The fixture whose parameters are the packages on their hosts."""


def _plugin(request: pytest.FixtureRequest) -> RecipeTests:
    return cast("RecipeTests", request.config.pluginmanager.get_plugin(NAME))


@pytest.fixture(scope="session", autouse=True)
def _manualbuild_cell(request: pytest.FixtureRequest) -> Iterator[Visit | None]:
    with _plugin(request).visit(*request.param) as there:
        yield there


@pytest.fixture(autouse=True)
def _manualbuild_visit(request: pytest.FixtureRequest, _manualbuild_cell: Visit | None) -> Visit:
    if _manualbuild_cell is None:
        _plugin(request).tell(request.node)
    return _manualbuild_cell


@pytest.fixture
def manual_host(_manualbuild_visit: Visit) -> Any:  # noqa: ANN401 # testinfra publishes no types
    """A testinfra host: its commands run on the host under test, the environment active."""
    return testinfra_host(_manualbuild_visit.host.name, _manualbuild_visit.connection)


@pytest.fixture
def package(_manualbuild_visit: Visit) -> Artifact:
    """The package under test."""
    return _manualbuild_visit.package


@pytest.fixture
def prefix(_manualbuild_visit: Visit) -> str:
    """The folder of its environment, on the host."""
    return _manualbuild_visit.environment.prefix
