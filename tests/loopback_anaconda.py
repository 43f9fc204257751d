"""A loopback server that speaks anaconda.org's API, for the real anaconda-client.

The one stand-in of the suite: the real service cannot exist here. It runs as a
process of its own, keeps what it was sent in a folder, and can be told to fail.

    python loopback_anaconda.py STATE      prints its port
"""

from __future__ import annotations

import hashlib
import json
import sys
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
DISTS: dict[str, dict[str, Any]] = {}
STAGED: dict[str, dict[str, Any]] = {}
NAMES: set[str] = set()


def fault() -> str:
    """Return what is to go wrong: the text of the file ``fault``."""
    path = STATE / "fault"
    return path.read_text() if path.is_file() else ""


class Handler(BaseHTTPRequestHandler):
    """The requests of an upload, in the order of the real client."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def answer(self, status: int, value: object = None) -> None:
        """Send JSON, and keep a record of the request."""
        body = json.dumps(value if value is not None else {}).encode()
        with (STATE / "requests.jsonl").open("a") as file:
            said = {
                "method": self.command,
                "path": self.path,
                "status": status,
                "token": self.headers.get("Authorization", ""),
            }
            file.write(json.dumps(said) + "\n")
        (STATE / "dists.json").write_text(json.dumps(DISTS))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        """Return the request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:  # the library's name
        """Answer that the server is there."""
        self.answer(200)

    def do_GET(self) -> None:  # the library's name
        """Answer what is there."""
        kind, _, rest = self.path.strip("/").partition("/")
        if fault() == "401":
            self.answer(401, {"error": "unauthorized"})
        elif kind == "user":
            self.answer(200, {"login": rest or "builder"})
        elif kind == "dist":
            known = DISTS.get(rest)
            self.answer(200, known) if known else self.answer(404, {"error": "not found"})
        else:
            known_name = self.path in NAMES
            self.answer(200, {}) if known_name else self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:  # the library's name
        """Take a package, its release, its file."""
        kind, _, rest = self.path.strip("/").partition("/")
        body = self.body()
        if kind in ("package", "release"):
            NAMES.add(self.path)
            self.answer(200, {})
        elif kind == "stage":
            STAGED[rest] = json.loads(body)
            port = self.connection.getsockname()[1]
            url = f"http://127.0.0.1:{port}/s3/bucket"
            self.answer(
                200,
                {"post_url": url, "form_data": {"key": rest}, "dist_id": rest, "basename": rest},
            )
        elif kind == "s3":
            self.store(body)
        elif kind == "commit":
            staged = STAGED.pop(rest)
            labels = staged["channels"] + (["main"] if fault() == "label" else [])
            sha256 = "0" * 64 if fault() == "sha256" else staged["stored"]
            DISTS[rest] = {
                "basename": rest,
                "sha256": sha256,
                "labels": labels,
                "attrs": {},
                "size": staged["size"],
            }
            self.answer(500, {"error": "lost"}) if fault() == "commit" else self.answer(200, {})
        else:
            self.answer(404, {"error": "unknown"})

    def store(self, body: bytes) -> None:
        """Take the bytes of a file, as the object store does."""
        if fault() == "s3":
            text = b"<Error><Code>AccessDenied</Code></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        message: Any = message_from_bytes(head + body)
        parts: dict[str, bytes] = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }
        data = parts["file"]
        staged = STAGED[parts["key"].decode()]
        staged["stored"] = hashlib.sha256(data).hexdigest()
        staged["size"] = len(data)
        self.answer(201)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
