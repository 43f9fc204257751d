"""An emulation of Windows Remote Management before a prefix of wine: the part that we use of it.

It speaks the SOAP actions of a shell (Create, Command, Send, Receive, Delete) over HTTP,
with NTLM and sealed messages, or over HTTPS. It proves our side of the talk, and nothing of the
quotas and manners of Windows. A program of its own, whose machine is that of windows_ssh:
`windows_winrm.py FOLDER PORT http|https`, with `NTLM_USER_FILE` in the environment.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import selectors
import ssl
import struct
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import spnego
from windows_ssh import WindowsSsh

from pytest_manualbuild.hosts import wine
from pytest_manualbuild.hosts.local import kill_marked

USER, PASSWORD = "builder", "canary-5up3r-s3cret"
RSP = "{http://schemas.microsoft.com/wbem/wsman/1/windows/shell}"
WSA = "{http://schemas.xmlsoap.org/ws/2004/08/addressing}"
SOAP = "{http://www.w3.org/2003/05/soap-envelope}"
WSMAN = "{http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd}"
STATE = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/"
TIMED_OUT, NO_SHELL = 2150858793, 2150858843


@dataclass(kw_only=True)
class WindowsWinrm(WindowsSsh):
    """The same machine, with the other server."""

    scheme: str = "http"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of wine, which is to take our programs before its own."""
        plain = wine.environment(self.folder, str(self.folder))
        overrides = f"{plain['WINEDLLOVERRIDES']};certutil.exe,findstr.exe=n"
        return {**plain, "WINEDLLOVERRIDES": overrides}

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.switch_on()
        users = self.folder / "users"
        users.write_text(f":{USER}:{PASSWORD}\n")
        self._start(__file__, self.scheme, NTLM_USER_FILE=str(users))


def make_certificate(folder: Path, name: str) -> Path:
    """Make ``NAME.key`` and ``NAME.pem``, a certificate of this machine; return the latter."""
    words = (
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        "/CN=far", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out",
        f"{name}.pem",
    )  # fmt: skip
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.pem"


class Fault(Exception):
    """What the server refuses, with the code of Windows."""


@dataclass(kw_only=True)
class Shell:
    """What one client's shell is, and the commands in it."""

    mark: str
    commands: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)


SHELLS: dict[str, Shell] = {}


def act(machine: WindowsSsh, action: str, envelope: ET.Element) -> str:
    """Do what a message asks for; return the body of the answer."""
    selector = envelope.find(f".//{WSMAN}Selector[@Name='ShellId']")
    if action.endswith("/Create"):
        name = str(uuid.uuid4()).upper()
        SHELLS[name] = Shell(mark=uuid.uuid4().hex)
        return (
            f"<rsp:Shell><rsp:ShellId>{name}</rsp:ShellId></rsp:Shell>"
            '<x:ResourceCreated xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer">'
            "<a:ReferenceParameters><w:SelectorSet>"
            f'<w:Selector Name="ShellId">{name}</w:Selector></w:SelectorSet>'
            "</a:ReferenceParameters></x:ResourceCreated>"
        )
    shell = SHELLS.get(selector.text or "") if selector is not None else None
    if shell is None:
        raise Fault(NO_SHELL)
    if action.endswith("/Delete"):
        kill_marked(shell.mark, "MANUALBUILD_JOB")
        return ""
    if action.endswith("/Command"):
        return command(machine, shell, envelope)
    return talk(shell, action, envelope)


def command(machine: WindowsSsh, shell: Shell, envelope: ET.Element) -> str:
    line = " ".join(
        one.text or "" for name in ("Command", "Arguments") for one in envelope.iter(f"{RSP}{name}")
    )
    if '"' in line:  # which wine would quote once more
        (machine.drive / "standin.bat").write_text(f"@{line.replace('%', '%%')}\n")
        line = "C:\\standin.bat"
    name = str(uuid.uuid4()).upper()
    shell.commands[name] = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("windows_job.py")), "yes",
         shell.mark, *machine.runs(line)],
        cwd=machine.drive, start_new_session=True, env=machine.environment, bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return f"<rsp:CommandResponse><rsp:CommandId>{name}</rsp:CommandId></rsp:CommandResponse>"


def talk(shell: Shell, action: str, envelope: ET.Element) -> str:
    named = next(one for one in envelope.iter() if "CommandId" in one.attrib)
    name = named.attrib["CommandId"]
    ran = shell.commands[name]
    if action.endswith("/Send"):
        assert ran.stdin is not None
        with contextlib.suppress(OSError):
            ran.stdin.write(base64.b64decode(named.text or ""))
        if named.attrib.get("End", "").lower() == "true":
            ran.stdin.close()
        return "<rsp:SendResponse/>"
    limit = envelope.find(f".//{WSMAN}OperationTimeout")
    seconds = re.search(r"PT([0-9.]+)S", limit.text or "") if limit is not None else None
    return receive(ran, name, float(seconds[1]) if seconds else 20.0)


def receive(ran: subprocess.Popen[bytes], name: str, limit_s: float) -> str:
    deadline = time.monotonic() + limit_s
    with selectors.DefaultSelector() as ready:
        for stream, pipe in (("stdout", ran.stdout), ("stderr", ran.stderr)):
            if pipe is not None and not pipe.closed:
                ready.register(pipe, selectors.EVENT_READ, stream)
        while (left_s := deadline - time.monotonic()) > 0:
            ended = ran.poll() is not None
            streams = ""
            for key, _ in ready.select(0.05 if ended else min(left_s, 0.1)):
                data = os.read(key.fd, 65536)
                if data:
                    text = base64.b64encode(data).decode()
                    streams += (
                        f'<rsp:Stream Name="{key.data}" CommandId="{name}">{text}</rsp:Stream>'
                    )
                else:
                    ready.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr] # it is a pipe
            if streams or ended:
                over = ended and not streams
                state = f'<rsp:CommandState CommandId="{name}" State="{STATE}'
                state += (
                    f'Done"><rsp:ExitCode>{ran.returncode % 256}</rsp:ExitCode></rsp:CommandState>'
                    if over
                    else 'Running"/>'
                )
                return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"
    raise Fault(TIMED_OUT)


def envelope_of(message_id: str, body: str) -> bytes:
    return (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
        ' xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"'
        ' xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"'
        ' xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell">'
        f"<s:Header><a:RelatesTo>{message_id}</a:RelatesTo></s:Header>"
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def fault(code: int) -> str:
    return (
        "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text>refused</s:Text>"
        '</s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"'
        f' Code="{code}" Machine="standin"><f:Message>refused</f:Message></f:WSManFault>'
        "</s:Detail></s:Fault>"
    )


class Handler(BaseHTTPRequestHandler):
    """One connection: who proved to be the user on it may ask."""

    protocol_version = "HTTP/1.1"
    machine: WindowsSsh
    plain_is_safe = False
    context: Any = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        word = self.headers.get("Authorization", "")
        if word and not (self.context and self.context.complete):
            self._authenticate(word)
            if not (self.context and self.context.complete):
                return
        if not (self.context and self.context.complete):
            self._answer(401, b"", {"WWW-Authenticate": "Negotiate"})
        elif not body:
            self._answer(200, b"", {})
        else:
            self._serve(body)

    def _authenticate(self, word: str) -> None:
        scheme, _, token = word.partition(" ")
        if scheme != "Negotiate":  # Basic above all
            self._answer(401, b"", {"WWW-Authenticate": "Negotiate"})
            return
        if self.context is None:
            self.context = spnego.server(
                protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate
            )
        try:
            out = self.context.step(base64.b64decode(token))
        except spnego.exceptions.SpnegoError:
            self.context = None
            self._answer(401, b"", {"WWW-Authenticate": "Negotiate"})
            return
        self._token = f"Negotiate {base64.b64encode(out or b'').decode()}"
        if not self.context.complete:
            self._answer(401, b"", {"WWW-Authenticate": self._token})

    def _serve(self, body: bytes) -> None:
        sealed = self.headers.get("Content-Type", "").startswith("multipart/encrypted")
        if not sealed and not self.plain_is_safe:
            self._answer(500, b"", {})
            return
        envelope = ET.fromstring(self._unseal(body) if sealed else body)
        action = envelope.findtext(f".//{WSA}Action") or ""
        message_id = envelope.findtext(f".//{WSA}MessageID") or ""
        status = 200
        try:
            said = act(self.machine, action, envelope)
        except Fault as problem:
            status, said = 500, fault(problem.args[0])
        answer = envelope_of(message_id, said)
        kind = "application/soap+xml;charset=UTF-8"
        if sealed and not (self.machine.folder / "unsealed").exists():
            answer = self._seal(answer)
            kind = (
                'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";'
                'boundary="Encrypted Boundary"'
            )
        self._answer(status, answer, {"Content-Type": kind})

    def _unseal(self, body: bytes) -> Any:  # its library publishes no types
        data = body.split(b"application/octet-stream\r\n", 1)[1]
        data = data.removesuffix(b"--Encrypted Boundary--\r\n")
        (size,) = struct.unpack("<i", data[:4])
        return self.context.unwrap_winrm(data[4 : 4 + size], data[4 + size :])

    def _seal(self, plain: bytes) -> Any:
        header, data, padding = self.context.wrap_winrm(plain)
        return (
            b"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length="
            + str(len(plain) + padding).encode()
            + b"\r\n--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<i", len(header))
            + header
            + data
            + b"--Encrypted Boundary--\r\n"
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if token := self.__dict__.pop("_token", ""):
            headers = {"WWW-Authenticate": token, **headers}
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True


def main(folder: str, port: str, scheme: str) -> None:
    Handler.machine = WindowsWinrm(folder=Path(folder), port=int(port))
    server = Server(("127.0.0.1", int(port)), Handler)
    if scheme == "https":
        Handler.plain_is_safe = True
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{folder}/tls.pem", f"{folder}/tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
