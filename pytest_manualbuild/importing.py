"""Imports what holds no tests, past pytest's hook for what does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder


@contextmanager
def past_pytest() -> Iterator[None]:
    """Let Python find modules by itself.

    pytest reads each module of a plugin in its own way, to rewrite the assertions of tests, and
    compares the name of any other with patterns: half of the time that ours take to be imported.
    """
    sys.meta_path.insert(0, PathFinder)
    try:
        yield
    finally:
        sys.meta_path.remove(PathFinder)
