"""What a host says of itself, and the virtual packages that follow from it."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient

# Runs in the plainest of shells. Each line is KEY VALUE; what a host lacks is left out.
PROBE = """\
[ -r /etc/os-release ] && sed 's/^/os-release /' /etc/os-release
echo "kernel $(uname -r)"
echo "system $(uname -s)"
echo "arch $(uname -m)"
echo "user $(id -un 2>/dev/null || id -u)"
getconf GNU_LIBC_VERSION 2>/dev/null
ldd --version 2>&1 | sed -n '1s/.* \\([0-9][0-9.]*\\)$/ldd \\1/p'
[ -x /usr/bin/sw_vers ] && echo "macos $(/usr/bin/sw_vers -productVersion)"
[ -x /bin/bash ] || command -v bash >/dev/null 2>&1 && echo "bash yes"
exit 0
"""
INTERNET = "internet"
"""The need that is met by starting the host with a network."""
WINDOWS_PROBE = """\
@echo off
ver
echo arch %PROCESSOR_ARCHITECTURE%
echo user %USERNAME%
reg query "HKLM\\Software\\Microsoft\\Windows NT\\CurrentVersion" /v ProductName
exit 0
"""
_ARCHS = {
    "linux-64": ("x86_64",),
    "linux-aarch64": ("aarch64",),
    "linux-ppc64le": ("ppc64le",),
    "linux-s390x": ("s390x",),
    "linux-riscv64": ("riscv64",),
    "linux-32": ("i386", "i486", "i586", "i686", "x86_64"),
    "osx-64": ("x86_64", "arm64"),
    "osx-arm64": ("arm64",),
    "win-64": ("x86_64", "arm64"),
    "win-arm64": ("arm64",),
    "win-32": ("i386", "x86_64", "arm64"),
}
_SYSTEMS = {"linux": "Linux", "osx": "macOS", "win": "Windows"}
_RELEASE = re.compile(r"os-release ([A-Z_]+)=(.*)")


def ask(name: str, connection: Connection) -> Facts:
    """Ask the host of that name what it is; HostError where it does not say all of it."""
    result = connection.run(PROBE, timeout_s=patient(shells.START_S))
    return heard(name, result.exit_status, result.stdout)


def heard(name: str, status: int, text: bytes) -> Facts:
    """Return the facts that the output of ``PROBE`` says; half an answer is none."""
    if status != 0:
        raise HostUnavailable(
            f"{name}: it did not say what it is: the script that asks ended with status {status}.",
            remedy="Look at the host and run again.",
        )
    return _parse(text)


def _parse(text: bytes) -> Facts:
    said: dict[str, str] = {}
    release: dict[str, str] = {}
    for line in text.decode(errors="backslashreplace").splitlines():
        if found := _RELEASE.fullmatch(line.strip()):
            try:
                release[found[1]] = " ".join(shlex.split(found[2]))
            except ValueError:
                release[found[1]] = found[2]
        else:
            key, _, value = line.strip().partition(" ")
            said.setdefault(key, value)
    macos = said.get("macos")
    return Facts(
        os_id="macos" if macos else release.get("ID", ""),
        os_version=macos or release.get("VERSION_ID", ""),
        os_name=f"macOS {macos}" if macos else release.get("PRETTY_NAME", said.get("system", "")),
        kernel=said.get("kernel", ""),
        arch=said.get("arch", ""),
        glibc=said.get("glibc") or (said.get("ldd") if not macos else None),
        macos=macos,
        user=said.get("user", ""),
        notes=() if "bash" in said else ("bash is missing, and tests need it",),
    )


def parse_windows(text: bytes) -> Facts:
    """Return the facts that the output of ``WINDOWS_PROBE`` says."""
    said = text.decode(errors="backslashreplace")

    def found(pattern: str) -> str:
        match = re.search(pattern, said, re.MULTILINE)
        return match[1].strip() if match else ""

    arch = found(r"^arch (\S+)").lower()
    version = found(r"Windows[^\r\n0-9]*([0-9]+(?:\.[0-9]+)+)")
    return Facts(
        os_id="windows",
        os_version=".".join(version.split(".")[:3]),
        os_name=found(r"ProductName\s+REG_SZ\s+([^\r\n]+)") or f"Windows {version}",
        kernel=version,
        arch={"amd64": "x86_64", "x86": "i386"}.get(arch, arch),
        user=found(r"^user ([^\r\n]+)"),
    )


def kept(path: Path) -> Facts | None:
    """Return the facts that ``keep`` wrote; None where there are none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def keep(path: Path, found: Facts) -> None:
    """Keep what cannot change without what names the file changing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(msgspec.to_builtins(found), file)
    Path(file.name).replace(path)


def virtual_packages(facts: Facts, subdir: str) -> tuple[tuple[str, str], ...]:
    """Return the host's complete list of virtual packages, as (name, version) (CEP 30)."""
    system = subdir.partition("-")[0]
    number = re.match(r"[0-9]+(\.[0-9]+)*", facts.kernel)
    found: list[tuple[str, str]] = []
    if system in ("linux", "osx"):
        found.append(("__unix", "0"))
    if system == "linux":
        found.append(("__linux", number.group() if number else "0"))
        if facts.glibc:
            found.append(("__glibc", facts.glibc))
    if system == "osx" and facts.macos:
        found.append(("__osx", facts.macos))
    if system == "win":
        found.append(("__win", facts.os_version or "0"))
    if facts.arch:
        found.append(("__archspec", "1"))
    return tuple(found)


def mismatch(subdir: str, facts: Facts) -> str:
    """Return why a host of these facts is none of that subdir; empty where nothing is against it.

    A noarch package would pass on it all the same.
    """
    if facts == Facts():
        return ""
    system = "linux"
    if facts.os_id == "windows":
        system = "win"
    elif facts.os_id == "macos" or facts.macos:
        system = "osx"
    if system != subdir.partition("-")[0] or (facts.macos and system != "osx"):
        said = facts.os_name or _SYSTEMS[system]
        return f"the matrix says {subdir}, and it said that it is {said}"
    if system != "linux" and facts.glibc:
        return f"{_SYSTEMS[system]} has no glibc {facts.glibc}"
    if facts.arch and facts.arch not in _ARCHS.get(subdir, ()):
        return f"the matrix says {subdir}, and it said that it is {facts.arch}"
    return ""


def lacking(host: Host, facts: Facts, needs: Sequence[str]) -> str:
    """Return the need of a recipe that a host does not meet, if any; unknown ones nobody meets."""
    for need in needs:
        met = need in host.provides or need == INTERNET  # which is given to those who need it
        if not met and not (need == "root" and facts.user == "root"):
            return need
    return ""
