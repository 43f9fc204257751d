"""Connections: what a script writes arrives unchanged, and what goes wrong is the host's doing."""

from __future__ import annotations

import gc
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import ROOT, quiet
from pytest_manualbuild import hosts, shells
from pytest_manualbuild.errors import HostLost, HostUnavailable
from pytest_manualbuild.framing import Framing
from pytest_manualbuild.hosts import docker as docker_hosts
from pytest_manualbuild.hosts import engines, kept
from pytest_manualbuild.hosts.attached import DockerTransport
from pytest_manualbuild.hosts.base import (
    Connection,
    Event,
    Exit,
    Mark,
    Output,
    Running,
    collect,
)
from pytest_manualbuild.hosts.docker import DockerConnection
from pytest_manualbuild.hosts.local import LocalConnection
from pytest_manualbuild.hosts.runs import Run, dead_runs
from pytest_manualbuild.hosts.ssh import SshConnection
from pytest_manualbuild.matrix import local_subdir
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

LONG_S = 60.0
LOCAL = Host(name="here", kind="local", subdir=local_subdir())
DEBIAN = Host(name="there", kind="docker", subdir="linux-64", image="manualbuild/debian-12:test")


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker), "rootfs", "ssh"])
def connection(request: pytest.FixtureRequest, run: Run) -> Iterator[Connection]:
    """A connection to a host of each kind."""
    if request.param == "docker":
        request.getfixturevalue("engine")
        host = DEBIAN
    elif request.param == "rootfs":
        root = str(request.getfixturevalue("rootfs"))
        host = Host(name="root", kind="rootfs", subdir="linux-64", root=root)
    elif request.param == "ssh":
        server = request.getfixturevalue("ssh_server")
        host = Host(name="far", kind="ssh", subdir="linux-64", address="127.0.0.1",
                    port=server.port, ssh_config=str(server.ssh_config))  # fmt: skip
    else:
        host = LOCAL
    made = hosts.provider(host.kind).start(host, run, [], quiet)
    yield made
    made.close()
    hosts.sweep(run)  # while the server is still up


def follow(connection: Connection, script: str) -> list[Event]:
    """Run a script and return its events, output of a stream joined between other events."""
    running = connection.start(script)
    events: list[Event] = []
    while not (events and isinstance(events[-1], Exit)):
        event = running.next_event(LONG_S)
        assert event is not None
        last = events[-1] if events else None
        if isinstance(event, Output) and isinstance(last, Output) and last.stream == event.stream:
            events[-1] = Output(stream=event.stream, data=last.data + event.data)
        else:
            events.append(event)
    return events


def printf(data: bytes) -> str:
    """Return a command that writes these bytes."""
    return "printf '" + "".join(f"\\{byte:03o}" for byte in data) + "'"


def test_both_streams_arrive_byte_for_byte(connection: Connection) -> None:
    data = bytes(range(256)) * 3 + b"\x1b[31m no newline at the end"

    done = connection.run(f"{printf(data)}; printf x >&2; exit 7", timeout_s=LONG_S)

    assert (done.exit_status, done.stdout, done.stderr) == (7, data, b"x")


def test_much_output_arrives_whole(connection: Connection) -> None:
    done = connection.run("head -c 50000000 /dev/zero; echo end", timeout_s=LONG_S)

    assert len(done.stdout) == 50_000_004
    assert done.stdout.endswith(b"\0end\n")


def test_marks_stand_between_the_output_before_and_after(connection: Connection) -> None:
    events = follow(connection, "echo 1; mark a; echo 2 >&2; echo 3; mark b; exit 3")

    assert [event for event in events if not isinstance(event, Output)] == [
        Mark(text="a"), Mark(text="b"), Exit(status=3)
    ]  # fmt: skip
    first = events.index(Mark(text="a"))
    assert events[:first] == [Output(stream="stdout", data=b"1\n")]
    middle = events[first + 1 : events.index(Mark(text="b"))]
    assert {(one.stream, one.data) for one in middle if isinstance(one, Output)} == {
        ("stdout", b"3\n"), ("stderr", b"2\n")
    }  # fmt: skip


def test_what_looks_like_a_marker_is_output(connection: Connection) -> None:
    fake = b"\x1e0123456789abcdef01234567:exit:0\x1e"

    done = connection.run(f"{printf(fake)}; exit 5", timeout_s=9)

    assert (done.exit_status, done.stdout) == (5, fake)


def test_no_process_and_no_file_shows_a_script_how_its_exit_is_told(connection: Connection) -> None:
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    spy = f"( {look}; declare -f; set; cat ~/../* 2>/dev/null )"

    seen = connection.run(f"{spy} | grep -oaE '[0-9a-f]{{24}}' | sort -u", timeout_s=LONG_S)

    nonces = seen.stdout.split()
    assert nonces  # that of its marks, which it may know
    forged = "".join(
        f"printf '\\036{one.decode()}:exit:0\\036' | tee /dev/stderr; " for one in nonces
    )
    assert connection.run(f"{forged} exit 5", timeout_s=LONG_S).exit_status == 5


@pytest.mark.parametrize("closed", ["200>&-", "201>&-", "201>/dev/null", "1>&- 2>&-"])
def test_marks_come_although_a_script_closes_a_stream(connection: Connection, closed: str) -> None:
    much = "head -c 20000000 /dev/zero"

    events = follow(connection, f"mark a; exec {closed}; mark b; {much}; mark c; exit 4")

    assert [event for event in events if not isinstance(event, Output)] == [
        Mark(text="a"), Mark(text="b"), Mark(text="c"), Exit(status=4)
    ]  # fmt: skip


def test_a_script_ended_when_both_streams_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_manualbuild.framing._ALONE_S", 0.0)
    framing = Framing()
    mark, ended = framing.begin()
    framing.feed("stderr", f"\x1e{ended}:exit:0\x1e".encode())
    framing.feed("stdout", f"\x1e{mark}:mark:a\x1e".encode())

    assert framing.next() == Mark(text="a")
    assert framing.next() is None

    framing.feed("stdout", f"more\x1e{ended}:exit:0\x1e".encode())
    assert [framing.next(), framing.next()] == [
        Output(stream="stdout", data=b"more"), Exit(status=0)
    ]  # fmt: skip

    _, ended = framing.begin()
    framing.feed("stderr", f"\x1e{ended}:exit:5\x1e".encode())
    framing.closed()
    assert framing.next() == Exit(status=5)


@pytest.mark.parametrize("known", [True, False])
def test_output_that_begins_like_a_marker_swallows_none(*, known: bool) -> None:
    framing = Framing()
    mark, ended = framing.begin()
    begun = f"\x1e{mark if known else 'a' * 24}:mark:x"

    for stream in ("stdout", "stderr"):
        framing.feed(stream, f"{begun}\x1e{ended}:exit:4\x1e".encode())

    events = []
    while (event := framing.next()) is not None:
        events.append(event)
    assert events[-1] == Exit(status=4)


def test_an_exit_that_one_stream_lost_counts_when_that_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_manualbuild.framing._ALONE_S", 0.0)
    framing = Framing()
    _, ended = framing.begin()
    framing.feed("stdout", f"\x1e{ended}:exit:0\x1e".encode())
    assert framing.next() is None

    monkeypatch.setattr("pytest_manualbuild.framing._EXIT_ALONE_S", 0.0)

    assert framing.next() == Exit(status=0)


def test_what_a_script_leaves_behind_is_killed_and_named(connection: Connection) -> None:
    connection.run("setsid sleep 60 & sleep 61 & sleep 0.3", timeout_s=LONG_S)

    left = connection.settle()

    assert [name.partition(" ")[0] for name in left] == ["sleep", "sleep"]
    assert connection.settle() == ()


def test_a_script_heeds_int_and_quit(connection: Connection) -> None:
    """What some shells run in the background ignores them, and what ignores one cannot trap it."""
    done = connection.run("grep SigIgn /proc/self/status", timeout_s=20)
    ignored = int(done.stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1)

    done = connection.run("trap 'exit 7' INT; kill -INT $$; sleep 5", timeout_s=20)
    assert done.exit_status == 7


def test_standard_input_is_at_its_end(connection: Connection) -> None:
    assert connection.run("cat; read -r x || echo over", timeout_s=9).stdout == b"over\n"


def test_nothing_of_the_caller_is_seen(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "canary")

    names = {
        line.partition(b"=")[0].decode()
        for line in connection.run("env -0 | tr '\\0' '\\n'", timeout_s=9).stdout.splitlines()
    }

    assert names <= {
        *("CPU_COUNT", "HOME", "LANG", "MANUALBUILD_RUN_ID", "OLDPWD", "PATH", "PWD", "SHLVL"),
        *("TMPDIR", "_"),
    }


def test_kill_takes_descendants_along_and_the_next_script_runs(connection: Connection) -> None:
    long = f"sleep 3{os.getpid()}"  # nobody else's
    running = connection.start(f"{long}.1 & setsid {long}.2 & mark up; {long}.3")
    while running.next_event(LONG_S) != Mark(text="up"):
        pass

    running.kill()

    while not isinstance(event := running.next_event(LONG_S), Exit):
        assert event is not None
    # What was killed may take a moment to be gone.
    look = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '{long}[.]'"
    left = connection.run(
        f"for i in $(seq 50); do n=$({look}); [ $n = 0 ] && break; sleep 0.1; done; echo $n",
        timeout_s=LONG_S,
    )
    assert left.stdout == b"0\n"


def test_files_arrive_as_they_are(connection: Connection, run: Run) -> None:
    data = os.urandom(300_000)
    ours = isinstance(connection, (LocalConnection, SshConnection))
    folder = f"{run.folder}/put here" if ours else "/put here"

    connection.put(folder, {"a/b c.bin": data, "empty": b""})

    done = connection.run(f"cd {shlex.quote(folder)} && sha256sum < 'a/b c.bin' && ls -s empty",
                          timeout_s=9)  # fmt: skip
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_file_takes_the_place_of_a_link_and_not_of_what_the_link_leads_to(
    connection: Connection, run: Run
) -> None:
    ours = isinstance(connection, (LocalConnection, SshConnection))
    folder = f"{run.folder}/put over" if ours else "/put over"
    data = b"-n %s \\ '" + bytes(range(256))
    connection.put(folder, {"kept": b"kept"})
    at = shlex.quote(folder)
    done = connection.run(f"cd {at} && ln -s kept soft && ln kept hard && ln -s /nowhere/x gone",
                          timeout_s=9)  # fmt: skip
    assert done.exit_status == 0

    connection.put(folder, {"soft": data, "hard": data, "gone": data})

    done = connection.run(f"cd {at} && cat kept && cat soft hard gone | sha256sum", timeout_s=9)
    assert done.stdout.split()[0] == b"kept" + hashlib.sha256(data * 3).hexdigest().encode()


def test_a_script_that_outlives_its_time_is_the_host_s_doing(connection: Connection) -> None:
    with pytest.raises(HostLost, match="did not finish"):
        connection.run("sleep 60", timeout_s=0.5)


@pytest.mark.usefixtures("impatient")
def test_a_control_shell_that_dies_is_a_lost_host(connection: Connection) -> None:
    # The script's parent is a subshell of the control shell.
    running = connection.start("read -r _ _ _ shell _ </proc/$PPID/stat; kill -9 $shell; sleep 60")

    # An ssh server waits for whoever still holds the session's output.
    with pytest.raises(HostLost, match=r"the connection to it ended|no sign of life"):
        collect(running, LONG_S)  # the user's login shell may have a word to say


def test_a_script_cannot_name_another_process_group_to_be_killed() -> None:
    framing = Framing()
    nonce = framing.begin()[0].encode()

    framing.feed("stdout", b"\x1e%b:group:4711\x1e" % nonce)
    framing.feed("stdout", b"\x1e%b:group:1\x1e" % nonce)

    assert framing.group == 4711


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 3))),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_framing_gives_back_what_was_framed(parts: list[bytes | int], sizes: list[int]) -> None:
    framing = Framing()
    nonce = framing.begin()[0].encode()
    stream, expected = b"", list[bytes | str]()
    for part in parts:
        if isinstance(part, bytes):
            stream += part
            expected.append(part)
        else:
            marker = b"\x1e%b:mark:m%d\x1e" % (nonce, part)
            stream += marker
            framing.feed("stderr", marker)
            expected.append(f"m{part}")
    found: list[bytes | str] = []
    position = 0
    for size in sizes * (len(stream) + 1):
        if position >= len(stream):
            break
        framing.feed("stdout", stream[position : position + size])
        position += size
    framing.feed("stdout", b"\x1e%b:mark:end\x1e" % nonce)
    framing.feed("stderr", b"\x1e%b:mark:end\x1e" % nonce)
    while (event := framing.next()) is not None:
        found.append(event.data if isinstance(event, Output) else str(getattr(event, "text", "")))

    assert found.pop() == "end"
    assert joined(found) == joined(expected)


def joined(parts: list[bytes | str]) -> list[bytes | str]:
    result: list[bytes | str] = []
    for part in parts:
        if isinstance(part, bytes) and result and isinstance(last := result[-1], bytes):
            result[-1] = last + part
        elif part != b"":
            result.append(part)
    return result


def test_a_dead_run_is_found_and_a_living_one_is_not() -> None:
    living, dead = Run.begin(), Run.begin()
    dead.unlock()

    found = [run for run in dead_runs() if run.run_id in {living.run_id, dead.run_id}]

    assert [run.run_id for run in found] == [dead.run_id]
    for run in (*found, living):
        run.forget()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_hosts_do_not_see_what_others_write_into_an_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "file").write_text("as linked")
    environment = LinkedEnvironment(path=str(tmp_path), prefix="/opt/manualbuild/e", packages=())
    provider = hosts.provider("docker")
    first, second = (provider.start(DEBIAN, run, [environment], quiet) for _ in "12")
    try:
        written = first.run("echo mine > /opt/manualbuild/e/file && rm -r /opt/manualbuild/e/c*",
                            timeout_s=9)  # fmt: skip
        seen = second.run("cat /opt/manualbuild/e/file; ls -d /opt/manualbuild/e/conda-meta",
                          timeout_s=9)  # fmt: skip
    finally:
        first.close()
        second.close()

    assert written.exit_status == 0
    assert seen.stdout == b"as linked/opt/manualbuild/e/conda-meta\n"
    assert (tmp_path / "file").read_text() == "as linked"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.parametrize("engine_url", ["unix:///nowhere.sock", "tcp://127.0.0.1:1"])
def test_an_engine_that_is_down_is_said_in_one_line(run: Run, engine_url: str) -> None:
    host = Host(name="a", kind="docker", subdir="linux-64", image="x", engine=engine_url)

    with pytest.raises(HostUnavailable, match="does not answer") as caught:
        hosts.provider("docker").probe(host, run, quiet)

    said = str(caught.value)
    del caught
    gc.collect()
    assert engine_url in said
    assert "\n" not in said


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_kept_container_with_a_shell_of_another_version_is_not_used_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = hosts.provider("docker")
    assert isinstance(provider, kept.Resumer)
    with monkeypatch.context() as patch:
        patch.setattr(shells, "CONTROL", ("/bin/sh",))  # with the environment of the image
        there = provider.start(DEBIAN, run, [], quiet)
    assert isinstance(there, DockerConnection)
    one = kept.Kept(
        run_id=run.run_id, name="there", host=DEBIAN, image_digest=None, at="", clean=True,
        environment={}, what={"place": there._id, "folder": ""}, sections=(),
    )  # fmt: skip

    with pytest.raises(HostUnavailable, match="there: another version"):
        provider.resume(one, DEBIAN, run, [], quiet)

    assert there.has_folders(["/"])
    there.close()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_container_reaches_itself_by_name_and_another_only_where_the_matrix_says_so(
    run: Run,
) -> None:
    look = (
        "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs\n"
        "getent ahosts localhost | cut -d' ' -f1 | grep -x 127.0.0.1 | uniq\n"
        "getent hosts ip6-loopback | cut -d' ' -f1\n"
        "getent hosts $(uname -n) >/dev/null && echo itself\n"
        "(: <>/dev/tcp/127.0.0.1/9) 2>&1 | grep -o refused | uniq\n"
    )
    provider = hosts.provider("docker")
    off, on = (
        provider.start(replace(DEBIAN, network=network), run, [], quiet)
        for network in (False, True)
    )

    without, with_it = (one.run(look, timeout_s=LONG_S).stdout.split() for one in (off, on))
    off.close()
    on.close()

    assert without == [b"lo", b"127.0.0.1", b"::1", b"itself", b"refused"]
    assert sorted(with_it[:2]) == [b"eth0", b"lo"]
    assert with_it[2:] == without[1:]


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_container_that_takes_no_words_any_more_is_removed_without_waiting_for_it(
    run: Run,
) -> None:
    there = hosts.provider("docker").start(DEBIAN, run, [], quiet)
    assert isinstance(there, DockerConnection)
    assert there._docker is not None
    place, stream = there._id, there._docker._socket
    client = engines.client(DEBIAN, run)
    client.api.pause(place)
    stream.settimeout(1)
    with pytest.raises(HostLost):
        there.put("/tmp/odd", {"odd": os.urandom(2_000_000)})
    stream.settimeout(LONG_S)
    began_s = time.monotonic()

    there.close()

    assert time.monotonic() - began_s < LONG_S / 2
    assert client.api.containers(all=True, filters={"id": place}) == []
    client.close()


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_container_that_the_engine_could_not_remove_by_itself_is_removed_once_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.keeps = True  # so that it does not end with its input
    there = hosts.provider("docker").start(DEBIAN, run, [], quiet)
    assert isinstance(there, DockerConnection)
    place = there._id
    failed = {"StatusCode": 0, "Error": {"Message": "device or resource busy"}}
    monkeypatch.setattr(DockerTransport, "end", lambda _: True)
    monkeypatch.setattr(there._client.api, "wait", lambda *_, **__: failed)

    there.close()

    client = engines.client(DEBIAN, run)
    left = client.api.containers(all=True, filters={"id": place})
    client.close()
    assert left == []


_STARTS_APART = r"""mark one
{ printf '%s\n' "$_mb_define"; printf '
mark two
read -r _ _ _ _ group session _ </proc/$$/stat; [ $group = $PPID ] && [ $session = $PPID ]
mark "apart $?"
grep SigIgn /proc/self/status
%s
exit 7
' "$_mb_more"; } | ( _mb_apart "$PATH" bash )
mark "four $?"
exit 3
"""


def test_a_plain_script_is_heard_and_what_it_starts_stands_apart(connection: Connection) -> None:
    events = said_by(connection.start(_STARTS_APART, plain=True))

    assert [one.text for one in events if isinstance(one, Mark)] == [
        "one", "two", "apart 0", "four 7"
    ]  # fmt: skip
    assert events[-1] == Exit(status=3)
    (ignored,) = [one.data for one in events if isinstance(one, Output)]
    assert int(ignored.split()[1], 16) & 0b110 == 0  # neither INT nor QUIT


def test_a_plain_script_hears_that_who_waits_for_its_bash_was_killed(
    connection: Connection,
) -> None:
    script = f"_mb_more='kill -9 $PPID; sleep 60'\n{_STARTS_APART}"

    events = said_by(connection.start(script, plain=True))

    assert events[-2:] == [Mark(text="four 137"), Exit(status=3)]
    connection.settle()
    assert connection.run("echo there", timeout_s=LONG_S).stdout == b"there\n"


def test_a_plain_script_is_killed_with_what_it_started(connection: Connection) -> None:
    script = f"_mb_more='mark sleeps; sleep 61'\n{_STARTS_APART}"
    running = connection.start(script, plain=True)
    while running.next_event(LONG_S) != Mark(text="sleeps"):
        pass

    running.kill()

    assert said_by(running)[-1] == Exit(status=137)
    connection.settle()
    left = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null"
    said = connection.run(left, timeout_s=LONG_S).stdout
    assert b"sleep 61" not in [line.strip() for line in said.splitlines()]


@pytest.mark.parametrize("plain", [True, False])
def test_what_is_killed_need_not_know_whose_run_it_is_of(
    connection: Connection, *, plain: bool
) -> None:
    sleeps = "mark sleeps; env -i sleep 62"
    script = f"_mb_more='{sleeps}'\n{_STARTS_APART}" if plain else sleeps
    running = connection.start(script, plain=plain)
    while running.next_event(LONG_S) != Mark(text="sleeps"):
        pass

    running.kill()

    assert said_by(running)[-1] == Exit(status=137)
    left = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null"
    said = connection.run(left, timeout_s=LONG_S).stdout
    assert b"sleep 62" not in [line.strip() for line in said.splitlines()]


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_a_plain_script_whose_bash_never_began_is_the_host_s_doing(run: Run) -> None:
    there = hosts.provider("docker").start(DEBIAN, run, [], quiet)
    assert there.run("rm $(command -v setsid)", timeout_s=LONG_S).exit_status == 0

    with pytest.raises(HostLost, match="did not reach it whole"):
        said_by(there.start(_STARTS_APART, plain=True))

    there.close()


def said_by(running: Running) -> list[Event]:
    events: list[Event] = []
    while not events or not isinstance(events[-1], Exit):
        event = running.next_event(LONG_S)
        assert event is not None
        events.append(event)
    return events


@pytest.fixture
def forgetful(tmp_path: Path, engine: None) -> Iterator[Host]:
    """A container behind an engine that forgets the first who waits for a removal."""
    del engine
    socket = f"{tmp_path}/engine.sock"
    relay = [sys.executable, str(ROOT / "tests" / "relay.py"), socket, "condition=removed"]
    with subprocess.Popen(relay, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        between.stdout.readline()
        yield replace(DEBIAN, engine=f"unix://{socket}")
        between.kill()


@pytest.mark.docker
def test_an_engine_that_never_says_that_a_container_is_gone_is_asked_again(
    forgetful: Host, run: Run
) -> None:
    there = hosts.provider("docker").start(forgetful, run, [], quiet)
    began_s = time.monotonic()

    there.close()

    assert time.monotonic() - began_s < docker_hosts._END_S - 1


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
def test_an_image_that_does_not_exist_is_said_in_one_line(run: Run) -> None:
    host = Host(name="a", kind="docker", subdir="linux-64", image="127.0.0.1:1/nothing:1")

    with pytest.raises(HostUnavailable, match="not here and cannot be pulled") as caught:
        hosts.provider("docker").probe(host, run, quiet)

    assert "127.0.0.1:1/nothing:1" in str(caught.value)


def test_half_a_script_does_not_run_at_all() -> None:
    text = shells.whole("echo ran; echo $0\n# ends without a newline").encode()

    def run(script: bytes) -> tuple[int, bytes]:
        words = ["bash", "-c", shells.READ_SCRIPT, "name"]
        done = subprocess.run(words, input=script, capture_output=True, check=False)
        return done.returncode, done.stdout

    assert run(text) == (0, b"ran\nname\n")
    for length in (0, 8, 9, len(text) - 6, len(text) - 1):
        assert run(text[:length]) == (1, b""), length
