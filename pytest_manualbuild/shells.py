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
import shlex
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pytest_manualbuild.errors import HostLost, HostUnavailable
from pytest_manualbuild.framing import Framing, Stream
from pytest_manualbuild.hosts.base import CommandResult, Event, Exit, Running, collect
from pytest_manualbuild.patience import patient

HEARTBEAT_S = 5.0
"""Silence after which the control shell is asked for a sign of life."""
SILENCE_S = 15.0
"""How long that sign may take; after it the host counts as lost."""
START_S = 60.0
PUT_S = 300.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTROL = ("/bin/sh", "-c", f"PATH={SYSTEM_PATH}; exec env -i /bin/sh")
"""The words that start a control shell: with nothing of what is in the environment there.

Nor does a ``PATH`` there keep it from starting, which would look like a host that was lost.
"""
KILLED = 137
KILL_ALL = """\
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
kill -9 -1 2>/dev/null
"""
"""Commands that kill every process of a host whose processes are all ours, and name them.

They leave process 1, the control shell and its latest job; zombies are nothing. The kernel kills
all in one call, so that none escapes by forking meanwhile.
"""
MARK = "_mb_define"
"""The variable, which is not exported, with the definition of ``mark`` in a script that runs."""
_LITTLE = 16 * 1024
_TOGETHER_S = 0.003
"""Where a script says little at once, so much is waited for more: to be woken costs more than to
read, and what it says waits for nobody."""
_SMALL = 2048
"""Bytes of files up to which the control shell writes them itself; tar and base64 take longer."""
_WHOLE = "#whole"
READ_SCRIPT = (
    # The second way is slow, for systems that have no such files: it takes a character at a time.
    "exec 9<&0 </dev/null; if [ -e /dev/fd/9 ]; then _mb_text=$(</dev/fd/9);"
    " else IFS= read -r -d '' _mb_text <&9 || :; fi; exec 9<&-;"
    f' [ "${{_mb_text: -{len(_WHOLE)}}}" = "{_WHOLE}" ]'
    f' && eval "unset _mb_text; ${{_mb_text%{_WHOLE}}}"'
)
"""What bash is given, with ``-c`` or as a file, to run the ``whole`` script on its standard input.

All of it is read before its first line runs, so that no file, no pipe and no list of processes
shows the words in it, and so that half a script, from a host whose disk is full, does not
run at all.
"""
_BEGIN = f"unset LC_ALL; {READ_SCRIPT}"
"""The same for what the control shell starts: until there, no program had to load a locale."""
# What some shells run in the background ignores INT and QUIT, and so does all that it starts; tests
# must not, and no shell can undo it.
# Systems without setsid (macOS) have a bash that gives a job a process group; some take only -D.
# A busybox may name programs that it then cannot start, so they are tried.
# A program apart is not the leader of its process group, of which `setsid` makes no new one without
# a fork, and it alone has the first word as its PATH: none of these may be looked for there.
_TOOLS = """\
if env --default-signal=INT,QUIT true >/dev/null 2>&1; then
  _mb_heed() { exec env --default-signal=INT,QUIT "$@"; }
elif perl -e 1 >/dev/null 2>&1; then
  _mb_heed() { exec perl -e '$SIG{INT} = $SIG{QUIT} = "DEFAULT"; exec @ARGV' "$@"; }
else _mb_heed() { exec "$@"; }; fi
if setsid true >/dev/null 2>&1; then _mb_new() { _mb_heed setsid "$@"; }
else _mb_new() { _mb_heed bash -c 'set -m; "$@" & wait $! 2>/dev/null' - "$@"; }; fi
_mb_apart() { _mb_path=$1; shift; _mb_new /bin/sh -c 'PATH=$0 "$@"; exit $?' "$_mb_path" "$@"; }
if [ "$(echo QQ== | base64 -d 2>/dev/null)" = A ]; then _mb_d=-d; else _mb_d=-D; fi
"""
_ODD = re.compile(r"[^ -~\n]|['\\]")
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


def whole(script: str) -> str:
    """Return a script as ``READ_SCRIPT`` wants it: with a sign at its end that it is all there."""
    return f"{script}{_WHOLE}"


def as_format(data: bytes) -> str:
    """Return bytes as a quoted format of ``printf``: printable ASCII, whatever they are.

    The control shell's own printf writes it, where a decoder would be one more process.
    """
    # Some make a percent sign of its number first, and then read it as one.
    text = data.decode("latin-1").replace("%", "%%")
    return "'" + _ODD.sub(lambda odd: f"\\{ord(odd[0]):03o}", text) + "'"


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
        outlives: bool = False,
    ) -> None:
        """Take over a fresh control shell; ``folder`` is for our files on the host.

        Its environment is empty (``CONTROL``), as whatever it runs begins with what it exports.
        ``also_kill`` has commands that kill what left a script's process group, and may name it
        in ``_mb_left``, each name after a slash. ``prepare`` has commands to begin with, which set
        ``_mb_problem`` to a key of ``_PROBLEMS`` if the host cannot be used. A shell that
        ``outlives`` us finds the process group of the script in ``_mb_group``, to clean up.
        Raises HostUnavailable for a host that cannot be used, HostLost if it went away.
        """
        self._transport = transport
        self._host = host
        self._plain_folder, self._folder = folder, shlex.quote(folder)
        self._run_id = run_id
        self._also_kill = also_kill
        self._framing = Framing()
        self._nonce = self._framing.nonce
        self._heard_s = time.monotonic()
        self._asked_s: float | None = None
        self._killed = False
        self._ended = True
        self._is_job = False
        """Whether what runs has a process group of its own, and says so before anything else."""
        self._outlives = outlives
        self._known_group: int | None = None
        self._send(
            # A bash that is called sh has some of its own.
            f"unset OLDPWD SHLVL\nexport {self._exports()}\n_mb_problem=\n{prepare}"
            f'[ -n "$_mb_problem" ] || mkdir -p {self._folder}/home {self._folder}/tmp'  # noqa: S108 # in our folder
            " || _mb_problem=folder\ncommand -v bash >/dev/null 2>&1 || _mb_problem=bash\n"
            'export CPU_COUNT="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"\n'
            + _TOOLS
            + self._say("ready", '"$_mb_problem"')
        )
        if said := self._answer("ready", patient(START_S)):
            problem, remedy = _PROBLEMS[said]
            raise HostUnavailable(f"{host}: {problem.format(folder=folder)}.", remedy=remedy)

    @property
    def shell(self) -> Literal["sh", "cmd"]:
        """What scripts are written for; see ``hosts.base.Connection``."""
        return "sh"

    def marker(self, text: str) -> str:
        """Scripts of bash have a function instead; see ``hosts.base.Connection``."""
        raise NotImplementedError(text)

    def start(self, script: str, *, plain: bool = False) -> ShellConnection:
        """Start a script; see ``hosts.base.Connection``."""
        mark_nonce, exit_nonce = self._framing.begin()
        self._killed = self._ended = False
        self._is_job = True
        mark = f"\\036{mark_nonce}:mark:%s\\036"
        define = (
            "mark() { local _mb_status=$?; "
            f"builtin printf '{mark}' \"$1\" >&200; builtin printf '{mark}' \"$1\" >&201; "
            "return $_mb_status; } 2>/dev/null\n"
        )
        # That of a plain script's bash is named after who started it (`_mb_apart`).
        leader = "$PPID" if plain else "$$"
        apart = f"printf '\\036{mark_nonce}:group:%s\\036' {leader}\nexec 200>&1 201>&2\n"
        exit_marker = self._exit_marker(exit_nonce)
        ends = f"_mb_status=$?; {exit_marker}; {exit_marker} >&2"
        if plain:
            self._send(
                f"{{ trap {shlex.quote(ends)} EXIT\n"
                f"mark() {{ printf '{mark}' \"$1\"; printf '{mark}' \"$1\" >&2; }}\n"
                f"{MARK}={shlex.quote(f'{define}{apart}')}\n{script}\n}} </dev/null &\n"
            )
            return self
        header = f"{apart}readonly {MARK}={shlex.quote(define)}\n{define}"
        text = as_format(whole(f"{header}{script}\n").encode(errors="surrogateescape"))
        self._send(
            f"{{ printf {text} |"
            f" ( LC_ALL=C; export LC_ALL; _mb_new bash -c {shlex.quote(_BEGIN)} bash )\n"
            f"{ends}; }} &\n"
        )
        return self

    @staticmethod
    def _exit_marker(nonce: str) -> str:
        return f"printf '\\036{nonce}:exit:%s\\036' \"$_mb_status\""

    def _exports(self) -> str:
        """Return assignments of the variables, as shells take them."""
        return " ".join(
            f"{name}={shlex.quote(value)}" for name, value in self.environment().items()
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that every script begins with, beside the host's CPU_COUNT."""
        folder = self._plain_folder
        return {
            "PATH": SYSTEM_PATH,
            "HOME": f"{folder}/home",
            "TMPDIR": f"{folder}/tmp",  # noqa: S108 # in our folder
            "LANG": "C.UTF-8",
            "MANUALBUILD_RUN_ID": f"{self._run_id}/{self._host}",
        }

    def next_event(self, timeout_s: float) -> Event | None:
        """Return the next event; see ``hosts.base.Running``."""
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._framing.next()
            if isinstance(event, Exit):
                self._ended = True
                if self._is_job and self._framing.group is None and not self._killed:
                    raise self._lost("our script did not reach it whole (is its disk full?)")
            if event is not None:
                return event
            if self._killed and not self._ended:
                self._ended = True
                return Exit(status=KILLED)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            size = self._receive(min(left_s, 1.0))
            if 0 < size < _LITTLE and not self._framing.exited:
                time.sleep(_TOGETHER_S)

    def assure_alive(self) -> None:
        """Wait for a sign of life; see ``hosts.base.Running``."""
        self._framing.answers.pop("pong", None)
        self._send(self._say("pong", "yes"))
        self._await("pong", patient(SILENCE_S))

    def kill(self) -> tuple[str, ...]:
        """Kill the script inside the host; see ``hosts.base.Running``."""
        names = self._kill()
        self._killed = True
        return names

    def settle(self) -> tuple[str, ...]:
        """Kill what scripts left behind; see ``hosts.base.Connection``."""
        found = names = self._kill()
        deadline = time.monotonic() + patient(SILENCE_S)
        while found:
            if time.monotonic() > deadline:
                raise self._lost(f"these of its processes cannot be killed: {', '.join(found)}")
            found = self._kill()
        return names

    def _kill(self) -> tuple[str, ...]:
        """Kill every process of the scripts; return the names of those that were there."""
        group = self._framing.group  # not from a file on the host, which a test could rewrite
        self._framing.answers.pop("killed", None)
        self._send(
            f"_mb_left=\n{self._also_kill}"
            + (f"kill -9 -{group} 2>/dev/null\n" if group is not None else "")
            + self._say("killed", '"$_mb_left"')
        )
        said = self._answer("killed", patient(SILENCE_S))
        return tuple(name for name in said.split("/") if name)

    def run(self, script: str, *, timeout_s: float) -> CommandResult:
        """Run a short script to its end; see ``hosts.base.Connection``."""
        return self._to_its_end(self.start(script), timeout_s)

    def look(self, script: str, *, timeout_s: float) -> bytes:
        """Return what a short script prints; see ``hosts.base.Connection``."""
        _, exit_nonce = self._framing.begin()
        self._killed = self._ended = False
        self._is_job = False
        exit_marker = self._exit_marker(exit_nonce)
        ends = shlex.quote(f"_mb_status=$?; {exit_marker}; {exit_marker} >&2")
        # A copy of the control shell runs it, so that the shell itself can give signs of life.
        self._send(f"{{ trap {ends} EXIT\n{script}\n}} </dev/null &\n")
        return self._to_its_end(self, timeout_s).stdout

    def _to_its_end(self, running: Running, timeout_s: float) -> CommandResult:
        done = collect(running, timeout_s)
        if done is None:
            raise self._lost(f"it did not finish a small script within {timeout_s:g} s")
        return done

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files below a folder of the host; see ``hosts.base.Connection``."""
        nested = any("/" in name for name in files)
        large = sum(map(len, files.values())) > _SMALL
        self._write((self._unpacking if nested or large else self._writing)(folder, files), "files")

    def make(self, folders: Sequence[str]) -> None:
        """Make folders of the host; see ``hosts.base.Connection``."""
        self._write(f"mkdir -p {' '.join(map(shlex.quote, folders))}\n", "folders")

    def _write(self, commands: str, what: str) -> None:
        self._framing.answers.pop("put", None)
        self._send(commands + self._say("put", "$?"))
        if self._answer("put", patient(PUT_S)) != "0":
            raise self._lost(f"{what} cannot be written on it (is its disk full?)")

    def _writing(self, folder: str, files: Mapping[str, bytes]) -> str:
        """Return commands that need no process where the folder is there and the files are not."""
        place = shlex.quote(folder)
        commands = [f"{{ [ -d {place} ] || mkdir -p {place}; }}"]
        for name, data in sorted(files.items()):
            path = shlex.quote(f"{folder}/{name}")
            # What is there may be a link to what is not ours.
            commands.append(f"{{ [ ! -e {path} ] && [ ! -L {path} ] || rm -rf {path}; }}")
            commands.append(f"printf -- {as_format(data)} >{path}")
        return " && ".join(commands) + "\n"

    def _unpacking(self, folder: str, files: Mapping[str, bytes]) -> str:
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
        return f"base64 $_mb_d <<'{self._nonce}' | tar xof - -C /\n{text}{self._nonce}\n"

    def has_folders(self, paths: Sequence[str]) -> bool:
        """Say whether all of these folders are on the host."""
        tests = " && ".join(["true", *(f"[ -d {shlex.quote(path)} ]" for path in paths)])
        self._framing.answers.pop("folders", None)
        self._send(f"{tests}\n" + self._say("folders", "$?"))
        return self._answer("folders", patient(START_S)) == "0"

    def _say(self, kind: str, text: str) -> str:
        return f"printf '\\036{self._nonce}:{kind}:%s\\036' {text}\n"

    def _answer(self, kind: str, timeout_s: float) -> str:
        """Return an answer of the control shell; nobody wants the events that come meanwhile."""
        return self._await(kind, timeout_s, drop=True)

    def _await(self, kind: str, timeout_s: float, *, drop: bool = False) -> str:
        deadline = time.monotonic() + timeout_s
        while kind not in self._framing.answers:
            if time.monotonic() > deadline:
                raise self._lost(f"it did not answer within {timeout_s:g} s")
            self._receive(0.5)
            while drop and self._framing.next() is not None:  # output must not pile up
                pass
        return self._framing.answers.pop(kind)

    def _receive(self, timeout_s: float) -> int:
        """Take what comes within that time; return how many bytes that were."""
        try:
            chunks = self._transport.receive(timeout_s)
        except (EOFError, OSError) as error:
            raise self._lost("the connection to it ended") from error
        now_s = time.monotonic()
        for stream, data in chunks:
            self._framing.feed(stream, data)
        if self._outlives and self._framing.group != self._known_group:
            self._known_group = self._framing.group
            self._send(f"_mb_group={self._known_group or ''}\n")
        if chunks:
            self._heard_s, self._asked_s = now_s, None
        elif self._asked_s is None:
            if now_s - self._heard_s > HEARTBEAT_S:
                self._asked_s = now_s
                self._send(self._say("pong", "yes"))
        elif now_s - self._asked_s > (silence_s := patient(SILENCE_S)):
            raise self._lost(f"it gave no sign of life for {HEARTBEAT_S + silence_s:g} s")
        return sum(len(data) for _, data in chunks)

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
