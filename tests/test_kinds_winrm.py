"""Windows by WinRM, on an emulation (see windows_winrm.py): who is let in, and what stays."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import windows_winrm
from windows_winrm import WindowsWinrm

from conftest import quiet, results, run_pytest, small_disk, write_package
from pytest_manualbuild import hosts, matrix
from pytest_manualbuild.errors import HostError, HostLost, HostUnavailable, MatrixError
from pytest_manualbuild.hosts import winrm_client
from pytest_manualbuild.hosts.base import Running
from pytest_manualbuild.hosts.far_windows import FarConnection
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host
from pytest_manualbuild.records import LinkedEnvironment

SHORT_S = 30.0


def host(server: WindowsWinrm, **more: object) -> Host:
    values = {
        "port": server.port, "address": f"{windows_winrm.USER}@127.0.0.1", "https": False,
        "password_from": "env:WINDOWS_PASSWORD", "subdir": "win-64", **more,
    }  # fmt: skip
    return Host(name="far", kind="winrm", **values)  # type: ignore[arg-type] # as the matrix gives them


def start(one: Host, run: Run, *environments: LinkedEnvironment) -> FarConnection:
    made = hosts.provider("winrm").start(one, run, environments, quiet)
    assert isinstance(made, FarConnection)
    return made


class _Web(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_is_no_winrm_is_one_line_and_stops_no_sweep(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path))
    monkeypatch.setenv("WINDOWS_PASSWORD", "secret")
    with HTTPServer(("127.0.0.1", 0), _Web) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        one = Host(
            name="far", kind="winrm", subdir="win-64", address="me@127.0.0.1", https=False,
            port=web.server_port, password_from="env:WINDOWS_PASSWORD",
        )  # fmt: skip
        try:
            with pytest.raises(HostUnavailable) as caught:
                hosts.provider("winrm").probe(one, run, quiet)
            hosts.sweep_dead()
        finally:
            web.shutdown()
            thread.join()
    assert "\n" not in str(caught.value)


def test_an_answer_that_is_not_sealed_is_no_answer(winrm_server: WindowsWinrm, run: Run) -> None:
    connection = start(host(winrm_server), run)
    plain = winrm_server.folder / "unsealed"  # as somebody on the line would give it
    plain.touch()
    try:
        with pytest.raises(HostLost, match="an answer was not sealed"):
            connection.run("@echo on\n", timeout_s=SHORT_S)
    finally:
        plain.unlink()
        connection.close()
        winrm_server.cut()  # which ends what waits in a shell that nobody can close


def test_a_package_is_tested_and_neither_it_nor_the_password_stays_anywhere(
    tmp_path: Path, winrm_server: WindowsWinrm, windows_programs: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_package(
        tmp_path, "test:\n  commands:\n    - code.exe 0\n    - hangs.exe\n    - code.exe 0\n",
        staged={path: data for path, data in windows_programs.items() if "lacks" not in path},
        subdir="win-64",
    )  # fmt: skip
    (tmp_path / "far.toml").write_text(
        '[hosts.far]\nkind = "winrm"\nsubdir = "win-64"\naddress = "builder@127.0.0.1"\n'
        f"port = {winrm_server.port}\nhttps = false\n"
        'password_from = "env:WINDOWS_PASSWORD"\n'
    )

    monkeypatch.setenv("MANUALBUILD_CACHE", str(tmp_path / "cache"))
    ran = run_pytest(
        "--recipe", "recipe", "--matrix", "far.toml", "--check-timeout", "3", "-vv",
        "--log-level=DEBUG", cwd=tmp_path,
    )  # fmt: skip

    assert ran.status == 1, ran.out
    found = [outcome for outcome, _ in results(tmp_path / "manualbuild-report").values()]
    assert found == ["passed", "passed", "failed", "skipped"], ran.out
    assert "It ran longer than 3 s and was killed" in ran.out
    secret = windows_winrm.PASSWORD.encode()
    assert secret not in ran.out.encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if secret in path.read_bytes()] == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_tls_is_used_and_only_with_a_certificate_that_is_trusted(
    winrm_server: WindowsWinrm, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = windows_winrm.make_certificate(winrm_server.folder, "tls")
    monkeypatch.setattr(winrm_server, "scheme", "https")
    winrm_server.cut()

    with pytest.raises(HostUnavailable, match="no certificate that we trust"):
        start(host(winrm_server, https=True), run)
    trusted = host(winrm_server, https=True, ca_file=str(certificate))
    connection = start(trusted, run)
    said = connection.run("@echo hello\n", timeout_s=SHORT_S)
    connection.close()

    assert said.stdout == b"hello\r\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"password_from": "env:NO_SUCH_VARIABLE"}, "there is no password in env:NO_SUCH_VARIABLE"),
        ({"password_from": "env:WRONG"}, "its server does not let us in"),
        ({"address": "somebody@127.0.0.1"}, "its server does not let us in"),
        ({"address": "127.0.0.1"}, "names no user"),
        ({"port": 1}, "no server answers"),
        ({"root": "/tmp"}, "its root /tmp cannot be used"),
        ({"subdir": "linux-64"}, "is Windows, not linux-64"),
    ],
)
def test_what_cannot_be_reached_is_said_in_one_line(
    winrm_server: WindowsWinrm, run: Run, more: dict[str, object], says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WRONG", "wr0ng-canary")

    with pytest.raises(HostUnavailable) as caught:
        start(host(winrm_server, **more), run)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_without_its_library_it_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypsrp", None)
    one = Host(name="far", kind="winrm", subdir="win-64", address="a@b", password_from="env:HOME")

    with pytest.raises(HostUnavailable, match=r"pip install 'pytest-manualbuild\[winrm\]'"):
        start(one, run)


def test_a_password_has_no_place_in_a_matrix() -> None:
    text = (
        '[hosts.far]\nkind = "winrm"\nsubdir = "win-64"\naddress = "a@b"\n'
        'password_from = "canary"\n'
    )

    with pytest.raises(MatrixError) as caught:
        matrix.parse(text, "far.toml")

    assert "a password has no place in a matrix" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_an_environment_arrives_whole_or_not_at_all(
    tmp_path: Path, winrm_server: WindowsWinrm, run: Run
) -> None:
    sent = tmp_path / "environment"
    (sent / "conda-meta").mkdir(parents=True)
    (sent / "conda-meta/history").write_text("")
    (sent / "Lib/deep folder").mkdir(parents=True)
    (sent / "Lib/deep folder/a & b.txt").write_bytes(bytes(range(256)) * 800)
    (sent / "empty").mkdir()
    one = host(winrm_server)
    prefix = hosts.provider("winrm").placement(one, run, "1" * 64).root + "\\_env"
    linked = LinkedEnvironment(path=str(sent), prefix=prefix, packages=(), post_link=())

    connection = start(one, run, linked)
    arrived = winrm_server.drive.joinpath(*prefix.split("\\")[1:])
    there = {
        str(path.relative_to(arrived)): path.read_bytes() if path.is_file() else None
        for path in arrived.rglob("*")
    }
    connection.close()

    assert there == {
        str(path.relative_to(sent)): path.read_bytes() if path.is_file() else None
        for path in sent.rglob("*")
    }
    (sent / "big").write_bytes(os.urandom(600_000))
    with small_disk(winrm_server.drive / "small", "2m"):
        small = host(winrm_server, root="C:\\small")
        root = hosts.provider("winrm").placement(small, run, "1" * 64).root + "\\_env"
        linked = LinkedEnvironment(path=str(sent), prefix=root, packages=(), post_link=())
        with pytest.raises(HostError, match="files cannot be written on it"):
            start(small, run, linked)


def follow(running: Running) -> None:
    while True:
        running.next_event(SHORT_S)


@pytest.mark.parametrize("fault", ["kill", "hang", "power"])
def test_a_host_that_goes_is_lost_and_what_it_kept_is_swept(
    winrm_server: WindowsWinrm, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winrm_client, "_OPERATION_S", 2)
    begun = Run.begin()
    connection = start(host(winrm_server), begun)
    running = connection.start("@echo up\n:again\n@goto again\n")
    while running.next_event(30.0) is None:
        pass
    if fault == "hang":
        winrm_server.signal("STOP")
    elif fault == "power":
        winrm_server.switch_off()
    else:
        winrm_server.signal("KILL")

    with pytest.raises(HostLost, match="the host was lost: "):
        follow(running)

    connection.close()
    if winrm_server.process is None:
        winrm_server.start()
    winrm_server.signal("CONT")
    removed = hosts.sweep(begun)
    assert [line.partition(" ")[0] for line in removed] == ["folder"]
    assert not begun.folder.exists()
