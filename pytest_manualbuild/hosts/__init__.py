"""The kinds of hosts: one file each, and one line in the table here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module

from pytest_manualbuild.errors import HostError, HostUnavailable
from pytest_manualbuild.hosts.base import Provider
from pytest_manualbuild.hosts.runs import Run, dead_runs

# Loaded when a host of the kind is wanted: the libraries behind them are slow to import.
_KINDS: Mapping[str, str] = {
    "docker": "docker",
    "local": "local",
    "rootfs": "rootfs",
    # Before those that are reached by ssh alone: with its machine goes what was left in it.
    "vagrant": "vagrant",
    "ssh": "ssh",
}


def load(kinds: Collection[str]) -> None:
    """Import what hosts of these kinds are reached with, so that it is there when they start."""
    for kind in _KINDS.keys() & set(kinds):
        module = import_module(f"{__name__}.{_KINDS[kind]}")
        for library in getattr(module, "LIBRARIES", ()):
            import_module(library)


def provider(kind: str) -> Provider:
    """Return the provider of a kind of host; HostUnavailable for one that cannot be run yet."""
    if kind not in _KINDS:
        raise HostUnavailable(
            f"Hosts of kind {kind!r} cannot be run by this version.",
            remedy=f"It runs: {', '.join(sorted(_KINDS))}. Leave others out with --on.",
        )
    module = import_module(f"{__name__}.{_KINDS[kind]}")
    made: Provider = module.PROVIDER
    return made


def sweep(run: Run) -> list[str]:
    """Remove whatever a run left on any kind of host, then its record; say what was removed.

    Where an engine is away, the record stays, and the next sweep tries again.
    """
    removed, away = [], False
    for kind in _KINDS:
        try:
            if run.made(kind):
                removed += provider(kind).sweep(run)
        except HostError:
            away = True
    if away:
        run.unlock()
    else:
        run.forget()
    return removed


def sweep_dead() -> list[str]:
    """Remove whatever killed runs left."""
    return [line for run in dead_runs() for line in sweep(run)]
