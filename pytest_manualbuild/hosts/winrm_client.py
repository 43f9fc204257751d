"""Shells on a machine of Windows, by ``pypsrp``, and what becomes of what fails there.

Messages are sealed: by TLS, or over plain HTTP by what the login agreed on (NTLM or Kerberos). A
password is never sent, and never written anywhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_manualbuild.errors import HostError, HostLost, HostUnavailable
from pytest_manualbuild.framing import Stream
from pytest_manualbuild.hosts.far_windows import Done
from pytest_manualbuild.model import Host

_CONNECT_S = 15
_OPERATION_S = 20
_ANSWER_S = 5
"""How much longer than an operation its answer may take."""
_SEALED = ("multipart/encrypted;", "multipart/x-multi-encrypted;")
_LOG_IN = 401
_TIMED_OUT = 2150858793
"""The code of a server that has nothing new to say yet."""


class Client:
    """Shells on one machine; raises HostUnavailable before the first answer, HostLost after."""

    def __init__(self, host: Host) -> None:
        self._name, self._address = host.name, host.address or ""
        self._answered = False
        self.gone = ""
        """Why there is no connection any more."""
        user, _, server = self._address.rpartition("@")
        if not user:
            raise HostUnavailable(
                f"{host.name}: {self._address} names no user.",
                remedy="Write `address` as USER@NAME.",
            )
        self._wsman = _library(host).make(
            server,
            port=host.port,
            username=user,
            password=_password(host, user),
            ssl=host.https,
            auth="negotiate",  # never Basic
            encryption="auto",  # sealed by the login, where it is not by TLS
            cert_validation=str(Path(host.ca_file).expanduser()) if host.ca_file else True,
            connection_timeout=_CONNECT_S,
            operation_timeout=_OPERATION_S,
            read_timeout=_OPERATION_S + _ANSWER_S,
        )
        if not host.https:
            _want_sealed(self._wsman.transport)
        try:
            self._shell = self.shell()
        except HostError:
            self.close()
            raise

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Turn what goes wrong with the connection into our errors."""
        import requests  # noqa: PLC0415 # only where pypsrp is
        from pypsrp import exceptions  # noqa: PLC0415 # an extra

        if self.gone:
            raise self._error(self.gone, "Look at the host and run again.")
        try:
            yield
        except exceptions.AuthenticationError as error:
            raise self._error(
                "its server does not let us in",
                "Check the user in `address` and the password that `password_from` names.",
            ) from error
        except requests.exceptions.SSLError as error:
            raise self._error(
                "its server has no certificate that we trust",
                "Name the file of its authority's certificate as `ca_file`.",
            ) from error
        except HostError:
            raise
        except Exception as error:  # what is no WinRM makes the library fail in many ways
            how = (
                "no server answers" if not self._answered else f"its line was cut ({_short(error)})"
            )
            raise self._error(
                how, "Is it up, and WinRM on (`winrm quickconfig`)? Correct `port` or `https`."
            ) from error
        self._answered = True

    def _error(self, how: str, remedy: str) -> HostError:
        self.gone = how
        if self._answered:
            return HostLost(
                f"{self._name}: the host was lost: {how}.",
                remedy="Look at the host and run again; this says nothing about the package.",
            )
        return HostUnavailable(
            f"{self._name}: {self._address} cannot be used: {how}.", remedy=remedy
        )

    def shell(self) -> Any:  # noqa: ANN401 # of a library that publishes no types
        """Open a shell."""
        from pypsrp.shell import WinRS  # noqa: PLC0415 # an extra

        made = WinRS(self._wsman)
        with self.asking():
            made.open()
        return made

    @property
    def shell_id(self) -> str:
        """What names the shell of ours, also to a later connection."""
        return str(self._shell.id)

    def end(self, shell_id: str) -> None:
        """End a shell that an earlier connection left, with all that runs in it."""
        from pypsrp.exceptions import WSManFaultError  # noqa: PLC0415 # an extra
        from pypsrp.wsman import SelectorSet  # noqa: PLC0415 # an extra

        selectors = SelectorSet()
        selectors.add_option("ShellId", shell_id)
        with self.asking(), contextlib.suppress(WSManFaultError):  # it may be gone already
            self._wsman.delete(self._shell.resource_uri, selector_set=selectors)

    def words(self, *words: str, timeout_s: float) -> Done:
        """Run words to their end; HostLost when that takes too long."""
        return self.feed(" ".join(words), (), timeout_s)

    def feed(self, line: str, given: Iterable[bytes], timeout_s: float) -> Done:
        """Run a line of cmd to its end, and give it something to read."""
        command = Command(self, self._shell, line)
        output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        deadline = time.monotonic() + timeout_s
        for data in given:
            command.send(data)
            if time.monotonic() > deadline:
                break
        else:
            command.send(b"", end=True)
        try:
            while time.monotonic() < deadline:
                for stream, data in command.receive(1.0):
                    output[stream] += data
        except EOFError:
            command.release()
            return Done(line, command.status, output["stdout"], output["stderr"])
        raise self.lost(f"it did not answer within {timeout_s:g} s")

    def lost(self, how: str) -> HostError:
        """Return the error for a machine whose server may answer, and which is not used again."""
        return self._error(how, "Look at the host and run again.")

    def close(self) -> None:
        """Close the shell of ours, and the connection."""
        with contextlib.suppress(HostError):
            if not self.gone:
                with self.asking():
                    self._shell.close()
        self._wsman.transport.close()


class Command:
    """A command in a shell (see ``batch.Process``)."""

    def __init__(self, client: Client, shell: Any, line: str, *, own: bool = False) -> None:  # noqa: ANN401 # see shell
        """Start it; ``own`` says that the shell is its own, and ends with it."""
        from pypsrp.shell import Process  # noqa: PLC0415 # an extra

        self._client, self._shell, self._own = client, shell, own
        self._process = Process(shell, line)
        self.status = 0
        """Its exit status, after its end."""
        with client.asking():
            self._process.begin_invoke()

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Give it something to read, maybe the last."""
        with self._client.asking():
            self._process.send(data, end=end)

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came within a second or so; EOFError when it ended."""
        from pypsrp.exceptions import WSManFaultError  # noqa: PLC0415 # an extra
        from pypsrp.shell import CommandState  # noqa: PLC0415 # an extra

        if self._process.state == CommandState.DONE:
            raise EOFError
        with self._client.asking():
            try:
                state, status, chunks = self._shell.receive(
                    "stdout stderr", self._process.id, timeout=max(1, round(timeout_s))
                )
            except WSManFaultError as fault:
                if fault.code != _TIMED_OUT:
                    raise
                return []
        self._process.state, self.status = state, status or 0
        found: list[tuple[Stream, bytes]] = []
        if chunks["stdout"]:
            found.append(("stdout", chunks["stdout"]))
        if chunks["stderr"]:
            found.append(("stderr", chunks["stderr"]))
        return found

    def release(self) -> None:
        """Tell the server that it may forget the command: it counts those of a shell."""
        from pypsrp.exceptions import WSManFaultError  # noqa: PLC0415 # an extra
        from pypsrp.shell import SignalCode  # noqa: PLC0415 # an extra

        with self._client.asking(), contextlib.suppress(WSManFaultError):
            self._process.signal(SignalCode.TERMINATE)

    def close(self) -> None:
        """End its shell, with all that runs in it."""
        if self._own and not self._client.gone:
            with contextlib.suppress(HostError), self._client.asking():
                self._shell.close()


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _library(host: Host) -> Any:  # noqa: ANN401 # it publishes no types
    """Return the client's library, with what of it must not happen taken out."""
    try:
        from pypsrp import wsman  # noqa: PLC0415 # an extra
    except ImportError as error:
        raise HostUnavailable(
            f"{host.name}: hosts of kind winrm need pypsrp, which is not installed.",
            remedy="Run `pip install 'pytest-manualbuild[winrm]'`, or leave it out with --on.",
        ) from error
    # It logs messages, in which the words of tests are.
    for name in ("pypsrp", "spnego"):  # and the other one what the login says
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    class Patient(wsman.WSMan):
        make: Any

        def receive(
            self,
            resource_uri: str,
            resource: Any,  # noqa: ANN401 # see above
            option_set: Any = None,  # noqa: ANN401 # see above
            selector_set: Any = None,  # noqa: ANN401 # see above
            timeout: int | None = None,
        ) -> Any:  # noqa: ANN401 # see above
            """Ask once: the library asks five times, and waits a minute in between."""
            answer = self.invoke(
                wsman.WSManAction.RECEIVE,
                resource_uri,
                resource,
                option_set,
                selector_set,
                timeout,
            )
            return answer.find("s:Body", namespaces=wsman.NAMESPACES)

    Patient.make = Patient
    return Patient


def _want_sealed(transport: Any) -> None:  # noqa: ANN401 # see _library
    """Refuse answers that the login did not seal: the library takes them from anybody on a line."""
    import requests  # noqa: PLC0415 # only where pypsrp is

    def look(answer: Any, **_: object) -> None:  # noqa: ANN401 # of requests
        sealed = answer.headers.get("content-type", "").startswith(_SEALED)
        if answer.status_code != _LOG_IN and answer.content and not sealed:
            raise requests.RequestException("an answer was not sealed")

    session = transport.session = transport._build_session()  # noqa: SLF001 # or after the first one
    session.hooks["response"].append(look)


def _password(host: Host, user: str) -> str:
    """Return the password from where the matrix says; HostUnavailable where there is none."""
    place, _, name = (host.password_from or "").partition(":")
    found: str | None = None
    if place == "env":
        found = os.environ.get(name)
    elif place == "keyring":
        try:
            import keyring  # noqa: PLC0415 # only who wants it has it
        except ImportError as error:
            raise HostUnavailable(
                f"{host.name}: the password is in a keyring, and keyring is not installed.",
                remedy="Run `pip install keyring`, or give the password in a variable (env:NAME).",
            ) from error
        try:
            found = keyring.get_password(name, user)
        except Exception as error:  # its backends have errors of their own
            raise HostUnavailable(
                f"{host.name}: the keyring does not answer: {_short(error)}.",
                remedy="Unlock it, or give the password in a variable (env:NAME).",
            ) from error
    if not found:
        raise HostUnavailable(
            f"{host.name}: there is no password in {host.password_from}.",
            remedy="Set that variable (env:NAME), or `keyring set NAME USER` (keyring:NAME).",
        )
    return found
