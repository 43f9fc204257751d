"""What a stranger wrote, made fit to be shown."""

from __future__ import annotations

TAIL_LINES = 40


def visible(text: str) -> str:
    """Show control characters instead of sending them to somebody's terminal or browser."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


def shown(text: object) -> str:
    """Return a text of several lines, such as an error, each of them made visible."""
    return "\n".join(map(visible, str(text).splitlines()))


def tail(text: str) -> list[str]:
    """Return the last lines of a check's output, made visible."""
    return [visible(line) for line in text.splitlines()[-TAIL_LINES:]]
