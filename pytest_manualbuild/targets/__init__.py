"""Where packages are published: one file for each kind of target, and one line here."""

from __future__ import annotations

from pathlib import Path

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.gate.policy import is_label, is_owner
from pytest_manualbuild.targets.base import UploadTarget

ANACONDA = "anaconda"


def as_label(text: str) -> str:
    """Return a label as it was given; UploadError if it can be none."""
    if not is_label(text):
        raise UploadError(f"{text!r} is not a label.", remedy="Give one such as 'manual'.")
    return text


def as_owner(text: str) -> str:
    """Return an owner as it was given; UploadError if nobody can have that name."""
    if not is_owner(text):
        raise UploadError(f"{text!r} owns no channel.", remedy="Give a name such as 'jane'.")
    return text


def open_target(
    to: str, *, user: str | None, label: str, staging: str | None, option: str = "--to"
) -> UploadTarget:
    """Return the target that ``--to`` names: ``anaconda``, or a folder that is a channel.

    ``staging`` is the label that files have until they were read back; None: they get ``label``
    at once. ``option`` is what named it, for messages.
    Raises UploadError when what it needs was not given.
    """
    if not to:
        raise UploadError(f"{option} is empty.", remedy=f"Name a folder, or {ANACONDA}.")
    if to != ANACONDA and to.lower() == ANACONDA:
        raise UploadError(
            f"{option} {to}: the target is called {ANACONDA}.",
            remedy=f"Write it so; a folder of that name is ./{to}.",
        )
    if user is not None:
        as_owner(user)
    if to != ANACONDA:
        from pytest_manualbuild.targets.directory import DirectoryTarget  # noqa: PLC0415 # one of

        return DirectoryTarget(Path(to))
    if user is None:
        raise UploadError(
            f"{option} {ANACONDA} wants the owner of the channel.",
            remedy="Give it with --user OWNER.",
        )
    from pytest_manualbuild.targets.anaconda import AnacondaTarget  # noqa: PLC0415 # slow to load

    return AnacondaTarget(user, label, staging=staging)
