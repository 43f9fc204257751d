"""Predicts from its binaries whether a package runs on a host that may not be at hand.

Pure. A prediction stands beside a run and never in its place: it knows what the
loader asks for, and nothing of what the code does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from pytest_manualbuild.audit import Audit
from pytest_manualbuild.audit.binary import FORMATS, Binary, declared, version
from pytest_manualbuild.model import Facts, Host

_VIRTUAL = {"glibc": "__glibc", "macos": "__osx", "windows": "__win"}


class Forecast(StrEnum):
    """What is to be expected of a package on a host."""

    RUNS = "runs"  # as far as the loader is concerned
    FAILS = "fails"
    NOT_APPLICABLE = "not-applicable"  # the solver will refuse it there, as the package demands
    UNKNOWN = "unknown"  # the host's versions are not known


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that decide what a host can load; None: not known, or not that system."""

    glibc: str | None = None
    macos: str | None = None
    windows: str | None = None
    """Of the kernel: 6.1 is Windows 7, 10.0 is 10 and 11."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be expected on one host, and the file and symbol that decide it."""

    host: str
    forecast: Forecast
    reason: str
    """One sentence."""
    file: str = ""
    symbol: str = ""


# First releases with each version, by name of the image or the host; from the distributions.
_GLIBC = {
    "almalinux": {"8": "2.28", "9": "2.34", "10": "2.39"},
    "amazonlinux": {"2": "2.26", "2023": "2.34"},
    "centos": {"5": "2.5", "6": "2.12", "7": "2.17", "8": "2.28"},
    "debian": {
        "7": "2.13", "8": "2.19", "9": "2.24", "10": "2.28", "11": "2.31", "12": "2.36",
        "13": "2.41", "wheezy": "2.13", "jessie": "2.19", "stretch": "2.24", "buster": "2.28",
        "bullseye": "2.31", "bookworm": "2.36", "trixie": "2.41",
    },
    "fedora": {
        "22": "2.21", "23": "2.22", "24": "2.23", "30": "2.29", "36": "2.35", "37": "2.36",
        "38": "2.37", "39": "2.38", "40": "2.39", "41": "2.40", "42": "2.41",
    },
    "manylinux": {"1": "2.5", "2010": "2.12", "2014": "2.17"},
    "rockylinux": {"8": "2.28", "9": "2.34", "10": "2.39"},
    "ubuntu": {
        "14.04": "2.19", "16.04": "2.23", "18.04": "2.27", "20.04": "2.31", "22.04": "2.35",
        "24.04": "2.39",
    },
}  # fmt: skip
_WINDOWS = {"7": "6.1", "8": "6.2", "8.1": "6.3", "10": "10.0", "11": "10.0"}
_NAMED = re.compile(r"([a-z]+)[-_:/ ]?(\d+(?:\.\d+)*|[a-z]+)?")


def measured(facts: Facts, subdir: str) -> Floor:
    """Return what a host that was reached said of itself."""
    windows = facts.os_version if subdir.startswith("win-") else ""
    return Floor(glibc=facts.glibc, macos=facts.macos, windows=windows or None)


def named(host: Host) -> Floor:
    """Return what the image or the name of a host promises: for hosts that nobody has.

    ``debian:11``, ``centos-6``, ``osx-10.9`` and ``windows-7`` are understood.
    """
    for text in (host.image or "", host.name):
        words = text.lower().rpartition("@")[0] or text.lower()
        for found in _NAMED.finditer(words):
            name, number = found[1], found[2] or ""
            glibc = _GLIBC.get(name, {}).get(number) or _GLIBC.get(name, {}).get(
                number.partition(".")[0]
            )
            if host.subdir.startswith("linux-") and glibc:
                return Floor(glibc=glibc)
            if host.subdir.startswith("osx-") and name in ("macos", "osx", "mac") and number:
                return Floor(macos=number)
            if host.subdir.startswith("win-") and name in ("windows", "win") and number in _WINDOWS:
                return Floor(windows=_WINDOWS[number])
    return Floor()


def predict_all(audit: Audit, hosts: Iterable[Host]) -> list[Prediction]:
    """Return what is to be expected on those hosts on which the package could be installed."""
    return [
        predict(audit.binaries, audit.depends, host, named(host))
        for host in hosts
        if audit.subdir in (host.subdir, "noarch")
    ]


def predict(
    binaries: Iterable[Binary], depends: tuple[str, ...], host: Host, floor: Floor
) -> Prediction:
    """Say what is to be expected of a package's binaries on a host of its subdir."""
    system = host.subdir.partition("-")[0]
    what = {"linux": "glibc", "osx": "macos", "win": "windows"}.get(system, "")
    has = getattr(floor, what, None) if what else None
    most, decides = "", None
    for binary in binaries:
        for need in binary.needs:
            if (
                binary.format == FORMATS.get(system)
                and need.what == what
                and (not most or version(need.version) > version(most))
            ):
                most, decides = need.version, (binary.file, need.symbol)
    wanted = declared(depends, _VIRTUAL.get(what, ""))
    file, symbol = decides or ("", "")

    def say(forecast: Forecast, reason: str) -> Prediction:
        return Prediction(
            host=host.name, forecast=forecast, reason=reason, file=file, symbol=symbol
        )

    by = f"{file} needs {what} {most}" + (f" (for {symbol})" if symbol else "")
    if wanted and has and version(wanted) > version(has):
        return say(
            Forecast.NOT_APPLICABLE, f"The package demands {what} {wanted}; the host has {has}."
        )
    if not most:
        return say(Forecast.RUNS, "It has no binary that asks for a version of the host's system.")
    if not has:
        return say(Forecast.UNKNOWN, f"{by}, and it is not known what the host has.")
    if version(most) > version(has):
        return say(Forecast.FAILS, f"{by}, and the host has {has}.")
    return say(Forecast.RUNS, f"{by}, and the host has {has}.")
