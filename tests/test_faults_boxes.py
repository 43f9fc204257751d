"""Containers and root folders that break: an error that names the phase, and nothing is left."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import faults
import pytest
from faults import BREAKS, IMAGE, ONE_COMMAND_PASSED, Case, broken, matrix_entry

from conftest import small_disk
from pytest_manualbuild.hosts import engines, facts

pytestmark = pytest.mark.usefixtures("impatient")
BOXES = [pytest.param("docker", marks=pytest.mark.docker), "rootfs"]

# -- provisioning


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param('kind = "docker"\nimage = "x"\nengine = "unix:///none"', id="docker-away"),
        pytest.param(f'kind = "docker"\nimage = "{IMAGE}"\nengine = "ssh://127.0.0.1:1"',
                     id="docker-ssh-engine-away"),
        pytest.param('kind = "rootfs"\nroot = "/none"', id="rootfs-root-away"),
        pytest.param('kind = "rootfs"\nroot = "/proc/self"', id="rootfs-no-root"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_provisioning_a_host_that_is_not_there(odd: Case, entry: str) -> None:
    broken(odd.results(entry), "provisioning", "host-unavailable")
    gc.collect()  # here, where its warning is expected


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("kind", BOXES)
def test_provisioning_a_host_that_breaks_while_it_is_asked_what_it_is(
    odd: Case, request: pytest.FixtureRequest, kind: str, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(facts, "kept", lambda _: None)
    entry = matrix_entry(kind, request, odd)

    found = faults.struck_while_asked_what_it_is(odd, kind, entry, fault, monkeypatch)

    broken(found, "provisioning", "host-lost")


@pytest.mark.docker
@pytest.mark.parametrize("fault", ["hang", "wrong-credentials"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # docker leaves the socket to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_provisioning_by_docker(
    odd: Case, engine: None, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del engine
    monkeypatch.setattr(engines, "_API_S", 2)
    if fault == "hang":  # an engine that takes calls and answers none
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(odd.folder / "d"))
            silent.listen()
            url = f"unix://{odd.folder}/d"
            found = odd.results(f'kind = "docker"\nimage = "{IMAGE}"\nengine = "{url}"')
    else:
        monkeypatch.setattr(engines, "_API_S", 20)
        with locked_registry() as name:
            found = odd.results(f'kind = "docker"\nimage = "{name}/private:1"')
        assert "cannot be pulled" in found[0].message

    broken(found, "provisioning", "host-unavailable")


@contextmanager
def locked_registry() -> Iterator[str]:
    """Give the name of a server that answers as a registry does to who may not read there."""

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_provisioning_a_root_where_the_disk_is_full(
    odd: Case, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "64k") as disk:
        monkeypatch.setattr(odd.run, "folder", disk)
        with suppress(OSError):
            (disk / "full").write_bytes(b"x" * 65536)
        found = odd.results(f'kind = "rootfs"\nroot = "{rootfs}"')
        (disk / "full").unlink()

    broken(found, "provisioning", "host-unavailable")


# -- delivering


@pytest.mark.parametrize("kind", BOXES)
def test_delivering_what_is_gone_from_the_cache(
    odd: Case, request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = faults.lost_from_the_cache(odd, matrix_entry(kind, request, odd), monkeypatch)

    broken(found, "delivering", "environment")


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("kind", BOXES)
def test_delivering_to_a_host_that_breaks(
    odd: Case, request: pytest.FixtureRequest, kind: str, fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    entry = matrix_entry(kind, request, odd)

    found = faults.struck_while_delivering(odd, kind, entry, fault, monkeypatch)

    broken(found, "delivering", "host-lost")


# -- running


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("kind", BOXES)
def test_running_on_a_host_that_breaks(
    odd: Case, request: pytest.FixtureRequest, kind: str, fault: str
) -> None:
    found = faults.struck_while_running(odd, kind, matrix_entry(kind, request, odd), fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("name", ["TERM", "KILL"])
@pytest.mark.parametrize("kind", BOXES)
def test_a_host_that_ends_the_tests_and_then_goes_is_an_error(
    odd: Case, request: pytest.FixtureRequest, kind: str, name: str, fault: str
) -> None:
    entry = matrix_entry(kind, request, odd)

    found = faults.ends_the_tests_and_goes(odd, kind, entry, name, fault)

    broken(found, "running", "host-lost", passed=ONE_COMMAND_PASSED)


def test_running_in_a_root_where_the_disk_is_full(
    odd: Case, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(odd.folder / "disk", "600k") as disk:
        monkeypatch.setattr(odd.run, "folder", disk)
        entry = f'kind = "rootfs"\nroot = "{rootfs}"'
        found = faults.has_no_room_for_the_tests(odd, entry, disk, monkeypatch)

    broken(found, "running", "host-lost")


# -- collecting


@pytest.mark.parametrize("kind", BOXES)
def test_collecting_where_the_disk_is_full(
    odd: Case, request: pytest.FixtureRequest, kind: str
) -> None:
    found = faults.fills_the_controllers_disk(odd, matrix_entry(kind, request, odd))

    broken(found, "collecting", "environment", passed=1)
