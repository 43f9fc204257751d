"""The attached streams of a container, out of the frames in which an engine sends them."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator

from pytest_manualbuild import shells
from pytest_manualbuild.framing import Stream

_HEADER = struct.Struct(">BxxxL")
_STDERR = 2  # the engine's number of that stream
_CHUNK = 256 * 1024


class DockerTransport:
    """The attached streams of a container's main process."""

    def __init__(self, stream: socket.socket, status: Iterator[str]) -> None:
        self._socket = stream
        self._buffer = b""
        self._status = status
        stream.settimeout(shells.START_S)

    def send(self, data: bytes) -> None:
        """Write to the shell."""
        self._socket.sendall(data)

    def end(self) -> bool:
        """Tell the shell to end; False where it takes nothing now, which is not waited for."""
        try:
            if not select.select([], [self._socket], [], 0)[1]:
                return False
            self.send(b"exit\n")
        except OSError:
            return False
        return True

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came from the shell, taken out of the engine's frames."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return []
        data = self._socket.recv(_CHUNK)
        if not data:
            raise EOFError
        self._buffer += data
        chunks: list[tuple[Stream, bytes]] = []
        while len(self._buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + size
            if len(self._buffer) < end:
                break
            chunks.append(
                ("stderr" if kind == _STDERR else "stdout", self._buffer[_HEADER.size : end])
            )
            self._buffer = self._buffer[end:]
        return chunks

    def lost(self) -> str:
        """Say what the engine says of the container."""
        return next(self._status, "")

    def close(self) -> None:
        """Let go of the streams: the container's shell ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
