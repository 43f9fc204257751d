"""Every error that a user may see, with what to do about it and its exit status.

Nothing here knows where an error is shown: the front ends (``cli``, ``plugin``)
turn one into a line and an exit status.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ManualBuildError(Exception):
    """Base of the errors shown without a traceback.

    ``problem`` says what is wrong and where, ``remedy`` what to do about it,
    ``detail`` holds text of somebody else (a solver, an engine) in full.
    """

    exit_code = 4  # the status pytest uses for a mistake in how it was called

    def __init__(self, problem: str, *, remedy: str, detail: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        """Return the error in one line, the detail of others below it."""
        line = f"{self.problem} {self.remedy}"
        return f"{line}\n{self.detail}" if self.detail else line


def of_system(error: OSError) -> ManualBuildError:
    """Return what the system says of a path as an error that is shown in one line."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return ManualBuildError(
        f"{where}{error.strerror or error}.", remedy="Check that path, and the space on its disk."
    )


class RecipeError(ManualBuildError):
    """A recipe that cannot be rendered."""


class RendererMissing(RecipeError):
    """The renderer that was asked for is not installed: nothing about the recipe."""


class ArtifactError(ManualBuildError):
    """A package file that cannot be read, or that is not what its name says."""


class UnsafeArchive(ArtifactError):
    """A package file that must not be unpacked: a bomb, hidden data, a member out of place.

    ``code`` names the rule and ``member`` the part of the file, both for a finding.
    """

    def __init__(self, problem: str, *, remedy: str, code: str, member: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.code = code
        self.member = member


class BuildError(ManualBuildError):
    """A build by hand that cannot start, or that made nothing."""

    exit_code = 1


class MatrixError(ManualBuildError):
    """A matrix file that cannot be used."""


class PolicyError(ManualBuildError):
    """A policy file that cannot be used."""


class EvidenceError(ManualBuildError):
    """A folder of evidence that cannot be read or written."""


class SignatureError(ManualBuildError):
    """A signature that cannot be made, or that does not hold."""


class UploadError(ManualBuildError):
    """A package that was not published, or not as asked."""

    exit_code = 1


class TargetError(UploadError):
    """A target that cannot be read: what it serves is not known."""

    exit_code = 4


class HostError(ManualBuildError):
    """A host, engine, disk or network that keeps us from finding out.

    Never the package's fault: what raises it ends as outcome ``error``. ``phase`` says what was
    under way: provisioning, delivering, running or collecting; empty outside of a run.
    """

    exit_code = 16
    phase = ""

    @property
    def told(self) -> str:
        """What is wrong, beginning with the phase; without what to do about it."""
        return f"{self._while}{self.problem}"

    @property
    def _while(self) -> str:
        return f"While {self.phase}: " if self.phase else ""

    def __str__(self) -> str:
        """Return the error in one line that begins with the phase."""
        return f"{self._while}{super().__str__()}"


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
    """Write into a HostError what was under way; the innermost word stays.

    What is no error of ours becomes one, so that it is known at least when it came up.
    """
    try:
        yield
    except HostError as error:
        error.phase = error.phase or phase
        raise
    except ManualBuildError:
        raise
    except Exception as error:
        fault = HostError(
            f"Internal error: {type(error).__name__}: {error}.",
            remedy="Please report it with the log.",
        )
        fault.phase = phase
        raise fault from error


class HostUnavailable(HostError):
    """The host could not be started or reached."""


class HostLost(HostError):
    """The host went away, or stopped answering, while it was in use."""


class Interrupted(HostError):
    """The run was stopped while the host was in use."""


class ChannelError(HostError):
    """A channel that cannot be reached or read."""


class EnvironmentBroken(HostError):
    """The environment could not be linked or delivered, for no fault of the package."""


class Unsolvable(ManualBuildError):
    """The solver finds no environment for the package: the package's failure."""

    exit_code = 1


class Unreadable(Unsolvable):
    """The solver cannot read what is required: it does not even look for an environment."""


class Uninstallable(ManualBuildError):
    """The package cannot be linked into an environment: the package's failure."""

    exit_code = 1


class NotApplicable(ManualBuildError):
    """The host's facts cannot satisfy a virtual package that the package asks for."""

    exit_code = 8
