"""A persistent, framed shell: how scripts are run on any POSIX host.

One long-living ``/bin/sh`` on the host, the control shell, reads commands from
its standard input. Scripts run in the background, so that the control shell
can answer a heartbeat and kill while one runs. What tells our words from a
script's output are markers on both streams, with a nonce that is new for each
connection. There are no threads: who waits for an event does the reading.
"""

from __future__ import annotations

import base64
import io
import re
import secrets
import shlex
import tarfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

from pytest_manualbuild.errors import HostLost, HostUnavailable
from pytest_manualbuild.hosts.base import CommandResult, Event, Exit, Mark, Output

HEARTBEAT_S = 5.0
"""Silence after which the control shell is asked for a sign of life."""
SILENCE_S = 15.0
"""How long that sign may take; after it the host counts as lost."""
START_S = 60.0
PUT_S = 300.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILLED = 137
KILL_ALL = (
    "for _mb_p in /proc/[0-9]*; do _mb_p=${_mb_p#/proc/}; "
    'if [ "$_mb_p" != 1 ] && [ "$_mb_p" != $$ ]; then kill -9 "$_mb_p" 2>/dev/null; fi; '
    "done\n"
)
"""Commands that kill every process of a host whose processes are all ours."""
_MOST_MARKER = 4000  # below PIPE_BUF, so that a marker is written in one piece
# Systems without setsid (macOS) have a bash that gives a job a process group; some take only -D.
# A busybox may name programs that it then cannot start, so they are tried.
_TOOLS = """\
if setsid true >/dev/null 2>&1; then _mb_new() { setsid "$@"; }
else _mb_new() { bash -c 'set -m; "$@" & wait $! 2>/dev/null' - "$@"; }; fi
if [ "$(echo QQ== | base64 -d 2>/dev/null)" = A ]; then _mb_d=-d; else _mb_d=-D; fi
"""
_PROBLEMS: Mapping[str, tuple[str, str]] = {
    "bash": (
        "it has no bash, and recipes' tests need one",
        "Install bash on that host.",
    ),
    "folder": (
        "the folder {folder} cannot be made on it",
        "Is its disk full, or may the user not write there?",
    ),
    "taken": (
        "{folder} is there already, of another run",
        "Wait until that run is over, or remove the folder on the host.",
    ),
    "noexec": (
        "programs cannot be run below {folder}",
        "Name a folder where they can with `root` in the matrix.",
    ),
}
"""What a control shell may say in ``_mb_problem`` when it starts: (problem, remedy)."""

Stream = Literal["stdout", "stderr"]


class Transport(Protocol):
    """Bytes to and from the control shell; its two streams stay apart."""

    def send(self, data: bytes) -> None:
        """Write to the shell's standard input; OSError when it is gone."""
        ...

    def receive(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        """Return what came within ``timeout_s``; EOFError when the shell is gone."""
        ...

    def lost(self) -> str:
        """Say what became of the host, as far as one can find out, in a sentence."""
        ...


class Framing:
    """Takes markers out of two streams, and puts events of both into one order."""

    def __init__(self, nonce: bytes) -> None:
        self._nonce = nonce
        self._start = b"\x1e" + nonce + b":"
        self._whole = re.compile(b"\x1e" + nonce + rb":(\d+):([a-z]+):([^\x1e]*)\x1e")
        self._rest: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._queue: dict[Stream, deque[bytes | tuple[str, str]]] = {
            "stdout": deque(),
            "stderr": deque(),
        }
        self.sequence = 0
        self.answers: dict[str, str] = {}
        """What the control shell itself said, by kind."""

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take bytes of one stream."""
        data = self._rest[stream] + data
        queue = self._queue[stream]
        position = 0
        for found in self._whole.finditer(data):
            if found.start() > position:
                queue.append(data[position : found.start()])
            position = found.end()
            kind, text = found[2].decode(), found[3].decode(errors="replace")
            if kind in ("mark", "exit"):
                # Of an older script, whose left-over processes still hold its functions: dropped.
                if int(found[1]) == self.sequence:
                    queue.append((kind, text))
            else:
                self.answers[kind] = text
        data = data[position:]
        keep = self._unfinished(data)
        if keep:
            self._rest[stream] = data[-keep:]
            data = data[:-keep]
        else:
            self._rest[stream] = b""
        if data:
            queue.append(data)

    def _unfinished(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a marker."""
        at = data.rfind(b"\x1e")
        if at < 0:
            return 0
        tail = data[at:]
        if tail.startswith(self._start):
            return len(tail) if len(tail) <= _MOST_MARKER else 0
        return len(tail) if self._start.startswith(tail) else 0

    def next(self) -> Event | None:
        """Return the next event that is complete: marks count when both streams reached them."""
        for stream, queue in self._queue.items():
            if queue and isinstance(queue[0], bytes):
                return Output(stream=stream, data=cast("bytes", queue.popleft()))
        out, err = self._queue["stdout"], self._queue["stderr"]
        if out and err:
            kind, text = cast("tuple[str, str]", out.popleft())
            err.popleft()
            return Mark(text=text) if kind == "mark" else Exit(status=int(text))
        return None

    def begin(self) -> int:
        """Forget what came before, and return the number of the next script."""
        for queue in self._queue.values():
            queue.clear()
        self.sequence += 1
        return self.sequence


class ShellConnection:
    """A connection over a control shell; ``Running`` as well, since one script runs at a time."""

    def __init__(  # keyword-only, and each is said once
        self,
        transport: Transport,
        *,
        host: str,
        folder: str,
        run_id: str,
        also_kill: str = "",
        prepare: str = "",
    ) -> None:
        """Take over a fresh control shell; ``folder`` is for our files on the host.

        ``also_kill`` has commands that kill what left a script's process group. ``prepare``
        has commands to begin with, which set ``_mb_problem`` to a key of ``_PROBLEMS`` if
        the host cannot be used. Raises HostUnavailable for that, HostLost if it went away.
        """
        self._transport = transport
        self._host = host
        self._plain_folder, self._folder = folder, shlex.quote(folder)
        self._run_id = run_id
        self._also_kill = also_kill
        nonce = secrets.token_hex(12)
        self._nonce = nonce
        self._framing = Framing(nonce.encode())
        self._heard_s = time.monotonic()
        self._asked_s: float | None = None
        self._killed = False
        self._ended = True
        self._send(
            f"_mb_problem=\n{prepare}"
            f'[ -n "$_mb_problem" ] || mkdir -p {self._folder}/home {self._folder}/tmp'  # noqa: S108 # in our folder
            " || _mb_problem=folder\ncommand -v bash >/dev/null 2>&1 || _mb_problem=bash\n"
            + _TOOLS
            + self._say("ready", '"$_mb_problem"')
        )
        if said := self._answer("ready", START_S):
            problem, remedy = _PROBLEMS[said]
            raise HostUnavailable(f"{host}: {problem.format(folder=folder)}.", remedy=remedy)

    def start(self, script: str) -> ShellConnection:
        """Start a script; see ``hosts.base.Connection``."""
        folder = self._plain_folder
        number = self._framing.begin()
        self._killed = self._ended = False
        mark = f"\\036{self._nonce}:{number}:mark:%s\\036"
        header = (
            f'printf "%s\\n" "$$" > {self._folder}/pid\n'
            "exec 200>&1 201>&2\n"
            "mark() { local _mb_status=$?; "
            f"printf '{mark}' \"$1\" >&200; printf '{mark}' \"$1\" >&201; "
            "return $_mb_status; }\n"
        )
        text = base64.encodebytes((header + script).encode()).decode()
        environment = " ".join(
            shlex.quote(f"{name}={value}")
            for name, value in (
                ("PATH", SYSTEM_PATH),
                ("HOME", f"{folder}/home"),
                ("TMPDIR", f"{folder}/tmp"),  # noqa: S108 # in our folder
                ("LANG", "C.UTF-8"),
                ("MANUALBUILD_RUN_ID", f"{self._run_id}/{self._host}"),
            )
        )
        exit_marker = f"printf '\\036{self._nonce}:{number}:exit:%s\\036' \"$_mb_status\""
        self._send(
            f"base64 $_mb_d > {self._folder}/script <<'{self._nonce}'\n{text}{self._nonce}\n"
            # Half a script, on a disk that is full, must not run.
            f"if [ $? = 0 ]; then {{ _mb_new env -i {environment} bash {self._folder}/script"
            f" </dev/null; _mb_status=$?; {exit_marker}; {exit_marker} >&2; }} &\n"
            "else " + self._say("unwritten", "yes") + "fi\n"
        )
        return self

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next event; see ``hosts.base.Running``."""
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._framing.next()
            if isinstance(event, Exit):
                self._ended = True
            if event is not None:
                return event
            if "unwritten" in self._framing.answers:
                raise self._lost("files cannot be written on it; is its disk full?")
            if self._killed and not self._ended:
                self._ended = True
                return Exit(status=KILLED)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._receive(min(left_s, 1.0))

    def kill(self) -> None:
        """Kill the script inside the host; see ``hosts.base.Running``."""
        self._framing.answers.pop("killed", None)
        self._send(
            f'read -r _mb_pid < {self._folder}/pid && kill -9 -- "-$_mb_pid" 2>/dev/null\n'
            + self._also_kill
            + self._say("killed", "yes")
        )
        self._answer("killed", SILENCE_S)
        self._killed = True

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a short script to its end; see ``hosts.base.Connection``."""
        deadline = time.monotonic() + timeout_s
        running = self.start(script)
        output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        while (left_s := deadline - time.monotonic()) > 0:
            event = running.next_event(left_s)
            if isinstance(event, Output):
                output[event.stream] += event.data
            elif isinstance(event, Exit):
                return CommandResult(
                    exit_status=event.status,
                    stdout=bytes(output["stdout"]),
                    stderr=bytes(output["stderr"]),
                )
        raise self._lost(f"it did not finish a small script within {timeout_s:g} s")

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files below a folder of the host; see ``hosts.base.Connection``."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            root = tarfile.TarInfo(folder.strip("/"))
            root.type, root.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(root)
            for name, data in sorted(files.items()):
                member = tarfile.TarInfo(f"{root.name}/{name}")
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
        text = base64.encodebytes(packed.getvalue()).decode()
        self._framing.answers.pop("put", None)
        self._send(
            f"base64 $_mb_d <<'{self._nonce}' | tar xof - -C /\n{text}{self._nonce}\n"
            + self._say("put", "$?")
        )
        if self._answer("put", PUT_S) != "0":
            raise self._lost("files cannot be written on it; is its disk full?")

    def has_folders(self, paths: Sequence[str]) -> bool:
        """Say whether all of these folders are on the host."""
        tests = " && ".join(["true", *(f"[ -d {shlex.quote(path)} ]" for path in paths)])
        self._framing.answers.pop("folders", None)
        self._send(f"{tests}\n" + self._say("folders", "$?"))
        return self._answer("folders", START_S) == "0"

    def _say(self, kind: str, text: str) -> str:
        return f"printf '\\036{self._nonce}:0:{kind}:%s\\036' {text}\n"

    def _answer(self, kind: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while kind not in self._framing.answers:
            if time.monotonic() > deadline:
                raise self._lost(f"it did not answer within {timeout_s:g} s")
            self._receive(0.5)
            if kind not in self._framing.answers:
                self._drop_output()
        return self._framing.answers.pop(kind)

    def _drop_output(self) -> None:
        # While an answer is awaited nobody takes events; output must not pile up.
        if self._ended:
            while isinstance(self._framing.next(), Output):
                pass

    def _receive(self, timeout_s: float) -> None:
        try:
            chunks = self._transport.receive(timeout_s)
        except (EOFError, OSError) as error:
            raise self._lost("the connection to it ended") from error
        now_s = time.monotonic()
        for stream, data in chunks:
            self._framing.feed(stream, data)
        if chunks:
            self._heard_s, self._asked_s = now_s, None
        elif self._asked_s is None:
            if now_s - self._heard_s > HEARTBEAT_S:
                self._asked_s = now_s
                self._send(self._say("pong", "yes"))
        elif now_s - self._asked_s > SILENCE_S:
            raise self._lost(f"it gave no sign of life for {HEARTBEAT_S + SILENCE_S:g} s")

    def _send(self, text: str) -> None:
        try:
            self._transport.send(text.encode())
        except OSError as error:
            raise self._lost("the connection to it ended") from error

    def _lost(self, how: str) -> HostLost:
        return HostLost(
            f"{self._host}: the host was lost: {how}. {self._transport.lost()}".rstrip(),
            remedy="Look at the host and run again; this says nothing about the package.",
        )
