"""A display for tests that need one: Xvfb, started inside the host that says that it has it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import recipe_v1

from conftest import command, manualbuild, results, run_local, run_pytest, write_package
from pytest_manualbuild import hosts

COMMANDS = "test:\n  commands:\n    - 'true'\n"
NEEDS = "extra:\n  manualbuild:\n    needs:\n      - display\n"
IMAGE = "manualbuild/debian-12-x:test"

# A client of X11 in a line: it connects, and the server answers 1 when it lets it in. The socket
# without a file is there for ordinary users as well.
CLIENT = (
    "import os, socket; number = os.environ['DISPLAY'][1:]; s = socket.socket(socket.AF_UNIX);"
    " s.connect(chr(0) + '/tmp/.X11-unix/X' + number); s.send(bytes([108, 0, 11] + [0] * 9));"
    " assert s.recv(1) == bytes([1])"
)


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="Xvfb is missing")
def test_a_display_is_there_for_those_who_need_it(tmp_path: Path) -> None:
    python = sys.executable
    commands = f'test:\n  commands:\n    - {python} -c "$(cat client.py)"\n    - echo $DISPLAY\n'
    write_package(
        tmp_path,
        commands.replace("  commands", "  files:\n    - client.py\n  commands") + NEEDS,
        {"client.py": CLIENT},
    )
    matrix = tmp_path / "local.toml"
    matrix.write_text(matrix.read_text() + 'provides = ["display"]\n')
    (tmp_path / "recipe/tests").mkdir()
    (tmp_path / "recipe/tests/test_shown.py").write_text(
        "def test_shown(manual_host):\n"
        "    said = manual_host.check_output('grep -c X11-unix/X${DISPLAY#:} /proc/net/unix')\n"
        "    assert int(said) > 0\n"
    )

    ran = run_local(tmp_path, "--recipe-tests")

    assert ran.status == 0, ran.out
    assert "left processes" not in ran.out  # it is ours, and it ended with the section
    logs = list((tmp_path / "manualbuild-report/logs").rglob("*echo*"))
    (number,) = re.findall(r"^:(\d+)$", logs[0].read_text(), re.MULTILINE)
    assert not Path(f"/tmp/.X11-unix/X{number}").exists()


def test_a_host_that_has_no_display_after_all_says_so(tmp_path: Path, rootfs: Path) -> None:
    write_package(tmp_path, COMMANDS + NEEDS)
    (tmp_path / "local.toml").write_text(
        f'[hosts.bare]\nkind = "rootfs"\nsubdir = "linux-64"\nroot = "{rootfs}"\n'
        'provides = ["display"]\n'
    )

    ran = run_local(tmp_path)

    assert ran.status == 16, ran.out
    assert "bare: the matrix says that it provides a display, and it has no Xvfb" in ran.out
    said = set(results(tmp_path / "manualbuild-report").values())
    assert said == {("error", "host-unavailable")}


@pytest.fixture
def containers(tmp_path: Path, engine: None) -> Iterator[tuple[str, str]]:
    """Two hosts that say that they have a display, and the first is right; in ``two.toml``."""
    del engine
    if command("docker", "image", "inspect", IMAGE, cwd=tmp_path).status != 0:
        pytest.skip(f"the image {IMAGE} is missing")
    names = f"shown-{os.getpid()}", f"bare-{os.getpid()}"
    (tmp_path / "two.toml").write_text(
        "".join(
            f'[hosts.{name}]\nkind = "docker"\nsubdir = "linux-64"\nimage = "{image}"\n'
            'provides = ["display"]\n'
            for name, image in zip(names, (IMAGE, "manualbuild/debian-12:test"), strict=True)
        )
    )
    yield names
    hosts.sweep_kept()


# It opens the display, and counts its screens.
ASK = "xdpyinfo | grep -c dimensions"


@pytest.mark.docker
@pytest.mark.parametrize("schema", ["v0", "v1"])
def test_a_container_shows_what_its_image_can_and_never_judges_by_what_it_lacks(
    tmp_path: Path, containers: tuple[str, str], schema: str
) -> None:
    shown, bare = containers
    if schema == "v0":
        write_package(tmp_path, f"test:\n  commands:\n    - {ASK}\n    - exit 3\n{NEEDS}")
        wanted = {f"commands[0]: {ASK}": "passed", "commands[1]: exit 3": "failed"}
    else:
        tests = f"- script:\n  - {ASK}\n- script: exit 3\n"
        text = recipe_v1.noarch("odd", tests, extra=NEEDS)
        recipe_v1.build(recipe_v1.write(tmp_path / "recipe", text), tmp_path / "build_artifacts")
        wanted = {f"tests[0].script[0]: {ASK}": "passed", "tests[1].script[0]: exit 3": "failed"}

    ran = run_pytest("--recipe", "recipe", "--matrix", "two.toml", "--keep", "always", cwd=tmp_path)

    assert ran.status == 1, ran.out
    assert f"{bare}: the matrix says that it provides a display, and it has no Xvfb" in ran.out
    assert "left processes" not in ran.out
    found = results(tmp_path / "manualbuild-report")
    there = {check: outcome for (host, check), (outcome, _) in found.items() if host == shown}
    assert there == dict.fromkeys(there, "passed") | wanted
    assert {result for (host, _), result in found.items() if host == bare} == {
        ("error", "host-unavailable")
    }
    if schema == "v1":
        return

    asked = manualbuild("hosts", "shell", shown, "-c", f"{ASK}; exit 7", cwd=tmp_path)
    without = manualbuild("hosts", "shell", bare, "-c", "echo ${DISPLAY-none}", cwd=tmp_path)

    assert (asked.status, asked.out.splitlines()[1:]) == (7, ["1"]), asked.out
    # What a container says on two streams may come in any order.
    assert {
        "DISPLAY is not set: Xvfb is missing on this host, or it does not start.",
        "none",
    } <= set(without.out.splitlines())
    (kept,) = (one for one in hosts.kept.every() if one.host.name == shown)
    deadline = time.monotonic() + 20
    while "Xvfb -" in command("docker", "top", kept.what["place"], cwd=tmp_path).out:
        assert time.monotonic() < deadline, "it outlives the shell"
