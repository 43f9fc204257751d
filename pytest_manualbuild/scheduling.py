"""How pytest-xdist shares the checks out: all those of a host go to one worker."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class HostScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist publishes no types
    """One scope for each host; a node id is ``RECIPE::HOST::PACKAGE::CHECK``."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the part of a node id that is the same for all checks of a host."""
        return "::".join(nodeid.split("::")[:2])
