"""The pytest plugin: options and hooks. Does nothing, and loads nothing, without ``--recipe``.

What happens under ``--recipe`` is in ``controller`` and ``session``: this module is imported in
every pytest run of the environment, so it only looks at the command line.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_manualbuild.controller import Controller
    from pytest_manualbuild.session import Worker

_SESSION: pytest.StashKey[Controller | Worker] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the public surface."""
    group = parser.getgroup("manualbuild", "packages built by hand (pytest-manualbuild)")
    add = group.addoption
    add(
        "--recipe", dest="mb_recipe", metavar="DIR", help="test the packages built from this recipe"
    )
    add("--artifacts", dest="mb_artifacts", metavar="DIR", help="folder of the built packages")
    add("--matrix", dest="mb_matrix", metavar="NAME|FILE", help="the hosts (default: local)")
    add("--on", dest="mb_on", metavar="GLOB", help="only the hosts with such names")
    add(
        "--channel",
        dest="mb_channels",
        metavar="URL",
        action="append",
        help="channel of the dependencies; may be repeated (default: conda-forge)",
    )
    add(
        "--evidence",
        dest="mb_evidence",
        metavar="DIR",
        default="manualbuild-report",
        help="folder of the report (default: manualbuild-report)",
    )
    add(
        "--jobs",
        dest="mb_jobs",
        metavar="N",
        type=int,
        help="hosts at a time (default: all, at most 16)",
    )
    add(
        "--check-timeout",
        dest="mb_check_timeout",
        metavar="S",
        type=float,
        default=600.0,
        help="seconds that one check may take (default: 600)",
    )
    add(
        "--section-timeout",
        dest="mb_section_timeout",
        metavar="S",
        type=float,
        default=7200.0,
        help="seconds that one package's tests may take on one host (default: 7200)",
    )
    add(
        "--renderer",
        dest="mb_renderer",
        choices=("own", "conda-build"),
        default="own",
        help="what renders a meta.yaml (default: own)",
    )
    add(
        "--recipe-tests",
        dest="mb_recipe_tests",
        action="store_true",
        help="run the recipe's own tests/test_*.py as well: they run here, with your rights",
    )
    add(
        "--keep",
        dest="mb_keep",
        choices=("failed", "always", "never"),
        default="never",
        help="which hosts stay after the run, for `manualbuild hosts shell` (default: never)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Let no file beside a stranger's recipe steer this process: no conftest.py, no pytest.ini.

    pytest takes the value of ``--recipe`` for a path to collect while it looks for its
    configuration, and would find one there, or make its cache there.
    """
    recipe = early_config.known_args_namespace.mb_recipe
    if recipe is None:
        return
    if getattr(early_config.known_args_namespace, "looponfail", False):
        raise pytest.UsageError("--recipe tests packages once: leave out -f (--looponfail).")
    early_config.known_args_namespace.noconftest = True
    folder = _real(recipe)
    found = early_config.inipath
    if found is not None and _real(found).is_relative_to(folder):
        raise pytest.UsageError(
            f"{found}: a recipe's own settings of pytest are not used."
            " Name yours with -c FILE (an empty file will do), or run in another folder."
        )
    if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker gets the controller's plan
        _import_nothing_strange(early_config, folder)
        from pytest_manualbuild import importing  # noqa: PLC0415 # see the module's docstring

        with importing.past_pytest():
            from pytest_manualbuild import recipe as recipes  # noqa: PLC0415 # likewise

            recipes.prepare()  # its process loads what it needs while this one does
    # What is loaded from here on stays: looking for garbage in it takes a fiftieth of a short run.
    gc.disable()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Answer ``-n auto``: one worker for each host."""
    if config.option.mb_recipe is None:
        return None
    from pytest_manualbuild import controller  # noqa: PLC0415 # see the module's docstring

    return controller.number_of_hosts(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Plan the run on the controller, or take the controller's plan on a worker."""
    if config.option.mb_recipe is None:
        return
    _import_nothing_strange(config, _real(config.option.mb_recipe))
    # Else it is where recipe and artifacts meet; reports and the cache belong where the user is.
    config._rootpath = config.invocation_params.dir  # noqa: SLF001 # there is no public way
    # A warning in this process says nothing about a package: settings must not make it an error.
    config.addinivalue_line("filterwarnings", "default")
    from pytest_manualbuild import importing  # noqa: PLC0415 # see the module's docstring

    if getattr(config.option, "xmlpath", None) is not None:
        # pytest's writer loses hosts and is green after an interruption: the file gets our report.
        config.option.mb_junitxml = str(Path(config.option.xmlpath).absolute())
        config.option.xmlpath = None
    try:
        with importing.past_pytest():
            from pytest_manualbuild import controller  # noqa: PLC0415 # likewise

            active = controller.begin(config)
    finally:
        gc.freeze()
        gc.enable()
    config.stash[_SESSION] = active
    config.pluginmanager.register(active, "manualbuild-session")


def _import_nothing_strange(config: pytest.Config, recipe: Path) -> None:
    """Take out of ``sys.path`` what only a test suite needs, and the recipe itself."""
    tests = {_real(path) for path in config.getini("pythonpath")}
    sys.path[:] = [
        path
        for path in sys.path
        if (place := _real(path)) not in tests and not place.is_relative_to(recipe)
    ]


def _real(path: str | Path) -> Path:
    """Return where a path leads; unlike `Path.resolve`, also for a link round in circles."""
    return Path(os.path.realpath(path))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Wait until hosts and solver are released: meanwhile the report was written and shown."""
    active = config.stash.get(_SESSION, None)
    if active is not None:
        active.release()
        # Half of a short run's end would be spent walking through what is about to go anyway.
        gc.freeze()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each host to exactly one worker."""
    if config.option.mb_recipe is None:
        return None
    from pytest_manualbuild import scheduling  # noqa: PLC0415 # see the module's docstring

    return scheduling.HostScheduling(config, log)
