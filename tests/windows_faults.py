"""What the tests of Windows that breaks share: over ssh and by WinRM, on the same stand-in.

Both ways lead to one machine of wine (``windows_ssh``, ``windows_winrm``), which is cut, stopped
and switched off as a real one would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import windows_winrm
from faults import Case, far
from windows_ssh import WindowsSsh
from windows_winrm import WindowsWinrm

from pytest_manualbuild import shells
from pytest_manualbuild.hosts import delivery, openssh, ssh_cmd, winrm, winrm_client
from pytest_manualbuild.records import CheckResult

TESTS = "test:\n  commands:\n    - ver\n    - hangs.exe\n    - ver\n"
NOISE = 'test:\n  commands:\n    - type "%PREFIX%\\share\\big"\n'


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice its silence sooner than users would."""
    rules = openssh._RULES.replace("Interval 5", "Interval 1").replace("CountMax 3", "CountMax 2")
    monkeypatch.setattr(openssh, "_RULES", rules)
    monkeypatch.setattr(winrm_client, "_OPERATION_S", 1)
    monkeypatch.setattr(winrm_client, "_ANSWER_S", 2)
    monkeypatch.setattr(shells, "START_S", 20.0)  # wine on a busy machine
    monkeypatch.setattr(ssh_cmd, "_SWEEP_S", 20.0)
    monkeypatch.setattr(winrm, "_SWEEP_S", 20.0)
    monkeypatch.setattr(delivery, "DELIVER_S", 20.0)


def kind(server: WindowsSsh) -> str:
    """Return the kind of its hosts."""
    return "winrm" if isinstance(server, WindowsWinrm) else "ssh"


def results(
    odd: Case, server: WindowsSsh, act: Callable[[], None] | None = None, more: str = "",
    tests: str = TESTS, staged: Mapping[str, str | bytes] | None = None,
) -> list[CheckResult]:  # fmt: skip
    """Run a package on it; then let the server be there again, and sweep."""
    if isinstance(server, WindowsWinrm):
        entry = (
            f'kind = "winrm"\naddress = "{windows_winrm.USER}@127.0.0.1"\nport = {server.port}\n'
            f'password_from = "env:WINDOWS_PASSWORD"\n'
            f"https = {str(server.scheme == 'https').lower()}\n{more}"
        )
    else:
        entry = far(server, f'shell = "cmd"\n{more}')
    found = odd.results(entry, act, tests=tests, staged=staged, subdir="win-64")
    if server.process is None:
        server.start()
    server.signal("CONT")
    server.shuts_down.unlink(missing_ok=True)
    odd.sweep()
    return found


def strike(server: WindowsSsh, fault: str) -> None:
    """Cut the line, stop the server, switch the machine off, or let it begin to shut down."""
    if fault == "power":
        server.switch_off()
    elif fault == "shut-down":
        server.shuts_down.touch()
    else:
        server.signal("STOP" if fault == "hang" else "KILL")
