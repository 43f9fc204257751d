"""Calls of the OpenSSH client: the user's own configuration, under rules that it cannot loosen.

The rules stand at the top of a configuration of our own, where the first word
counts, so that they hold for jump hosts too: nobody is asked anything, no key
of a server is ever learnt, nothing is forwarded.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from pathlib import Path

from pytest_manualbuild import shells
from pytest_manualbuild.errors import HostUnavailable

CONNECT_S = 15
LOG = "log"
"""What the client says of the connection, in the private folder of its calls."""
_RULES = f"""\
BatchMode yes
StrictHostKeyChecking yes
UpdateHostKeys no
ConnectTimeout {CONNECT_S}
ConnectionAttempts 1
ServerAliveInterval 5
ServerAliveCountMax 3
ForwardAgent no
ForwardX11 no
PermitLocalCommand no
Tunnel no
ControlMaster no
ControlPath none
RequestTTY no
"""
_HOST_KEY = re.compile(r"debug1: Server host key: (\S+ \S+)")
_REASONS: tuple[tuple[str, str, str], ...] = (
    (
        "IDENTIFICATION HAS CHANGED",
        "the key of its server is not the one that is known for it",
        (
            "If the machine was set up anew, its owner can tell you the new key: remove the old one"
            " with `ssh-keygen -R NAME` and add the new one to known_hosts. Else somebody stands"
            " between: do not go on."
        ),
    ),
    (
        "Host key verification failed",
        "the key of its server is not known",
        "Ask its owner for the key, compare, and add it: `ssh-keyscan NAME >> ~/.ssh/known_hosts`.",
    ),
    (
        "Permission denied",
        "its server does not let us in",
        (
            "Name the user in `address` and a key in `identity_file`, and add its public half to"
            " authorized_keys there; a key with a passphrase needs an agent."
        ),
    ),
    ("Could not resolve", "its name is not known", "Correct `address` in the matrix."),
    ("Connection refused", "no ssh server answers", "Start its ssh server, or correct `port`."),
    ("timed out", "no ssh server answers", "Is it switched on, and the network up?"),
    (
        "Bad configuration option",
        "the ssh configuration is not valid",
        "Correct it, or name another with `ssh_config`.",
    ),
)


def got_in(folder: Path) -> bool:
    """Say whether the server ever let the client of that folder in; if not, nothing ran there."""
    log = folder / LOG
    if not folder.is_dir():
        return True  # nobody knows any more
    return log.is_file() and "Entering interactive session" in log.read_text(errors="replace")


def environment() -> dict[str, str]:
    """Return what the client gets of the caller's environment: the way to the agent."""
    kept = {name: os.environ[name] for name in ("SSH_AUTH_SOCK",) if name in os.environ}
    return {"PATH": shells.SYSTEM_PATH, "HOME": pwd.getpwuid(os.geteuid()).pw_dir, **kept}


class Client:
    """The client's calls for one machine; ``folder`` (private, short) takes what they need."""

    def __init__(
        self,
        folder: Path,
        address: str,
        *,
        port: int | None = None,
        ssh_config: str | None = None,
        identity_file: str | None = None,
    ) -> None:
        """Write the configuration; HostUnavailable where the named files cannot be read."""
        self.folder = folder
        self._address = address
        self._options = [*(["-p", str(port)] if port else [])]
        if identity_file:
            key = _file(address, "identity_file", identity_file)
            self._options += ["-i", str(key), "-o", "IdentitiesOnly=yes"]
        included = ["~/.ssh/config", "/etc/ssh/ssh_config"]
        if ssh_config:
            included = [str(_file(address, "ssh_config", ssh_config))]
        lines = "".join(f'Include "{path}"\n' for path in included)
        (folder / "config").write_text(_RULES + lines)
        self._log = folder / LOG

    def first(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the call that makes the connection, which later calls share while it lives."""
        return self._call(
            ["-M", "-o", "LogLevel=DEBUG1", "-E", str(self._log), *self._options, *options], words
        )

    def further(self, *words: str) -> list[str]:
        """Return a call over the connection that is there; it makes none of its own."""
        return self._call(["-o", "ProxyCommand=false", "-o", "ClearAllForwardings=yes"], words)

    def subsystem(self, name: str) -> list[str]:
        """Return a call over the connection that is there which speaks with a server's part."""
        return self._call(["-o", "ProxyCommand=false", "-s"], (name,))

    def alone(self, *words: str, terminal: bool) -> list[str]:
        """Return a call that makes a connection for these words only, with a terminal or not."""
        return self._call([*(["-t", "-t"] if terminal else []), *self._options], words)

    def _call(self, options: list[str], words: tuple[str, ...]) -> list[str]:
        socket = str(self.folder / "s")
        start = ["ssh", "-F", str(self.folder / "config"), "-S", socket, "-T", *options]
        return [*start, "--", self._address, *words]

    def host_key(self) -> str | None:
        """Return type and fingerprint of the key that the server proved to have."""
        found = _HOST_KEY.search(self._said())
        return found[1] if found else None

    def reason(self) -> str:
        """Return the last word of the client on why the connection ended."""
        lines = [line for line in self._said().splitlines() if not line.startswith("debug1:")]
        return lines[-1].strip() if lines else "the client said nothing"

    def unreachable(self, name: str, words: str = "") -> HostUnavailable:
        """Return the error for a connection that was not made, with what to do about it."""
        said = self._said() + words
        for sign, problem, remedy in _REASONS:
            if sign in said:
                return HostUnavailable(
                    f"{name}: {self._address} cannot be used: {problem}.", remedy=remedy
                )
        return HostUnavailable(
            f"{name}: {self._address} cannot be reached: {words or self.reason()}.",
            remedy=f"Try `{shlex.join(['ssh', *self._options, self._address])}`.",
        )

    def _said(self) -> str:
        try:
            return self._log.read_text(errors="backslashreplace")
        except FileNotFoundError:
            return ""


def _file(address: str, key: str, named: str) -> Path:
    path = Path(named).expanduser().absolute()
    if '"' in str(path) or not os.access(path, os.R_OK):
        raise HostUnavailable(
            f"{address}: the {key} {path} cannot be read.", remedy=f"Correct {key} in the matrix."
        )
    return path
