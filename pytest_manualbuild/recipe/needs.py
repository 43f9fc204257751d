"""Reads what a recipe says its tests need of a host: ``extra/manualbuild/needs``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pytest_manualbuild.errors import RecipeError

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def needs(extra: object, where: object) -> tuple[str, ...]:
    """Return the names in an ``extra`` section; RecipeError, naming ``where``, for another form.

    Which of them a host can give is not asked here: an unknown one is one that none can give.
    """
    if not isinstance(extra, Mapping) or "manualbuild" not in extra:
        return ()
    ours: Any = extra["manualbuild"]
    named = ours.get("needs") if isinstance(ours, Mapping) else None
    if not isinstance(named, list):
        # In a meta.yaml, `needs: [internet]` is a line with a selector, and is left out.
        raise RecipeError(
            f"{where}: extra/manualbuild has no list of `needs`.",
            remedy="Write each need on a line of its own: `- internet`.",
        )
    for name in named:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RecipeError(
                f"{where}: extra/manualbuild/needs: {name!r} is no name of a need.",
                remedy="Write names such as internet, root or display.",
            )
    return tuple(dict.fromkeys(named))
