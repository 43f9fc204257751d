"""Takes our words out of what a host's two streams bring, and puts both into one order.

A script's output may be anything, also what looks like a word of ours: what tells them apart are
nonces that are new for each connection and each script.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, cast

from pytest_manualbuild.hosts.base import Event, Exit, Mark, Output

Stream = Literal["stdout", "stderr"]
_MOST_MARKER = 4000  # below PIPE_BUF, so that a marker is written in one piece
_MARKER = re.compile(rb"\x1e([0-9a-f]{24}):([a-z]+):([^\x1e]*)\x1e")
_BEGINNING = re.compile(rb"\x1e[0-9a-f]{0,24}|\x1e[0-9a-f]{24}:[^\x1e]*")
_ANSWERS = frozenset({"folders", "kept", "killed", "pong", "put", "ready"})
_LINE_MARKER = re.compile(rb"\x1e([0-9a-f]{24}):([a-z]+):([^\x1e\r\n]*)\r\n")
_LINE_BEGINNING = re.compile(rb"\x1e[0-9a-f]{0,24}|\x1e[0-9a-f]{24}:[^\x1e\r\n]*\r?")
_STATUS = re.compile(r"-?[0-9]{1,10}")
_ALONE_S = 1.0
_EXIT_ALONE_S = 10.0
"""How long one stream must be silent before the other's exit counts alone."""
_MOST_BEHIND = 4 * 1024 * 1024


class Framing:
    """Takes markers out of two streams, and puts events of both into one order.

    A marker is ``RS NONCE:KIND:TEXT RS``. What a nonce may say is fixed: the connection's is
    known to the control shell alone and says answers; each script has two more, one for its
    marks, and one for its exit that it never sees. With anything else a marker is output.
    Where ``lines`` is true a marker is ``RS NONCE:KIND:TEXT CR LF``: cmd writes nothing but lines.
    """

    def __init__(self, *, lines: bool = False) -> None:
        self._marker_form = _LINE_MARKER if lines else _MARKER
        self._beginning = _LINE_BEGINNING if lines else _BEGINNING
        self.nonce = _new_nonce()
        self._may_say: dict[bytes, frozenset[str]] = {self.nonce.encode(): _ANSWERS}
        self._script: tuple[bytes, ...] = ()
        self._rest: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._queue: dict[Stream, deque[bytes | _Marker]] = {"stdout": deque(), "stderr": deque()}
        self._behind = 0
        """Bytes in the queues: they pile up where a marker is missing on the other stream."""
        self.group: int | None = None
        """The process group of the script that runs, as its first marker said."""
        self.answers: dict[str, str] = {}
        """What the control shell itself said, by kind."""
        self.exited = False
        """Whether the script's exit was said, though its event may still wait for others."""
        self._closed = False
        """Whether the streams bring nothing more."""
        self._heard_s: dict[Stream, float] = {"stdout": 0.0, "stderr": 0.0}
        """When each stream brought something last."""

    def begin(self) -> tuple[str, str]:
        """Forget what came before; return the nonces of the next script's marks and exit."""
        for queue in self._queue.values():
            queue.clear()
        self._behind = 0
        self.group = None
        self.exited = self._closed = False
        for past in self._script:  # left-over processes may still hold them
            self._may_say[past] = frozenset()
        mark, ended = _new_nonce(), _new_nonce()
        self._script = mark.encode(), ended.encode()
        self._may_say |= {
            mark.encode(): frozenset({"mark", "group"}),
            ended.encode(): frozenset({"exit"}),
        }
        return mark, ended

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take bytes of one stream."""
        self._heard_s[stream] = time.monotonic()
        data = self._rest[stream] + data
        position = at = 0
        while found := self._marker_form.search(data, at):
            may_say = self._may_say.get(found[1])
            if may_say is None:
                at = found.start() + 1
                continue
            # Output that begins like a marker may end it where the next one begins.
            at = found.end() - 1
            self._output(stream, data[position : found.start()])
            position = found.end()
            kind = found[2].decode()
            if kind in may_say:
                self._said(stream, kind, found[3].decode(errors="replace"))
        data = data[position:]
        keep = self._unfinished(data)
        self._rest[stream] = data[len(data) - keep :]
        self._output(stream, data[: len(data) - keep])

    def closed(self) -> None:
        """Note that the streams of the script ended: no marker is on its way any more."""
        self._closed = True

    def ended(self, status: int) -> None:
        """Note that the script ended, where that is known without a marker."""
        self.exited = True
        for stream, queue in self._queue.items():
            self._output(stream, self._rest[stream])
            self._rest[stream] = b""
            queue.append(_Marker("exit", str(status), time.monotonic()))

    def _output(self, stream: Stream, data: bytes) -> None:
        if data:
            self._queue[stream].append(data)
            self._behind += len(data)

    def _said(self, stream: Stream, kind: str, text: str) -> None:
        if kind == "exit" and not _STATUS.fullmatch(text):
            return
        if kind in ("mark", "exit"):
            self.exited = self.exited or kind == "exit"
            self._queue[stream].append(_Marker(kind, text, time.monotonic()))
        elif kind == "group":
            # The first one was sent before the script's own text; another is a lie.
            if self.group is None and text.isdigit() and int(text) > 1:
                self.group = int(text)
        else:
            self.answers[kind] = text

    def next(self) -> Event | None:
        """Return the next event that is complete: marks count when both streams reached them."""
        for stream, queue in self._queue.items():
            if queue and isinstance(queue[0], bytes):
                data = cast("bytes", queue.popleft())
                self._behind -= len(data)
                return Output(stream=stream, data=data)
        marker = self._marker()
        if marker is None:
            return None
        if marker.kind == "mark":
            return Mark(text=marker.text)
        return Exit(status=int(marker.text))

    def _marker(self) -> _Marker | None:
        """Take the next marker; one that a test kept off a stream comes alone, a little later."""
        out, err = (cast("deque[_Marker]", queue) for queue in self._queue.values())
        if out and err:
            if out[0] == err[0]:
                err.popleft()
                return out.popleft()
            if err[0] in out:
                return out.popleft()
            if out[0] in err:
                return err.popleft()
        both: tuple[tuple[deque[_Marker], Stream], ...] = ((out, "stderr"), (err, "stdout"))
        waits = [queue for queue, other in both if queue and not self._more(queue[0], other)]
        if not waits:
            return None
        oldest = min(waits, key=lambda queue: queue[0].came_s)
        late = time.monotonic() - oldest[0].came_s > _ALONE_S or self._behind > _MOST_BEHIND
        return oldest.popleft() if late else None

    def _more(self, marker: _Marker, other: Stream) -> bool:
        """Say whether an exit must wait for the other stream, on which more is on its way.

        A test can hardly keep an exit off a stream: it would have to leave it full. So silence
        there must last before an exit counts alone.
        """
        if marker.kind != "exit" or self._closed:
            return False
        silent_s = time.monotonic() - max(marker.came_s, self._heard_s[other])
        return silent_s < _EXIT_ALONE_S

    def _unfinished(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a marker."""
        at = data.rfind(b"\x1e")
        if at < 0 or len(data) - at > _MOST_MARKER:
            return 0
        return len(data) - at if self._beginning.fullmatch(data, at) else 0


@dataclass(frozen=True)
class _Marker:
    kind: str
    text: str
    came_s: float = field(compare=False)


def _new_nonce() -> str:
    return secrets.token_hex(12)
