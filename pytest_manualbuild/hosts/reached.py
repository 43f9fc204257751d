"""What is known of a machine that is reached by ssh: how to call it, and where our files go on it.

All that a sweep must know to get there again is written down before anything is made there.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import platform
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts import kept
from pytest_manualbuild.hosts.openssh import Client
from pytest_manualbuild.hosts.runs import Run, cache_folder
from pytest_manualbuild.model import Host

BASE = "/tmp"  # noqa: S108 # the folder that we make there is ours alone, or refused
_WINDOWS_BASE = "C:"
# Of such paths nothing has to be quoted, in no shell; and Windows takes 259 characters.
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:(\\[A-Za-z0-9][A-Za-z0-9._-]*)*")


def written(host: Host, folder: str) -> dict[str, str]:
    """Return what must be known to remove what a connection makes, here and there."""
    return {
        "kind": "ssh",
        "host": host.name,
        "folder": folder,
        # Short: a socket's path has at most 104 characters, of which the client wants 17.
        "socket": f"{BASE}/mb-{secrets.token_hex(6)}",
        "address": host.address or "",
        "port": str(host.port or ""),
        "ssh_config": str(Path(host.ssh_config).expanduser().absolute()) if host.ssh_config else "",
        "identity_file": (
            str(Path(host.identity_file).expanduser().absolute()) if host.identity_file else ""
        ),
        "shell": host.shell,
    }


def recorded(entry: Mapping[str, str]) -> Host:
    """Return a host as it must be known to get there."""
    return Host(
        name=entry["host"], kind="ssh", subdir="", address=entry["address"],
        port=int(entry["port"]) if entry["port"] else None,
        ssh_config=entry["ssh_config"] or None,
        identity_file=entry["identity_file"] or None,
        shell="cmd" if entry.get("shell") == "cmd" else "sh",
    )  # fmt: skip


def client_for(host: Host, folder: Path) -> Client:
    """Return the client's calls for a machine; ``folder`` (private, short) takes what they need."""
    return Client(
        folder,
        host.address or "",
        port=host.port,
        ssh_config=host.ssh_config,
        identity_file=host.identity_file,
    )


def below(host: Host, *names: str) -> str:
    r"""Return the path of names one below the other, with ``/`` or ``\`` as the host has it."""
    return ("\\" if _is_windows(host) else "/").join(names)


def own_folder(host: Host, run: Run) -> str:
    """Return a folder that no other connection has."""
    return below(host, _base(host), f"{_stem(host)}-{run.run_id[:12]}-{secrets.token_hex(3)}")


def same_folder(host: Host, run: Run) -> str:
    """Return the folder of a host's runs: the same in each run of this controller's cache."""
    return _same_folder(host.name, below(host, _base(host), _stem(host)), run.run_id)


@functools.lru_cache
def _same_folder(name: str, stem: str, run_id: str) -> str:
    """Return it; a folder that was kept is not in the way: the next one has a number."""
    ours = f"{platform.node()}\n{cache_folder()}\n{name}"
    plain = f"{stem}-{hashlib.sha256(ours.encode()).hexdigest()[:10]}"
    taken = {one.what["place"] for one in kept.every() if one.run_id != run_id}
    numbered = (f"{plain}-{number}" for number in itertools.count(2))
    return next(folder for folder in itertools.chain([plain], numbered) if folder not in taken)


def _base(host: Host) -> str:
    if not _is_windows(host):
        return (host.root or BASE).rstrip("/")
    root = (host.root or _WINDOWS_BASE).rstrip("\\")
    if not _WINDOWS_ROOT.fullmatch(root):
        raise HostUnavailable(
            f"{host.name}: its root {host.root} cannot be used.",
            remedy=r"Name a folder such as C:\tests: a drive, and names of letters, digits, . _ -.",
        )
    return root


def _stem(host: Host) -> str:
    return "mb" if _is_windows(host) else "manualbuild"


def _is_windows(host: Host) -> bool:
    return host.kind == "winrm" or host.shell == "cmd"
