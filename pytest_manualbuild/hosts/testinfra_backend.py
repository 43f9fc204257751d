"""Hosts of a matrix as testinfra hosts: its modules ask, our connections run.

testinfra's own backends have no time limits and take a host that is gone for a
command that failed; through this one, such a host is a HostLost. A testinfra
host is made from a connection, so testinfra's table of backends stays as it is.
"""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host as TestinfraHost

from pytest_manualbuild.hosts.base import Connection

COMMAND_S = 120.0
"""Time limit of one command that testinfra runs, in seconds."""


class ConnectionBackend(BaseBackend):  # type: ignore[misc] # testinfra publishes no types
    """Runs testinfra's commands over one of our connections, for one thread at a time."""

    NAME = "manualbuild"

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name)
        self._connection = connection

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:  # noqa: ANN401 # its keywords, none of which concerns us
        """Run a command with quoted arguments; HostLost when the host is gone or takes too long."""
        del kwargs
        text = self.get_command(command, *args)
        done = self._connection.run(text, timeout_s=COMMAND_S)
        return self.result(done.exit_status, text.encode(), done.stdout, done.stderr)

    def get_encoding(self) -> str:
        """Return the encoding that every script of ours runs with."""
        return "utf-8"

    def decode(self, data: bytes) -> str:
        r"""Return output as text; bytes that are not UTF-8 show as ``\\xNN``."""
        return data.decode(errors="backslashreplace")


def testinfra_host(name: str, connection: Connection) -> TestinfraHost:
    """Return a connected host of the matrix as a testinfra host; the connection stays yours."""
    return TestinfraHost(ConnectionBackend(name, connection))
