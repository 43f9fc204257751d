"""The pytest plugin: options and hooks. Does nothing, and loads nothing, without ``--recipe``.

What happens under ``--recipe`` is in ``session``: this module is imported in
every pytest run of the environment, so it only looks at the command line.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_manualbuild.session import Controller, Worker

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
        "--keep",
        dest="mb_keep",
        choices=("never",),
        default="never",
        help="which hosts to keep after the run (this version: never)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load no conftest.py at all: one beside a stranger's recipe is a program of the stranger."""
    if early_config.known_args_namespace.mb_recipe is not None:
        early_config.known_args_namespace.noconftest = True


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Answer ``-n auto``: one worker for each host."""
    if config.option.mb_recipe is None:
        return None
    from pytest_manualbuild import session  # noqa: PLC0415 # see the module's docstring

    return session.number_of_hosts(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Plan the run on the controller, or take the controller's plan on a worker."""
    if config.option.mb_recipe is None:
        return
    from pytest_manualbuild import session  # noqa: PLC0415 # see the module's docstring

    if getattr(config.option, "xmlpath", None) is not None:
        # pytest's writer loses hosts and is green after an interruption: the file gets our report.
        config.option.mb_junitxml = str(Path(config.option.xmlpath).absolute())
        config.option.xmlpath = None
    active = session.begin(config)
    config.stash[_SESSION] = active
    config.pluginmanager.register(active, "manualbuild-session")


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
