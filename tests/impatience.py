"""A plugin of pytest (``-p impatience``): a silent host is lost sooner than for users."""

from __future__ import annotations

from pytest_manualbuild import shells

HEARTBEAT_S = 0.5
SILENCE_S = 3.0


def pytest_configure() -> None:
    shells.HEARTBEAT_S, shells.SILENCE_S = HEARTBEAT_S, SILENCE_S
