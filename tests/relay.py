"""Stands between a client and the Docker engine's socket: `relay.py SOCKET`. Killed, it cuts both.

Not an engine: every byte goes to the real one. With a third word, the first request that has it
gets no answer, as where the engine forgets that it was asked.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path

forgotten = [word.encode() for word in sys.argv[2:3]]


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if forgotten and forgotten[0] in data:
                forgotten.clear()
            else:
                sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    Path(sys.argv[1]).unlink(missing_ok=True)  # of one that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(50)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            for pair in ((client, engine), (engine, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()


if __name__ == "__main__":
    main()
