"""How pytest-xdist shares the checks out: all those of a host go to one worker."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

_CELL = re.compile(r"\[([^/\[\]]+)/")


class HostScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist publishes no types
    """One scope for each host; a node id is ``RECIPE::HOST::PACKAGE::CHECK``.

    That of a recipe's own test function is ``RECIPE::FILE::FUNCTION[HOST/PACKAGE/...]``.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the part of a node id that is the same for all checks of a host."""
        recipe, place, *_ = nodeid.split("::")
        if "/" in place and (found := _CELL.search(nodeid)):
            place = found[1]
        return f"{recipe}::{place}"
