"""JSON without the liberties of the usual readers, on which two readers may disagree."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(data: bytes) -> Any:  # noqa: ANN401 # JSON's values
    """Read JSON in UTF-8, without a mark before it, that has no doubled key and no NaN or infinity.

    Raises ValueError, or RecursionError for what is nested too deeply.
    """
    return json.loads(
        data.decode(),
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_float=_finite,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number
