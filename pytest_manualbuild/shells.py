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
from dataclasses import dataclass, field
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
_MOST_MARKER = 4000  # below PIPE_BUF, so that a marker is written in one piece
_MARKER = re.compile(rb"\x1e([0-9a-f]{24}):([a-z]+):([^\x1e]*)\x1e")
_BEGINNING = re.compile(rb"\x1e[0-9a-f]{0,24}|\x1e[0-9a-f]{24}:[^\x1e]*")
_ANSWERS = frozenset({"bash", "folders", "killed", "pong", "put"})
# Names of what runs beside process 1, the control shell and its latest job. Zombies are nothing.
_LEFT = """\
_mb_count=0
for _mb_p in /proc/[0-9]*; do
  _mb_p=${_mb_p#/proc/}
  case $_mb_p in 1|$$|$!) continue;; esac
  { read -r _mb_stat </proc/$_mb_p/stat; } 2>/dev/null || continue
  case ${_mb_stat##*\\) } in Z*|X*) continue;; esac
  _mb_name=${_mb_stat#*\\(}
  _mb_count=$((_mb_count + 1))
  [ $_mb_count -gt 20 ] || _mb_left=$_mb_left/${_mb_name%\\)*}
done
[ $_mb_count -le 20 ] || _mb_left="$_mb_left/and $((_mb_count - 20)) more"
"""
_ALONE_S = 1.0
_MOST_BEHIND = 4 * 1024 * 1024
READ_SCRIPT = (
    'exec 9<&0 </dev/null; _mb_text=$(</dev/fd/9); exec 9<&-; eval "unset _mb_text; $_mb_text"'
)
"""What bash is given with ``-c`` to run the script on its standard input. All of it is read before
its first line runs, so that no file, no pipe and no list of processes shows the words in it."""

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
    """Takes markers out of two streams, and puts events of both into one order.

    A marker is ``RS NONCE:KIND:TEXT RS``. What a nonce may say is fixed: the connection's is
    known to the control shell alone and says answers; each script has two more, one for its
    marks, and one for its exit that it never sees. With anything else a marker is output.
    """

    def __init__(self) -> None:
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

    def begin(self) -> tuple[str, str]:
        """Forget what came before; return the nonces of the next script's marks and exit."""
        for queue in self._queue.values():
            queue.clear()
        self._behind = 0
        self.group = None
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
        data = self._rest[stream] + data
        position = 0
        for found in _MARKER.finditer(data):
            may_say = self._may_say.get(found[1])
            if may_say is None:
                continue
            self._output(stream, data[position : found.start()])
            position = found.end()
            kind = found[2].decode()
            if kind in may_say:
                self._said(stream, kind, found[3].decode(errors="replace"))
        data = data[position:]
        keep = _unfinished(data)
        self._rest[stream] = data[len(data) - keep :]
        self._output(stream, data[: len(data) - keep])

    def _output(self, stream: Stream, data: bytes) -> None:
        if data:
            self._queue[stream].append(data)
            self._behind += len(data)

    def _said(self, stream: Stream, kind: str, text: str) -> None:
        if kind in ("mark", "exit"):
            self._queue[stream].append(_Marker(kind, text, time.monotonic()))
        elif kind == "group":
            # The first one was sent before the script's own text; another is a lie.
            if self.group is None and text.isdigit():
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
        waits = [queue for queue in (out, err) if queue]
        if not waits:
            return None
        oldest = min(waits, key=lambda queue: queue[0].came_s)
        late = time.monotonic() - oldest[0].came_s > _ALONE_S or self._behind > _MOST_BEHIND
        return oldest.popleft() if late else None


@dataclass(frozen=True)
class _Marker:
    kind: str
    text: str
    came_s: float = field(compare=False)


def _new_nonce() -> str:
    return secrets.token_hex(12)


def _unfinished(data: bytes) -> int:
    """Return how many bytes at the end may be the beginning of a marker."""
    at = data.rfind(b"\x1e")
    if at < 0 or len(data) - at > _MOST_MARKER:
        return 0
    return len(data) - at if _BEGINNING.fullmatch(data, at) else 0


class ShellConnection:
    """A connection over a control shell; ``Running`` as well, since one script runs at a time."""

    def __init__(
        self, transport: Transport, *, host: str, folder: str, run_id: str, kill_all: bool
    ) -> None:
        """Take over a fresh control shell; ``folder`` is for our files on the host.

        ``kill_all`` says that every process of the host is ours (a container), so that
        killing a script can take those along that left its process group.
        """
        self._transport = transport
        self._host = host
        self._plain_folder, self._folder = folder, shlex.quote(folder)
        self._run_id = run_id
        self._kill_all = kill_all
        self._framing = Framing()
        self._nonce = self._framing.nonce
        self._heard_s = time.monotonic()
        self._asked_s: float | None = None
        self._killed = False
        self._ended = True
        self._send(
            f"mkdir -p {self._folder}/home {self._folder}/tmp\n"  # noqa: S108 # in our folder
            "command -v bash >/dev/null 2>&1\n" + self._say("bash", "$?")
        )
        if self._answer("bash", START_S) != "0":
            raise HostUnavailable(
                f"{host}: it has no bash, and recipes' tests need one.",
                remedy="Install bash on that host.",
            )

    def start(self, script: str) -> ShellConnection:
        """Start a script; see ``hosts.base.Connection``."""
        folder = self._plain_folder
        mark_nonce, exit_nonce = self._framing.begin()
        self._killed = self._ended = False
        mark = f"\\036{mark_nonce}:mark:%s\\036"
        header = (
            f"printf '\\036{mark_nonce}:group:%s\\036' $$\n"
            "exec 200>&1 201>&2\n"
            "mark() { local _mb_status=$?; "
            f"builtin printf '{mark}' \"$1\" >&200; builtin printf '{mark}' \"$1\" >&201; "
            "return $_mb_status; } 2>/dev/null\n"
        )
        text = base64.encodebytes((header + script).encode(errors="surrogateescape")).decode()
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
        exit_marker = f"printf '\\036{exit_nonce}:exit:%s\\036' \"$_mb_status\""
        self._send(
            "_mb_setsid=; command -v setsid >/dev/null 2>&1 && _mb_setsid=setsid\n"
            f"{{ base64 -d <<'{exit_nonce}' |"
            f" $_mb_setsid env -i {environment} bash -c {shlex.quote(READ_SCRIPT)} bash\n"
            f"{text}{exit_nonce}\n"
            f"_mb_status=$?; {exit_marker}; {exit_marker} >&2; }} &\n"
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
            if self._killed and not self._ended:
                self._ended = True
                return Exit(status=KILLED)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            self._receive(min(left_s, 1.0))

    def kill(self) -> tuple[str, ...]:
        """Kill the script inside the host; see ``hosts.base.Running``."""
        names = self._kill()
        self._killed = True
        return names

    def settle(self) -> tuple[str, ...]:
        """Kill what scripts left behind; see ``hosts.base.Connection``."""
        found = names = self._kill()
        deadline = time.monotonic() + SILENCE_S
        while found:
            if time.monotonic() > deadline:
                raise self._lost(f"these of its processes cannot be killed: {', '.join(found)}")
            found = self._kill()
        return names

    def _kill(self) -> tuple[str, ...]:
        """Kill every process of the scripts; return the names of those that were there."""
        group = self._framing.group  # not from a file on the host, which a test could rewrite
        # One call of the kernel's: none escapes by forking meanwhile. It spares process 1 and us.
        everything = f"{_LEFT}kill -9 -1 2>/dev/null\n" if self._kill_all else ""
        self._framing.answers.pop("killed", None)
        self._send(
            f"_mb_left=\n{everything}"
            + (f"kill -9 -- -{group} 2>/dev/null\n" if group is not None and group > 1 else "")
            + self._say("killed", '"$_mb_left"')
        )
        said = self._answer("killed", SILENCE_S)
        return tuple(name for name in said.split("/") if name)

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
            f"base64 -d <<'{self._nonce}' | tar xof - -C /\n{text}{self._nonce}\n"
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
        return f"printf '\\036{self._nonce}:{kind}:%s\\036' {text}\n"

    def _answer(self, kind: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while kind not in self._framing.answers:
            if time.monotonic() > deadline:
                raise self._lost(f"it did not answer within {timeout_s:g} s")
            self._receive(0.5)
            # Nobody takes events meanwhile, and output must not pile up.
            while self._framing.next() is not None:
                pass
        return self._framing.answers.pop(kind)

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
