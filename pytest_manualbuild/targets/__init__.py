"""Where packages are published: one file for each kind of target, and one line here."""

from __future__ import annotations

from pathlib import Path

from pytest_manualbuild.errors import UploadError
from pytest_manualbuild.targets.base import UploadTarget


def open_target(to: str, *, user: str | None, label: str, staging: str | None) -> UploadTarget:
    """Return the target that ``--to`` names: ``anaconda``, or a folder that is a channel.

    ``staging`` is the label that files have until they were read back; None: they get ``label``
    at once.
    Raises UploadError when what it needs was not given.
    """
    if not to:
        raise UploadError("--to is empty.", remedy="Name a folder, or anaconda.")
    if to != "anaconda":
        from pytest_manualbuild.targets.directory import DirectoryTarget  # noqa: PLC0415 # one of

        return DirectoryTarget(Path(to))
    if not user:
        raise UploadError(
            "--to anaconda wants the owner of the channel.", remedy="Give it with --user OWNER."
        )
    from pytest_manualbuild.targets.anaconda import AnacondaTarget  # noqa: PLC0415 # slow to load

    return AnacondaTarget(user, label, staging=staging)
