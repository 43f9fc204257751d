"""Hosts of kind wine: batch files, real Windows programs, and CPython for Windows."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import builder
import pytest
import windows_hosts
import yaml

from conftest import Ran, command, manualbuild, outcomes, results
from pytest_manualbuild import batch, hosts
from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.errors import HostLost
from pytest_manualbuild.hosts import wine
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.model import Host

ADDR_NO_RANDOMIZE = 0x0040000


@pytest.fixture(scope="session")
def prefix() -> Path:
    """A prefix of wine."""
    if not shutil.which("wine"):
        pytest.skip("wine is missing")
    return windows_hosts.prefix()


@pytest.fixture(scope="session")
def programs(windows_programs: dict[str, bytes]) -> dict[str, bytes]:
    """Real programs for Windows, and a batch file, by their path in a package."""
    return {**windows_programs, "Scripts/ends.bat": b"@echo in a batch file\r\n@exit /b 0\r\n"}


@pytest.fixture(scope="session")
def windows_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel that holds CPython for Windows."""
    try:
        return windows_hosts.python_channel(tmp_path_factory.mktemp("windows-python") / "channel")
    except OSError as error:
        pytest.skip(f"CPython for Windows cannot be had: {error}")


def write(
    tmp_path: Path, test: str, programs: dict[str, bytes], files: dict[str, str] | None = None
) -> None:
    """Write a recipe and a package of it for Windows, and a matrix of both personas."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "meta.yaml").write_text(
        f"package:\n  name: odd\n  version: '1'\nbuild:\n  number: 0\n{test}"
    )
    for path, text in (files or {}).items():
        (folder / path).write_text(text)
    staged = {path: builder.Staged(data=data, executable=True) for path, data in programs.items()}
    built = builder.Built(recipe=folder, files=staged, subdir="win-64")
    builder.write(built, tmp_path / "build_artifacts", ".conda")


def write_outputs(
    tmp_path: Path, outputs: dict[str, tuple[dict[str, object], dict[str, bytes]]]
) -> None:
    """Write one recipe of several packages, each with its test section and its files."""
    (tmp_path / "recipe").mkdir()
    described = []
    for name, (test, files) in outputs.items():
        described.append({"name": name, "version": "1", "test": test})
        staged = {path: builder.Staged(data=data) for path, data in files.items()}
        built = builder.Built(
            recipe=None, files=staged, subdir="win-64", name=name, version="1", depends=()
        )
        builder.write(built, tmp_path / "build_artifacts", ".conda")
    meta = {"package": {"name": "several", "version": "1"}, "outputs": described}
    (tmp_path / "recipe/meta.yaml").write_text(yaml.safe_dump(meta, width=10**6))


def of_package(tmp_path: Path, name: str) -> list[dict[str, str]]:
    """Return the results of one package."""
    stored = json.loads((tmp_path / "manualbuild-report/evidence.json").read_text())
    return [one for one in stored["predicate"]["results"] if f"/{name}-" in one["package"]]


def run(
    tmp_path: Path,
    prefix: Path,
    *words: str,
    personas: tuple[str, ...] = ("win10",),
    **environ: str,
) -> Ran:
    write_matrix(tmp_path, prefix, *personas)
    return command(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--recipe", "recipe",
        "--matrix", "wine.toml", *words, cwd=tmp_path, timeout_s=180, **environ,
    )  # fmt: skip


def write_matrix(tmp_path: Path, prefix: Path, *personas: str) -> None:
    """Write a matrix of wine under these names of Windows."""
    (tmp_path / "wine.toml").write_text(
        "".join(
            f'[hosts.{one}]\nkind = "wine"\nsubdir = "win-64"\npersona = "{one}"\n'
            f'root = "{prefix}"\n'
            for one in personas or ("win10",)
        )
    )


def test_commands_scripts_and_imports_pass_on_both_personas(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes], windows_python: str
) -> None:
    write(
        tmp_path,
        "test:\n  imports:\n    - json\n    - _ssl\n    - sqlite3\n  commands:\n"
        "    - set WORD=0\n    - code.exe %WORD%\n"
        "    - if exist %PREFIX%\\python.exe (\n    - echo yes\n    - ) else (\n    - exit /B 1\n"
        "    - )\n"
        "    - if not %PKG_NAME%==odd exit /B 1\n"
        "    - python -c \"import os, sys; sys.exit(os.environ['ACTIVE'] != '100%%')\"\n",
        {**programs, "etc/conda/activate.d/odd.bat": b"@set ACTIVE=100%%\r\n"},
        {
            "run_test.bat": "@echo off\nset A=1\ncall :sub\ngoto on\n:sub\nset B=2\ngoto :eof\n"
            ":on\nif not %B%==2 exit /b 1\n",
            "run_test.py": "import os, sys\nassert os.environ['PREFIX'] == sys.prefix\n"
            "assert os.getcwd().endswith('work'), os.getcwd()\n",
        },
    )

    ran = run(tmp_path, prefix, "--channel", windows_python, personas=("win7", "win10"))

    assert ran.status == 0, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert set(found.values()) == {("passed", "ok")}


def log(tmp_path: Path, number: int) -> str:
    (file,) = (tmp_path / "manualbuild-report/logs/win10/odd").glob(f"{number:03d}-*")
    return file.read_text()


def test_what_fails_fails_and_what_follows_is_not_reached(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes]
) -> None:
    write(
        tmp_path,
        "test:\n  commands:\n    - code.exe 0\n    - code.exe 256\n    - code.exe 0\n",
        programs,
    )

    ran = run(tmp_path, prefix)

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": ("passed", "ok"),
        "commands[0]: code.exe 0": ("passed", "ok"),
        "commands[1]: code.exe 256": ("failed", "exit-status"),
        "commands[2]: code.exe 0": ("skipped", "not-reached"),
    }
    assert "It ended with exit status 256." in ran.out
    assert log(tmp_path, 2).splitlines().count("256") == 2  # both streams are kept


ENDS = {
    "lacks.exe": ("failed", "exit-status", "(0xC0000135: a DLL that it needs is not there)."),
    "set ERRORLEVEL=0& code.exe 7": ("failed", "exit-status", "It ended with exit status 1."),
    "exit 0": ("passed", "ok", ""),
    "exit /B 0": ("passed", "ok", ""),
    "ends.bat": ("passed", "ok", ""),
    "exit 7": ("failed", "exit-status", "It ended with exit status 7."),
    "nosuch.exe": ("failed", "exit-status", "It ended with exit status 9009."),
    f"echo {'x' * 8200}": ("failed", "exit-status", "cmd takes no more than 8191."),
    "echo x> TEST_FAILED": ("passed", "ok", ""),
    "hangs.exe": ("failed", "timeout", "hangs.exe"),
}
"""Commands after which no other passes: outcome, cause, and what is said of it."""


def test_what_ends_a_shell_leaves_nothing_passed_behind_it(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes]
) -> None:
    write_outputs(
        tmp_path,
        {
            f"end{number}": ({"commands": [ends, "code.exe 0"]}, programs)
            for number, ends in enumerate(ENDS)
        },
    )

    ran = run(tmp_path, prefix, "--check-timeout", "3")

    assert ran.status == 1, ran.out
    for number, (ends, (outcome, cause, said)) in enumerate(ENDS.items()):
        install, first, last = of_package(tmp_path, f"end{number}")
        assert install["outcome"] == "passed", install
        assert (first["outcome"], first["cause"]) == (outcome, cause), first
        assert said in ran.out, first
        assert last["outcome"] != "passed", (ends, last)


def test_imports_share_a_process_and_go_on_after_one_that_fails(
    tmp_path: Path, prefix: Path, windows_python: str
) -> None:
    modules = {
        "a_fine": "import sys; sys.shared = True\n",
        "b_fails": "raise ValueError('no')\n",
        "c_leaves": "import os; os._exit(0)\n",
        "d_lies": "import os\nfor n in range(3, 20):\n    try: os.write(n, b'0 0\\n')\n"
        "    except OSError: pass\nos._exit(0)\n",
        "e_fine": "import sys\nprint('a line', file=sys.stderr)\n",
        "f_shares": "import sys, e_fine\nassert not hasattr(sys, 'shared')\n",
    }
    write(
        tmp_path,
        "requirements:\n  run:\n    - python\ntest:\n  imports:\n"
        + "".join(f"    - {name}\n" for name in modules)
        + '  commands:\n    - python -c "import sys; sys.exit(3)"\n',
        {f"Lib/site-packages/{name}.py": text.encode() for name, text in modules.items()},
    )

    ran = run(tmp_path, prefix, "--channel", windows_python)

    assert {check: one[0] for check, one in outcomes(tmp_path).items()} == {
        "install": "passed",
        "imports: a_fine": "passed",
        "imports: b_fails": "failed",
        "imports: c_leaves": "failed",
        "imports: d_lies": "failed",
        "imports: e_fine": "passed",
        "imports: f_shares": "passed",
        'commands[0]: python -c "import sys; sys.exit(3)"': "failed",
    }, ran.out
    assert "ValueError: no" in ran.out
    assert "It ended with exit status 3." in ran.out


def test_scripts_of_the_package_and_paths_as_windows_has_them(tmp_path: Path, prefix: Path) -> None:
    active = {"etc/conda/activate.d/a.bat": b"@if exist %PREFIX%\\linked.txt set LINKED=yes\r\n"}
    writes = b"@echo %PKG_NAME% %PKG_VERSION%> %PREFIX%\\linked.txt\r\n@exit /b "
    packages = {
        "links": {"Scripts/.links-post-link.bat": writes + b"0\r\n", **active},
        "linkfails": {"Scripts/.linkfails-post-link.bat": writes + b"4\r\n", **active},
        "actfails": {"etc/conda/activate.d/a.bat": b"@echo no way>&2\r\n@exit /b 6\r\n"},
        "deep": {f"{'deep/' * 50}file.txt": b"deep\n"},
    }
    write_outputs(
        tmp_path,
        {
            name: ({"commands": ["if not %LINKED%==yes exit /B 1"]}, files)
            for name, files in packages.items()
        },
    )

    ran = run(tmp_path, prefix)

    found = {name: [one["outcome"] for one in of_package(tmp_path, name)] for name in packages}
    assert found == {
        "links": ["passed", "passed"],
        "linkfails": ["failed", "skipped"],
        "actfails": ["failed", "skipped"],
        "deep": ["failed", "skipped"],
    }, ran.out
    assert "linkfails's post-link script failed: exit status 4" in ran.out
    assert "The environment cannot be activated: exit status" in ran.out
    assert "has 283 characters on the host, and Windows takes 259" in ran.out


def test_a_noarch_package_is_tested_as_on_windows(
    tmp_path: Path, prefix: Path, windows_python: str
) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/meta.yaml").write_text(
        "package:\n  name: pure\n  version: '1'\nbuild:\n  noarch: python\n"
        "requirements:\n  run:\n    - python\n"
        "test:\n  imports:\n    - pure\n  commands:\n    - pure\n"
    )
    (tmp_path / "recipe/run_test.sh").write_text("test -d /\n")
    built = builder.Built(
        recipe=tmp_path / "recipe",
        files={"site-packages/pure.py": builder.Staged(data=b"def main():\n    print('pure')\n")},
        subdir="noarch",
        build="py_0",
        entry_points=("pure = pure:main",),
    )
    builder.write(built, tmp_path / "build_artifacts", ".conda")

    ran = run(tmp_path, prefix, "--channel", windows_python)

    assert outcomes(tmp_path) == {
        "install": ("passed", "ok"),
        "imports: pure": ("passed", "ok"),
        "run_test.sh": ("skipped", "recipe"),
        "commands[0]: pure": ("passed", "ok"),
    }, ran.out


def test_a_package_that_removes_the_environment_of_the_next_one_is_not_its_fault(
    tmp_path: Path, prefix: Path
) -> None:
    outputs: dict[str, tuple[dict[str, object], dict[str, bytes]]] = {
        name: ({"commands": [command]}, {f"share/{name}.txt": b"x"})
        for name, command in {
            "bad": 'for /d %%d in (%PREFIX%\\..\\..\\*) do rd /s /q "%%d\\_test_env"',
            "good": "if not exist %PREFIX%\\share\\good.txt exit /B 1",
        }.items()
    }
    write_outputs(tmp_path, outputs)

    ran = run(tmp_path, prefix)

    assert [one["outcome"] for one in of_package(tmp_path, "good")] == ["passed"] * 2, ran.out
    assert "bad: the tests removed the environment" in ran.out
    assert "bad: the tests removed that of others, who got a new host" in ran.out


def test_what_looks_like_our_words_is_output(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes]
) -> None:
    fake = "".join(
        f"@echo \x1e{'0' * 24}:{kind}:{'0' * 16} 0\n@echo \x1e{'0' * 24}:{kind}:{'0' * 16} 0>&2\n"
        for kind in ("mark", "exit")
    )
    write(
        tmp_path,
        "test:\n  commands:\n    - code.exe 0\n    - code.exe 5\n",
        programs,
        {"run_test.bat": f"{fake}@echo half \x1e{'0' * 24}:ma\n"},
    )

    run(tmp_path, prefix)

    assert list(outcomes(tmp_path).values()) == [
        ("passed", "ok"), ("passed", "ok"), ("passed", "ok"), ("failed", "exit-status")
    ]  # fmt: skip
    assert log(tmp_path, 1).count("\\x1e") + log(tmp_path, 1).count("\x1e") == 5


def test_a_server_that_dies_is_the_hosts_fault(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes]
) -> None:
    write(tmp_path, "test:\n  commands:\n    - hangs.exe\n    - code.exe 0\n", programs)
    killer = threading.Thread(target=signal_server, args=(str(tmp_path), signal.SIGKILL))
    killer.start()

    ran = run(tmp_path, prefix, MANUALBUILD_CACHE=str(tmp_path / "cache"))
    killer.join()

    assert ran.status == 16, ran.out
    assert "While running: win10: the host was lost: its wineserver ended." in ran.out
    assert outcomes(tmp_path)["commands[0]: hangs.exe"] == ("error", "host-lost")
    assert outcomes(tmp_path)["commands[1]: code.exe 0"] == ("error", "host-lost")
    assert left_over(str(tmp_path)) == []
    assert list((tmp_path / "cache/runs").iterdir()) == []


def test_a_server_that_hangs_is_the_hosts_fault(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SILENCE_S", 1.0)
    begun = Run.begin()
    host = Host(name="w", kind="wine", subdir="win-64", root=str(prefix))
    connection = hosts.provider("wine").start(host, begun, [], lambda _: None)
    try:
        running = connection.start("@echo up\n:again\n@goto again\n")
        while running.next_event(30.0) is None:
            pass
        signal_server(str(begun.folder), signal.SIGSTOP, "cmd.exe")

        with pytest.raises(HostLost, match="it did not answer within 1 s"):
            running.kill()
    finally:
        connection.close()
        hosts.sweep(begun)
    assert left_over(str(begun.folder)) == []


def test_nothing_is_at_a_random_place_in_the_memory_of_its_programs(prefix: Path) -> None:
    if len(wine.loader()) == 1:
        pytest.skip("random places cannot be switched off here")
    begun = Run.begin()
    host = Host(name="w", kind="wine", subdir="win-64", root=str(prefix))
    connection = hosts.provider("wine").start(host, begun, [], lambda _: None)
    try:
        running = connection.start("@cmd /c echo up\n:again\n@goto again\n")
        while running.next_event(30.0) is None:
            pass
        found = {}
        for process in left_over(str(begun.folder)):
            with contextlib.suppress(OSError):
                name = (process / "comm").read_text().strip()
                found[name] = int((process / "personality").read_text(), 16) & ADDR_NO_RANDOMIZE
    finally:
        connection.close()
        hosts.sweep(begun)

    servers = {name for name in found if name.startswith("wineserver")}
    assert {"cmd.exe", "services.exe"} <= found.keys()
    assert [name for name in found.keys() - servers if not found[name]] == []


def left_over(word: str) -> list[Path]:
    """Return the folders in /proc of the processes with that word in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "environ").read_bytes() and folder.name != str(
                os.getpid()
            ):
                found.append(folder)
    return found


def wait_for(name: str, word: str) -> dict[int, str]:
    """Wait for a program; return the names of the processes with that word in their environment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = {}
        for folder in left_over(word):
            with contextlib.suppress(OSError):
                names[int(folder.name)] = (folder / "comm").read_text().strip()
        if name in names.values():
            return names
        time.sleep(0.05)
    return {}


def signal_server(word: str, how: signal.Signals, program: str = "hangs.exe") -> None:
    """Wait for a program; then send a signal to the server of its prefix."""
    for number, name in wait_for(program, f"WINEPREFIX={word}").items():
        if name.startswith("wineserver"):
            os.kill(number, how)


def test_nothing_is_left_of_a_controller_that_was_killed(
    tmp_path: Path, prefix: Path, programs: dict[str, bytes]
) -> None:
    write(tmp_path, "test:\n  commands:\n    - hangs.exe\n", programs)
    write_matrix(tmp_path, prefix)
    word, cache = f"WINEPREFIX={tmp_path}", str(tmp_path / "cache")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--recipe", "recipe", "--matrix", "wine.toml"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MANUALBUILD_CACHE": cache},
    )  # fmt: skip
    hangs = wait_for("hangs.exe", word)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert hangs, "the program did not start"
    swept = manualbuild("hosts", "sweep", cwd=tmp_path, MANUALBUILD_CACHE=cache)

    assert swept.status == 0, swept.out
    assert left_over(word) == []
    assert list((tmp_path / "cache/runs").iterdir()) == []


def test_the_run_test_bat_of_a_downstream_package_is_run(
    tmp_path: Path, prefix: Path, windows_python: str
) -> None:
    write(tmp_path, "test:\n  downstreams:\n    - glad\n    - sad\n", {})
    for name, status in {"glad": "0", "sad": "1"}.items():
        built = builder.Built(
            recipe=None,
            name=name,
            version="1",
            files={f"share/{name}.txt": builder.Staged(data=b"x")},
            subdir="win-64",
            depends=("odd", "python"),
            info={
                "info/test/run_test.py": b"print('here')\n",
                "info/test/run_test.bat": f"echo here\r\nexit /B {status}\r\n".encode(),
            },
        )
        builder.write(built, tmp_path / "channel", ".conda")
    index_channel(tmp_path / "channel")

    channels = ("--channel", (tmp_path / "channel").as_uri(), "--channel", windows_python)
    ran = run(tmp_path, prefix, *channels)

    assert ran.status == 1, ran.out
    assert outcomes(tmp_path) == {
        "install": ("passed", "ok"),
        "downstreams: glad": ("passed", "ok"),
        "downstreams: sad": ("failed", "exit-status"),
    }
