"""The kinds of hosts: one file each, and one line in the table here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module

from pytest_manualbuild.errors import HostError, HostUnavailable
from pytest_manualbuild.hosts import facts, kept
from pytest_manualbuild.hosts.base import Progress, Provider
from pytest_manualbuild.hosts.runs import Run, dead_runs
from pytest_manualbuild.model import Facts, Host

# Loaded when a host of the kind is wanted: the libraries behind them are slow to import.
_KINDS: Mapping[str, str] = {
    "docker": "docker",
    "local": "local",
    "rootfs": "rootfs",
    # Before those that are reached by ssh alone: with its machine goes what was left in it.
    "vagrant": "vagrant",
    "ssh": "ssh",
    "wine": "wine",
    "winrm": "winrm",
}


def load(kinds: Collection[str]) -> None:
    """Import what hosts of these kinds are reached with, before threads start that use it.

    Threads that import at once can be given a library that is only half there.
    """
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


def probe(host: Host, run: Run, progress: Progress) -> Facts:
    """Return what a host says of itself; HostError where it cannot, or is not of its subdir."""
    found = provider(host.kind).probe(host, run, progress)
    if why := facts.mismatch(host.subdir, found):
        raise HostUnavailable(
            f"{host.name}: {why}.", remedy="Correct its subdir, or leave it out with --on."
        )
    return found


def sweep(run: Run) -> list[str]:
    """Remove whatever a run left on any kind of host, then its record; say what was removed.

    Where an engine is away, the record stays, and the next sweep tries again. Hosts that the run
    kept stay, with the record.
    """
    removed, away = [], False
    for kind in _KINDS:
        try:
            if run.made(kind):
                removed += provider(kind).sweep(run)
        except Exception:  # noqa: BLE001 # what an old run left must not end those that come
            away = True
    if away:
        run.unlock()
    elif kept.of_run(run.run_id):
        kept.settle(run)
        run.unlock()
    else:
        run.forget()
    return removed


def sweep_dead() -> list[str]:
    """Remove whatever killed runs left; what runs kept on purpose stays."""
    removed = []
    for run in dead_runs():
        if kept.settled(run):
            run.unlock()
        else:
            removed += sweep(run)
    return removed


def sweep_kept() -> tuple[list[str], list[HostError]]:
    """Remove the hosts that runs kept, unless they are in use.

    Returns what was removed, and why a host was not.
    """
    removed: list[str] = []
    problems: list[HostError] = []
    tried = set()
    mine = Run.begin()  # what it takes to reach an engine is written down, as ever
    try:
        for run in dead_runs():
            for one in kept.of_run(run.run_id):
                tried.add(one.record)
                try:
                    removed += remove_kept(one, mine)
                except HostError as error:
                    problems.append(error)
            removed += sweep(run)
    finally:
        sweep(mine)
    problems += [
        HostUnavailable(f"{one.host.name} is in use and stays.", remedy="Sweep again later.")
        for one in kept.every()
        if one.record not in tried
    ]
    return removed, problems


def remove_kept(one: kept.Kept, run: Run) -> list[str]:
    """Remove a kept host and its record; ``run`` is that of who asks."""
    removed = keeper(one.host).remove(one, run)
    one.record.unlink(missing_ok=True)
    return removed


def keeper(host: Host) -> kept.Keeper:
    """Return what hosts of a kind are kept with; HostUnavailable for a kind that cannot be kept."""
    found = provider(host.kind)
    if not isinstance(found, kept.Keeper):
        raise HostUnavailable(
            f"{host.name}: hosts of kind {host.kind!r} cannot be kept by this version.",
            remedy="Run its tests without --keep.",
        )
    return found
