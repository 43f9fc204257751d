"""Hosts of kind ``ssh``: machines that are up, reached by one connection of the OpenSSH client.

A control shell lives in the first session of the connection; environments go
through a second one, each as one compressed archive. When the connection ends
in any way, the shell over there reads end of file, kills the tests and removes
the folder that they were in; what a cut line leaves is swept by a later run.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from pytest_manualbuild import shells
from pytest_manualbuild.errors import (
    EnvironmentBroken,
    HostError,
    HostLost,
    HostUnavailable,
    during,
)
from pytest_manualbuild.hosts import facts, kept, ssh_cmd
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.delivery import LAST, send
from pytest_manualbuild.hosts.kept import Call, Kept
from pytest_manualbuild.hosts.openssh import CONNECT_S, environment, got_in
from pytest_manualbuild.hosts.pipes import PipeTransport
from pytest_manualbuild.hosts.reached import (
    BASE,
    below,
    client_for,
    own_folder,
    recorded,
    same_folder,
    written,
)
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Facts, Host
from pytest_manualbuild.patience import patient
from pytest_manualbuild.records import LinkedEnvironment

_END_S = 20.0
_SWEEP_S = 60.0
# Without /proc nothing shows the environment of other processes: those of a group are killed.
_KILL_MARKED = """\
_mb_kill_marked() {{
  for _mb_p in /proc/[0-9]*; do
    _mb_e=$({{ tr '\\0' '\\n' < "$_mb_p/environ"; }} 2>/dev/null)
    case "
$_mb_e
" in *{mark}*)
      read -r _mb_n 2>/dev/null < "$_mb_p/comm" || continue
      kill -9 "${{_mb_p#/proc/}}" 2>/dev/null && _mb_left=$_mb_left/$_mb_n ;;
    esac
  done
}}
"""
_PREPARE = """\
umask 022
if ( umask 077 && mkdir {folder} ) 2>/dev/null; then
  if echo {run_id} > {folder}/owner; then :; else _mb_problem=folder; fi
  printf '#!/bin/sh\\nexit 0\\n' > {folder}/try && chmod 700 {folder}/try
  {folder}/try 2>/dev/null || _mb_problem=${{_mb_problem:-noexec}}
  _mb_clean() {{
    cd /; trap - EXIT
    [ -z "$_mb_group" ] || kill -9 "-$_mb_group"
    _mb_kill_marked; _mb_kill_marked
    rm -rf {folder} && exit 0
    exit 9
  }}
  trap '_mb_clean 2>/dev/null' EXIT
  trap 'exit 9' HUP INT TERM PIPE
elif [ -e {folder}/kept ] && [ "$(cat {folder}/owner)" = {run_id} ]; then
  trap '{{ [ -z "$_mb_group" ] || kill -9 "-$_mb_group"; _mb_kill_marked; }} 2>/dev/null' EXIT
elif [ -e {folder} ]; then _mb_problem=taken; else _mb_problem=folder; fi
"""
# What people and other packages of the run see of the folder from now on, it goes on to hold.
_KEEP = """\
touch {folder}/kept && _mb_kill_marked && trap - EXIT HUP INT TERM PIPE
"""
_SWEEP = """\
_mb_kill_marked; _mb_kill_marked
if [ "$(cat {folder}/owner 2>/dev/null)" = {run_id} ]; then rm -rf {folder} && echo removed
else rmdir {folder} 2>/dev/null; fi
exit 0
"""
_UNPACK = """\
PATH={path}
umask 022
mkdir -p {prefix} && {unpacker} -dc | tar xof - -C {prefix}
"""


class SshProvider:
    """Makes a machine that is up a host, for as long as a connection to it lasts."""

    def probe(self, host: Host, run: Run, progress: Progress) -> Facts:
        """Return what the machine says of itself, and the key that its server proved to have."""
        progress("connecting")
        if host.shell == "cmd":
            return ssh_cmd.probe(host, run)
        connection = SshConnection(host, run, own_folder(host, run))
        try:
            found = facts.ask(host.name, connection)
            processes = connection.has_folders(["/proc/self"])
        finally:
            connection.close()
        notes = [*found.notes]
        if not host.network:
            notes.append("the network is not cut off on that machine")
        if not processes:
            notes.append("a process that leaves its group survives the end of its check")
        return replace(found, host_key=connection.host_key, notes=tuple(notes))

    def placement(self, host: Host, run: Run, package_sha256: str) -> Placement:
        """Place environments in a folder that is the same in each run: they are linked once."""
        folder = below(host, same_folder(host, run), package_sha256[:8])
        return Placement(root=folder, folder=folder, in_place=False)

    def start(
        self,
        host: Host,
        run: Run,
        environments: Iterable[LinkedEnvironment],
        progress: Progress,
    ) -> SshConnection | ssh_cmd.CmdConnection:
        """Connect, and send each environment as one compressed archive."""
        progress("connecting")
        kind = ssh_cmd.CmdConnection if host.shell == "cmd" else SshConnection
        connection = kind(host, run, same_folder(host, run))
        try:
            with during("delivering"):
                for one in environments:
                    progress("sending the environment")
                    connection.deliver(one)
        except BaseException:
            connection.close()
            raise
        return connection

    def sweep(self, run: Run) -> list[str]:
        """Kill and remove what a run left on machines; raises HostError where one is away."""
        removed: list[str] = []
        away: HostError | None = None
        spared = kept.places(run.run_id)
        for entry in run.made("ssh"):
            try:
                if entry["folder"] in spared:
                    shutil.rmtree(entry["socket"], ignore_errors=True)
                else:
                    removed += sweep_one(run, entry)
            except HostError as error:
                away = error
        if away is not None:
            raise away
        return removed

    @contextlib.contextmanager
    def call(self, one: Kept, run: Run, words: Sequence[str], *, terminal: bool) -> Iterator[Call]:
        """Give a call of the client, with a connection of its own."""
        del run
        with tempfile.TemporaryDirectory(dir=BASE, prefix="mb-") as private:
            client = client_for(recorded(one.what), Path(private))
            argv = client.alone(shlex.join(words), terminal=terminal)
            yield Call(argv=tuple(argv), environment=environment())

    def remove(self, one: Kept, run: Run) -> list[str]:
        """Kill what people left in the kept folder and remove it."""
        del run
        host, folder = recorded(one.what), one.what["folder"]
        return [f"folder {folder} on {host.address}"] * _sweep(host, one.run_id, folder)


class SshConnection(shells.ShellConnection):
    """A control shell on a machine that is reached by ssh."""

    def __init__(self, host: Host, run: Run, folder: str) -> None:
        self._run, self._made = run, written(host, folder)
        self._socket = Path(self._made["socket"])
        self.host_key: str | None = None
        """Type and fingerprint of the key that the server proved to have."""
        run.expect(**self._made)
        self._socket.mkdir(mode=0o700)
        self._pipes: PipeTransport | None = None
        try:
            self._client = client_for(host, self._socket)
            shell = shlex.join(shells.CONTROL)
            call = self._client.first(shell, options=("-o", "ClearAllForwardings=yes"))
            self._pipes = PipeTransport(call, environment())
            mark = shlex.quote(f"\nMANUALBUILD_RUN_ID={run.run_id}/{host.name}\n")
            values = {"folder": shlex.quote(folder), "run_id": run.run_id}
            super().__init__(
                self._pipes,
                host=host.name,
                folder=folder,
                run_id=run.run_id,
                also_kill="_mb_kill_marked; _mb_kill_marked\n",
                outlives=True,
                prepare=_KILL_MARKED.format(mark=mark) + _PREPARE.format(**values),
            )
            self.host_key = self._client.host_key()
        except HostLost as error:
            words = self._pipes.last_words() if self._pipes else ""
            reason = self._client.unreachable(host.name, words)
            if not got_in(self._socket):
                run.gone(**self._made)
            self.close()
            raise reason from error
        except HostUnavailable:
            if self._pipes is None:
                run.gone(**self._made)
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def deliver(self, one: LinkedEnvironment) -> None:
        """Send an environment to its prefix; EnvironmentBroken if it did not arrive whole."""
        zstd = self.run("command -v zstd", timeout_s=patient(shells.START_S)).exit_status == 0
        script = _UNPACK.format(
            path=shells.SYSTEM_PATH,
            prefix=shlex.quote(one.prefix),
            unpacker="zstd -q" if zstd else "gzip",
        )
        self.put(self._made["folder"], {"unpack": script.encode()})
        call = self._client.further("/bin/sh", shlex.quote(f"{self._made['folder']}/unpack"))
        status, words = send(call, environment(), Path(one.path), zstd=zstd)
        arrived = f"{one.prefix}/{LAST}"
        if status != 0 or not self.has_folders([arrived, f"{one.prefix}/conda-meta"]):
            raise EnvironmentBroken(
                f"{self._host}: the environment did not arrive whole: "
                f"{words.splitlines()[-1] if words else f'exit status {status}'}.",
                remedy="Is the host's disk full, or its line cut?",
            )
        self.run(f"rmdir {shlex.quote(arrived)}", timeout_s=patient(shells.START_S))

    def keep(self) -> dict[str, str]:
        """Have the control shell over there end without removing its folder."""
        folder = shlex.quote(self._made["folder"])
        self._send(_KEEP.format(folder=folder) + self._say("kept", "$?"))
        if self._answer("kept", patient(shells.START_S)) != "0":
            raise self._lost("its folder cannot be kept (is its disk full?)")
        made = {**self._made, "place": self._made["folder"]}
        self.close()
        return made

    def close(self) -> None:
        """Let the control shell over there end what runs and remove its folder."""
        if self._pipes is not None:
            ended = self._pipes.hang_up(patient(_END_S))
            if ended and self._pipes.process.returncode == 0:
                self._run.gone(**self._made)
            self._pipes.close()
            self._pipes = None
        shutil.rmtree(self._socket, ignore_errors=True)


def sweep_one(run: Run, entry: dict[str, str]) -> list[str]:
    """Remove what one connection left; raises HostUnavailable where its machine is away."""
    private = Path(entry["socket"])
    entered = got_in(private)
    shutil.rmtree(private, ignore_errors=True)
    host = recorded(entry)
    found = entered and (ssh_cmd.sweep if host.shell == "cmd" else _sweep)(
        host, run.run_id, entry["folder"]
    )
    run.gone(**entry)
    return [f"folder {entry['folder']} on {host.address}"] if found else []


def _sweep(host: Host, run_id: str, folder: str) -> bool:
    """Kill and remove what a run left on one machine; say whether its folder was there."""
    mark = shlex.quote(f"\nMANUALBUILD_RUN_ID={run_id}/{host.name}\n")
    script = _KILL_MARKED.format(mark=mark) + _SWEEP.format(
        folder=shlex.quote(folder), run_id=run_id
    )
    with tempfile.TemporaryDirectory(dir=BASE, prefix="mb-") as private:
        client = client_for(host, Path(private))
        try:
            done = subprocess.run(
                client.first("/bin/sh", options=("-o", f"ConnectTimeout={CONNECT_S // 3}")),
                input=script.encode(),
                capture_output=True,
                env=environment(),
                start_new_session=True,
                timeout=_SWEEP_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise client.unreachable(host.name, str(error)) from error
        if done.returncode != 0:
            raise client.unreachable(host.name)
    return b"removed" in done.stdout


PROVIDER = SshProvider()
