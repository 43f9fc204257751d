"""The upload: each package is published once, exactly as proven, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import LOCAL, Ran, build, command, manualbuild, run_pytest, write_package
from pytest_manualbuild import copies
from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate import verify

CANARY = "canary-token-1234"
NAME = "builder/odd/1/noarch/odd-1-0.conda"
LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A loopback server, and what makes the real client use it."""

    state: Path
    environ: dict[str, str]

    def fault(self, *lines: str) -> None:
        """Tell the server what goes wrong from now on; nothing: all goes well."""
        (self.state / "fault").write_text("\n".join(lines))

    def stored(self) -> dict[str, dict[str, object]]:
        path = self.state / "dists.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def requests(self) -> list[dict[str, object]]:
        path = self.state / "requests.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commits(self) -> int:
        return sum("/commit/" in str(one["path"]) and one["status"] == 200
                   for one in self.requests())  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A loopback server in a process of its own."""
    state = tmp_path / "server"
    (tmp_path / "config/data").mkdir(parents=True)
    state.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("loopback_anaconda.py")), str(state)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    (tmp_path / "config/data/config.yaml").write_text(f"url: http://127.0.0.1:{port}\n")
    environ = {
        "BINSTAR_CONFIG_DIR": str(tmp_path / "config"),
        "HOME": str(tmp_path),
        "ANACONDA_API_TOKEN": CANARY,
    }
    try:
        yield Server(state=state, environ=environ)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


WORDS = ("upload", "report", "--artifacts", "build_artifacts", "--to", "anaconda", "--user",
         "builder")  # fmt: skip


def publish(case: Path, server: Server, *words: str) -> Ran:
    ran = manualbuild(*WORDS, *words, cwd=case, **server.environ)
    assert "Traceback" not in ran.out, ran.out
    assert CANARY not in ran.out
    return ran


def sha256(case: Path) -> str:
    found = verify.verify(case / "report", case / "build_artifacts", policies.Policy())
    (artifact,) = found.files.values()
    return artifact.sha256


def published_once(case: Path, server: Server, label: str = "manual") -> None:
    """The server has the proven bytes under exactly that label, and was sent them once."""
    dist = server.stored()[NAME]
    assert (dist["labels"], dist["sha256"]) == ([label], sha256(case))
    assert (list(server.stored()), server.commits()) == ([NAME], 1)
    for path in (case / "report").rglob("*"):
        assert path.is_dir() or CANARY not in path.read_text(errors="replace"), path


def test_the_real_client_uploads_once_under_the_label(case: Path, server: Server) -> None:
    dry = publish(case, server, "--dry-run")
    assert (dry.status, server.stored()) == (0, {}), dry.out
    assert {one["method"] for one in server.requests()} == {"GET"}

    first = publish(case, server)

    assert (first.status, ": published" in first.out) == (0, True), first.out
    published_once(case, server)
    receipt = json.loads((case / "report/receipt.json").read_text())
    assert (receipt["login"], receipt["packages"][0]["sha256"]) == ("builder", sha256(case))
    before = len([one for one in server.requests() if one["method"] != "GET"])
    again = publish(case, server)
    assert (again.status, "already there" in again.out) == (0, True), again.out
    assert len([one for one in server.requests() if one["method"] != "GET"]) == before


def test_nobody_finds_a_file_before_it_was_read_back(case: Path, server: Server) -> None:
    server.fault("bytes")

    ran = publish(case, server)

    assert (ran.status, "hands out other bytes" in ran.out) == (1, True), ran.out
    assert server.stored()[NAME]["labels"] == ["manual-staging"]
    assert not (case / "report/receipt.json").exists()


@pytest.mark.parametrize("staging", ['"looking"', "false"])
def test_the_policy_names_the_staging_label_or_none(
    case: Path, server: Server, staging: str
) -> None:
    (case / "policy.toml").write_text(f"[target]\nstaging = {staging}\n")
    assert publish(case, server, "--policy", "policy.toml").status == 0
    published_once(case, server)
    labels = {str(one["path"]).rpartition("/")[2]
              for one in server.requests() if "/channels/" in str(one["path"])}  # fmt: skip
    assert labels == ({"looking", "manual"} if staging != "false" else set())


@pytest.mark.parametrize("fault", ["sha256", "label", "size"])
def test_what_the_server_stores_must_be_what_was_sent(
    case: Path, server: Server, fault: str
) -> None:
    server.fault(fault)
    refused = publish(case, server)
    assert (refused.status, "already with sha256" in refused.out) == (1, True), refused.out
    server.fault()

    ran = publish(case, server)

    # Other bytes, or other labels, of the same name are a hard stop: nothing of it is touched.
    assert (ran.status, server.commits()) == (1, 1), ran.out
    assert not (case / "report/receipt.json").exists()


STEPS = ["GET user", "GET dist", "GET package", "POST package", "GET release", "POST release",
         "POST stage", "POST s3", "POST commit", "GET download", "GET store", "POST channels",
         "DELETE channels"]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_is_no_success_and_can_be_done_again(
    case: Path, server: Server, step: str
) -> None:
    for fault in ("500", "403", "lost"):  # the last has its effect
        server.fault(f"{fault} {step}")
        ran = publish(case, server)
        # An answer that was lost after all was done is settled by looking.
        settled = fault == "lost" and step in ("POST commit", "DELETE channels")
        assert ran.status == (0 if settled else 1), ran.out
        assert (case / "report/receipt.json").exists() == settled
        if not settled:
            assert server.stored().get(NAME, {}).get("labels") != ["manual"]
    server.fault()

    assert publish(case, server).status == 0
    published_once(case, server)


def test_a_token_that_is_refused_sends_nothing(case: Path, server: Server) -> None:
    server.fault("401 GET user")

    ran = publish(case, server)

    assert (ran.status, "ANACONDA_API_TOKEN" in ran.out, server.stored()) == (1, True, {}), ran.out
    assert all(one["method"] == "GET" for one in server.requests())


ODD = ["GET user {}", "GET user []", 'GET user {"login": 5}', "GET dist []", 'GET dist "x"',
       "GET dist null", 'GET dist {"sha256": "0", "labels": 5}',
       'GET dist {"sha256": ["0"], "labels": ["manual"]}',
       'GET dist {"sha256": "0", "labels": {"manual": 1}}']  # fmt: skip


@pytest.mark.parametrize("answer", ODD)
def test_an_odd_answer_is_one_line(case: Path, server: Server, answer: str) -> None:
    server.fault(f"says {answer}")

    ran = publish(case, server)

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert ("another form" in ran.out, server.stored()) == (True, {}), ran.out


@pytest.mark.parametrize("files", ["5", "null", "[5]", "[{}]", '[{"full_name": "odd"}]'])
def test_an_odd_list_of_a_label_is_one_line(case: Path, server: Server, files: str) -> None:
    server.fault(f'says GET channels {{"files": {files}}}')
    words = ("verify-channel", "report", "--of", "anaconda", "--user", "builder")

    ran = manualbuild(*words, cwd=case, **server.environ)

    assert (ran.status, ran.out.count("\n"), "another form" in ran.out) == (1, 1, True), ran.out


def test_what_a_server_names_does_not_steer_the_terminal(case: Path, server: Server) -> None:
    name = json.dumps("b/odd/1/noarch/\x1b[31modd.conda")
    server.fault(f'says GET channels {{"files": [{{"full_name": {name}}}]}}')
    words = ("verify-channel", "report", "--of", "anaconda", "--user", "builder")

    ran = manualbuild(*words, cwd=case, **server.environ)

    assert (ran.status, "\x1b" in ran.out) == (1, False), ran.out
    assert r"\x1b[31modd.conda: NOT PROVEN" in ran.out


REFUSED = [("--user", one) for one in ("../x", "x?y", "x y", "a/b", "", "-x")]
REFUSED += [("--label", one) for one in ("", "my label", "nolabel", "a" * 121)]
REFUSED += [("--to", "Anaconda"), ("--to", "")]


@pytest.mark.parametrize("words", REFUSED)
def test_what_can_be_no_owner_label_or_target_sends_nothing(
    case: Path, server: Server, words: tuple[str, str]
) -> None:
    option, value = words

    ran = publish(case, server, f"{option}={value}", "--dry-run")

    assert (ran.status, ran.out.count("\n"), server.requests()) == (1, 1, []), ran.out
    assert value in ran.out
    assert not (case / "Anaconda").exists()
    if option != "--to":
        watch = ("verify-channel", "report", "--of", "anaconda", "--user", "builder")
        ran = manualbuild(*watch, f"{option}={value}", cwd=case, **server.environ)
        # Only what is sent has a label for staging.
        assert len(value) > 120 or (ran.status, ran.out.count("\n")) == (1, 1), ran.out


@pytest.mark.parametrize(("kind", "to"), [("anaconda", "folder"), ("directory", "anaconda")])
def test_a_policy_allows_one_kind_of_target(case: Path, kind: str, to: str) -> None:
    (case / "policy.toml").write_text(f'[target]\nkind = "{kind}"\n')
    words = ("upload", "report", "--to", to, "--user", "builder", "--policy", "policy.toml")

    ran = manualbuild(*words, cwd=case)

    assert (ran.status, ran.out.count("\n")) == (1, 1), ran.out
    assert f"--to {to}: the policy allows --to" in ran.out
    assert "Leave it out" not in ran.out


def wait_until_held(process: subprocess.Popen[Any], server: Server) -> None:
    """Wait until the server holds the request that it was told to hold."""
    deadline = time.monotonic() + LIMIT_S
    while not (server.state / "held").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_an_upload_leaves_no_copies(
    case: Path, server: Server, number: signal.Signals
) -> None:
    (case / "scratch").mkdir()
    server.fault("hold 9 before")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_manualbuild.cli", *WORDS], cwd=case,
        env={**os.environ, **server.environ, "TMPDIR": str(case / "scratch")},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until_held(process, server)
    assert list((case / "scratch").glob("manualbuild-*"))

    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)

    (server.state / "release").touch()
    told = "interrupted" if number is signal.SIGINT else f"ended by {number.name}"
    assert (process.returncode, "Traceback" in said) == (128 + number, False), said
    assert said.splitlines()[-1] == f"manualbuild: {told}."
    assert not list((case / "scratch").glob("manualbuild-*"))


def test_a_slow_server_is_waited_for(case: Path, server: Server) -> None:
    server.fault("slow")
    assert publish(case, server).status == 0
    published_once(case, server)


def test_a_server_that_never_answers_is_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binstar_client.utils import config

    from pytest_manualbuild.targets.anaconda import AnacondaTarget

    url = (server.state.parent / "config/data/config.yaml").read_text().split()[1]
    monkeypatch.setattr(config, "get_config", lambda **_: {"url": url})
    monkeypatch.setenv("ANACONDA_API_TOKEN", CANARY)
    target = AnacondaTarget("builder", "manual", staging=None, answer_s=0.5)
    server.fault("hold 1 before")
    try:
        with pytest.raises(UploadError, match="timed out") as caught:
            target.login()
    finally:
        (server.state / "release").touch()
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


REQUESTS = ["GET user", "GET dist", "GET package", "POST package", "GET release",
            "POST release", "POST stage", "POST s3", "POST commit", "GET dist", "GET download",
            "GET store", "GET dist", "POST channels", "DELETE channels", "GET dist"]  # fmt: skip
KILLS = [
    pytest.param(number, when, id=f"{number} {when} {step}")
    for number, step in enumerate(REQUESTS, start=1)
    for when in ("before", "after")
    # What changes nothing leaves the same behind before and after.
    if when == "before" or not step.startswith("GET")
]


def test_the_steps_that_are_killed_are_all_steps(case: Path, server: Server) -> None:
    publish(case, server)

    done = [f"{one['method']} {str(one['path']).split('/')[1]}" for one in server.requests()]

    assert done == REQUESTS
    assert set(done) == set(STEPS)


@pytest.mark.parametrize(("number", "when"), KILLS)
def test_an_upload_that_was_killed_goes_on_where_it_ended(
    case: Path, server: Server, number: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fault(f"hold {number} {when}")
    private = case / "private"
    private.mkdir()
    monkeypatch.setenv("TMPDIR", str(private))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_manualbuild.cli", *WORDS], cwd=case,
        env={**os.environ, **server.environ}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until_held(process, server)
    listed = Path(f"/proc/{process.pid}/cmdline")
    if listed.exists():
        assert CANARY.encode() not in listed.read_bytes()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (server.state / "release").touch()
    assert not (case / "report/receipt.json").exists()
    server.fault()
    assert list(private.rglob("*.conda"))

    ran = publish(case, server)

    assert ran.status == 0, ran.out
    published_once(case, server)
    assert list(private.iterdir()) == []


def test_no_package_gets_public_before_all_are_there(tmp_path: Path, server: Server) -> None:
    for extension in (".conda", ".tar.bz2"):
        build(tmp_path, extension=extension)
    (tmp_path / "local.toml").write_text(LOCAL)
    ran = run_pytest("--recipe", "recipe-of-build_artifacts", "--matrix", "local.toml",
                     "--evidence", "report", cwd=tmp_path)  # fmt: skip
    assert ran.status == 0, ran.out
    server.fault("500 POST stage .tar.bz2")

    ran = publish(tmp_path, server)

    assert ran.status == 1, ran.out
    assert {name: dist["labels"] for name, dist in server.stored().items()} == {
        NAME: ["manual-staging"]
    }
    server.fault()
    assert publish(tmp_path, server).status == 0
    assert [dist["labels"] for dist in server.stored().values()] == [["manual"], ["manual"]]
    assert server.commits() == 2


def test_main_needs_a_policy_that_names_it(case: Path, server: Server) -> None:
    refused = publish(case, server, "--label", "main")

    assert (refused.status, server.requests()) == (1, []), refused.out
    (case / "policy.toml").write_text('[target]\nlabel = "main"\n')
    assert publish(case, server, "--policy", "policy.toml").status == 0
    published_once(case, server, "main")


def test_a_refused_report_uploads_nothing(case: Path, server: Server) -> None:
    with next((case / "build_artifacts/noarch").iterdir()).open("ab") as file:
        file.write(b"\0")

    ran = publish(case, server)

    assert (ran.status, "other bytes" in ran.out, server.requests()) == (1, True, []), ran.out


def test_a_channel_folder_is_indexed_and_never_overwritten(case: Path) -> None:
    words = ("upload", "report", "--artifacts", "build_artifacts", "--to", "channel")
    assert manualbuild(*words, cwd=case).status == 0
    index = json.loads((case / "channel/noarch/repodata.json").read_text())
    assert list(index["packages.conda"]) == ["odd-1-0.conda"]
    assert "already there" in manualbuild(*words, cwd=case).out

    (case / "channel/noarch/odd-1-0.conda").write_bytes(b"other")

    assert manualbuild(*words, cwd=case).status == 1
    assert (case / "channel/noarch/odd-1-0.conda").read_bytes() == b"other"


def test_a_label_is_judged_again_from_what_it_serves(case: Path, server: Server) -> None:
    words = ("verify-channel", "report", "--of", "anaconda", "--user", "builder")
    ran = manualbuild(*words, cwd=case, **server.environ)
    assert (ran.status, "nothing was checked" in ran.out) == (8, True), ran.out
    assert publish(case, server).status == 0
    ran = manualbuild(*words, cwd=case, **server.environ)
    assert (ran.status, "proven by report" in ran.out) == (0, True), ran.out
    server.fault("bytes")

    ran = manualbuild(*words, cwd=case, **server.environ)

    assert (ran.status, "other bytes" in ran.out) == (1, True), ran.out


def test_a_file_without_evidence_is_found(case: Path) -> None:
    words = ("upload", "report", "--artifacts", "build_artifacts", "--to", "channel")
    assert manualbuild(*words, cwd=case).status == 0
    check = ("verify-channel", ".", "--of", "channel")
    assert manualbuild(*check, cwd=case).status == 0
    odd = case / "channel/noarch/odd-1-0.conda"
    (odd.parent / "even-1-0.conda").write_bytes(odd.read_bytes())

    ran = manualbuild(*check, cwd=case)

    assert ran.status == 1, ran.out
    assert "noarch/even-1-0.conda: NOT PROVEN\n  - no evidence names it" in ran.out
    assert "noarch/odd-1-0.conda: proven by report" in ran.out


def test_no_token_reaches_a_host(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - env\n    - set\n    - 'false'\n")
    words = ("--recipe", "recipe", "--matrix", "local.toml", "--evidence", "report")

    ran = command(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, cwd=tmp_path,
        ANACONDA_API_TOKEN=CANARY, BINSTAR_API_TOKEN=CANARY, CONDA_TOKEN=CANARY,
        GITHUB_TOKEN=CANARY, SSH_AUTH_SOCK=CANARY,
    )  # fmt: skip

    assert (ran.status, CANARY in ran.out) == (1, False), ran.out
    written = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert any("PREFIX=" in path.read_text(errors="replace") for path in written)
    assert [path for path in written if CANARY in path.read_text(errors="replace")] == []


def test_a_label_is_not_its_own_staging_label(case: Path, server: Server) -> None:
    (case / "policy.toml").write_text('[target]\nstaging = "looking"\n')
    ran = publish(case, server, "--policy", "policy.toml", "--label", "looking")
    assert (ran.status, server.requests()) == (1, []), ran.out


def test_a_receipt_that_cannot_be_written_is_said(case: Path, server: Server) -> None:
    (case / "report/receipt.json").mkdir()
    ran = publish(case, server)
    assert (ran.status, "all is published" in ran.out) == (1, True), ran.out
    assert "Make room" not in ran.out
    (case / "report/receipt.json").rmdir()
    assert publish(case, server).status == 0
    published_once(case, server)


def test_what_another_upload_copied_stays_as_long_as_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "manualbuild-copies-link").symlink_to(tmp_path)
    (tmp_path / "manualbuild-copies-file").touch()
    (tmp_path / "manualbuild-copies-killed/noarch").mkdir(parents=True)

    with copies.place() as one, ThreadPoolExecutor(8) as pool:

        def another(_: int) -> bool:
            with copies.place() as other:
                (other / "package").touch()
                return one.is_dir() and list(other.iterdir()) == [other / "package"]

        assert all(pool.map(another, range(200)))

        left = {path.name.rpartition("-")[2] for path in tmp_path.iterdir()}
        assert left == {"link", "file", one.name.rpartition("-")[2]}
    assert not one.exists()
