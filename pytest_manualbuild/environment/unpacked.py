"""The ``info/`` of packages that are in an environment, kept by the hash of the packages.

py-rattler unpacks by name, version and build: where an environment says that it was linked
from, another channel's package of the same ones may lie by now.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pytest_manualbuild.environment import layers
from pytest_manualbuild.environment.solver import LINK_S, Solver
from pytest_manualbuild.errors import ChannelError
from pytest_manualbuild.hosts.runs import locked
from pytest_manualbuild.records import InstalledPackage


def info_of(cache: Path, solver: Solver, package: InstalledPackage, url: str) -> Path:
    """Return the folder that is the package's ``info/``; ChannelError if other bytes are there."""
    dist = f"{package.name}-{package.version}-{package.build}"
    if not package.sha256:
        raise ChannelError(
            f"The channel of {dist} names no sha256 of it.", remedy="Index the channel again."
        )
    layer = cache / "unpacked" / package.sha256
    layer.parent.mkdir(parents=True, exist_ok=True)
    with locked(layer.with_suffix(".lock")):
        if layer.is_dir() and not layers.is_whole(layer, layer, []):
            shutil.rmtree(layer)
        if not layer.is_dir():
            with layers.making(layer) as fresh:
                said = solver.ask("unpack", LINK_S, url=url, target=str(fresh))
                if "error" in said:
                    raise ChannelError(
                        f"{dist} cannot be unpacked.",
                        remedy="Check --channel, the network and the disk.",
                        detail=said["text"],
                    )
                if said["sha256"] != package.sha256:
                    raise ChannelError(
                        f"{dist}: its channel does not give the package that it names.",
                        remedy="Index the channel again, or fetch the package again.",
                    )
                (fresh / "info").rename(layer)
            layers.made(layer)
    return layer
