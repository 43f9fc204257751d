"""Execution: every host at once, each check with a result of its own."""
