"""How long a host may take: our limits, times what the matrix says of it (``timeout_factor``).

The factor belongs to whoever works with a host, in a thread of its own, and not to each of the
calls on the way to the one that waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from pytest_manualbuild.model import Host

_FACTOR: ContextVar[float] = ContextVar("timeout_factor", default=1.0)


@contextlib.contextmanager
def with_host(host: Host) -> Iterator[None]:
    """Wait for this host as long as its matrix wants it, in this thread."""
    token = _FACTOR.set(host.timeout_factor)
    try:
        yield
    finally:
        _FACTOR.reset(token)


def patient(seconds: float) -> float:
    """Return how many seconds something that usually has so many may take on this host."""
    return seconds * _FACTOR.get()
