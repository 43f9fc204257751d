"""The child process that reads binaries: a parser that crashes or hangs takes only it down.

One JSON request a line comes in, ``{"path": ..., "file": ..., "format": ...}``; one answer a line
goes out, in the same order, as soon as it is there. The file is removed.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

import msgspec

_MOST_MEMORY = 8 << 30  # bytes of address space


def main() -> None:
    """Answer until the requests end."""
    import lief  # noqa: PLC0415 # only in this process

    from pytest_manualbuild.audit import elf, macho, pe  # noqa: PLC0415
    from pytest_manualbuild.audit.binary import MOST_S, Binary  # noqa: PLC0415

    lief.logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS counts the shared cache of the system, too
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    readers = {"elf": elf.read, "macho": macho.read, "pe": pe.read}
    for line in sys.stdin:
        asked = json.loads(line)
        # Without a handler the alarm ends the process, wherever it is.
        signal.alarm(MOST_S)
        try:
            found = readers[asked["format"]](Path(asked["path"]), asked["file"])
        except Exception as error:  # noqa: BLE001 # whatever a hostile file makes of the parser
            problem = (str(error) or type(error).__name__).splitlines()[0][:200]
            found = Binary(file=asked["file"], format=asked["format"], problem=problem)
        Path(asked["path"]).unlink()  # it may be large, and there may be many
        signal.alarm(0)
        answer = msgspec.to_builtins(found) if found is not None else None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
