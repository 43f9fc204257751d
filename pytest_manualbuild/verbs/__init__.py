"""The verbs of ``manualbuild``, by subject: arguments in, one call, its answer printed."""

from __future__ import annotations

import argparse
from pathlib import Path


def place(text: str) -> Path:
    """Return the path that an argument gives."""
    if not text:  # what a script gives whose variable is not set; it means the current folder
        raise argparse.ArgumentTypeError("it is empty; give a folder")
    return Path(text)
