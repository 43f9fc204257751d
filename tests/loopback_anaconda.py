"""A loopback server that speaks anaconda.org's API, for the real anaconda-client.

The one stand-in of the suite: the real service cannot exist here. It runs as a
process of its own, keeps what it was sent in a folder, and can be told to fail.

    python loopback_anaconda.py STATE      prints its port

The file ``STATE/fault`` says what goes wrong, one fault a line:

    500 POST stage       answer with that status, and do nothing
    500 POST stage bz2   the same, where the path ends in that word
    lost POST commit     do it, and close the connection without an answer
    hold 7 before        wait before the 7th request is carried out ("after": before its answer),
                         until STATE/release is there; STATE/held says that it waits
    says GET dist []     answer with that JSON, and do nothing
    slow                 take 0.1 s for each request
    sha256 | label | size | bytes     store another hash, a further label, another size;
                         hand out other bytes
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
DISTS: dict[str, dict[str, Any]] = {}
DATA: dict[str, bytes] = {}
STAGED: dict[str, dict[str, Any]] = {}
NAMES: set[str] = set()
COUNT = {"requests": 0}
LOCK = threading.Lock()
Answer = tuple[int, object]
MISSING: Answer = (404, {"error": "not found"})


def faults() -> list[list[str]]:
    """Return what is to go wrong, in words."""
    path = STATE / "fault"
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def wrong(name: str) -> bool:
    """Say whether that fault is asked for."""
    return [name] in faults()


class Handler(BaseHTTPRequestHandler):
    """The requests of an upload, in the order of the real client."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes, and the second would wait for the other side's 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def serve(self) -> None:
        """Carry out a request, unless a fault says otherwise, and keep a record of it."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, rest = self.path.strip("/").partition("/")
        with LOCK:
            COUNT["requests"] += 1
            number = COUNT["requests"]
        self.hold(number, "before")
        if wrong("slow"):
            time.sleep(0.1)
        told = next(
            (w[0] for w in faults()
             if w[1:3] == [self.command, kind] and rest.endswith("".join(w[3:]))), ""
        )  # fmt: skip
        says = next((w[3:] for w in faults() if w[:3] == ["says", self.command, kind]), None)
        if says is not None:
            answer: Answer = (200, json.loads(" ".join(says)))
        elif told.isdigit():
            answer = (int(told), {"error": "told to fail"})
        else:
            with LOCK:
                answer = self.carry_out(kind, rest, data)
        self.record(answer[0])
        self.hold(number, "after")
        if told == "lost":
            self.close_connection = True
            return
        self.answer(kind, *answer)

    do_HEAD = do_GET = do_POST = do_DELETE = serve  # the library's names  # noqa: N815

    def hold(self, number: int, when: str) -> None:
        """Wait, if told so, until the test has killed the client."""
        if ["hold", str(number), when] in faults():
            (STATE / "held").touch()
            while not (STATE / "release").exists():
                time.sleep(0.005)

    def record(self, status: int) -> None:
        """Write down the request and what is stored now."""
        said = {"method": self.command, "path": self.path, "status": status,
                "token": self.headers.get("Authorization", "")}  # fmt: skip
        with LOCK:
            with (STATE / "requests.jsonl").open("a") as file:
                file.write(json.dumps(said) + "\n")
            fresh = STATE / "dists.new"
            fresh.write_text(json.dumps(DISTS))
            fresh.replace(STATE / "dists.json")

    def answer(self, kind: str, status: int, value: object) -> None:
        """Send an answer: JSON, bytes, or the object store's XML."""
        if isinstance(value, bytes):
            body = value
        elif kind == "s3" and status != 201:
            body = b"<Error><Code>AccessDenied</Code></Error>"
        else:
            body = json.dumps(value).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def carry_out(self, kind: str, rest: str, data: bytes) -> Answer:  # noqa: PLR0911, PLR0912 # a table
        """Do what is asked."""
        port = self.connection.getsockname()[1]
        known = DISTS.get(rest)
        match self.command, kind:
            case "HEAD", _:
                return 200, {}
            case "GET", "user":
                return 200, {"login": rest or "builder"}
            case "GET", "dist":
                return (200, known) if known else MISSING
            case "GET", "download":
                return (302, f"http://127.0.0.1:{port}/store/{rest}") if known else MISSING
            case "GET", "store":
                return 200, DATA[rest] + (b"\0" if wrong("bytes") else b"")
            case "GET", "channels":
                owner, _, label = rest.partition("/")
                return 200, {
                    "files": [
                        {"full_name": name}
                        for name, one in DISTS.items()
                        if name.startswith(f"{owner}/") and label in one["labels"]
                    ]
                }
            case "GET", _:
                return (200, {}) if self.path in NAMES else MISSING
            case "POST", "package" | "release":
                NAMES.add(self.path)
                return 200, {}
            case "POST", "stage":
                STAGED[rest] = json.loads(data)
                url = f"http://127.0.0.1:{port}/s3/bucket"
                return 200, {"post_url": url, "form_data": {"key": rest}, "dist_id": rest,
                             "basename": rest}  # fmt: skip
            case "POST", "s3":
                return self.store(data)
            case "POST", "commit":
                return self.commit(rest)
            case "POST" | "DELETE", "channels":
                return self.label(rest, json.loads(data))
            case _:
                return MISSING

    def store(self, body: bytes) -> Answer:
        """Take the bytes of a file, as the object store does: it must not see the token."""
        if self.headers.get("Authorization"):
            return 400, {}
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        message: Any = message_from_bytes(head + body)
        parts: dict[str, bytes] = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }
        STAGED[parts["key"].decode()]["data"] = parts["file"]
        return 201, {}

    def commit(self, name: str) -> Answer:
        """Publish what was staged; a name that is taken is a conflict."""
        if name in DISTS:
            return 409, {"error": "conflict"}
        staged = STAGED.pop(name)
        data = DATA[name] = staged["data"]
        DISTS[name] = {
            "basename": name,
            "sha256": "0" * 64 if wrong("sha256") else hashlib.sha256(data).hexdigest(),
            "labels": staged["channels"] + (["main"] if wrong("label") else []),
            "attrs": {},
            "size": len(data) + wrong("size"),
        }
        return 200, {}

    def label(self, where: str, file: dict[str, str]) -> Answer:
        """Add or remove a label of one file."""
        owner, _, label = where.partition("/")
        name = f"{owner}/{file['package']}/{file['version']}/{file['basename']}"
        if name not in DISTS:
            return MISSING
        labels = set(DISTS[name]["labels"])
        DISTS[name]["labels"] = sorted(
            labels | {label} if self.command == "POST" else labels - {label}
        )
        return 201, {}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
