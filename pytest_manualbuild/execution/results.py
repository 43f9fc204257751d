"""Turns what a section's script says into one result for each check.

Fails closed: a check is passed only when its own end was heard, and the last
one only when the whole script came to its end. What conda-build would call
failed can then never be all passed here, whatever the tests do to their shell.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild.execution.capture import Budget, Capture
from pytest_manualbuild.execution.marks import Heard, Said
from pytest_manualbuild.model import Check, CheckKind, PlannedPackage
from pytest_manualbuild.records import Cause, CheckResult, Outcome

_CRASHES = {
    0xC0000005: "access violation",
    0xC000007B: "a DLL is for another processor",
    0xC00000FD: "stack overflow",
    0xC0000135: "a DLL that it needs is not there",
    0xC0000139: "a DLL lacks a function that it needs",
    0xC0000142: "a DLL cannot be initialised",
    0xC0000374: "heap corruption",
    0xC0000409: "stack buffer overrun",
}


_NOT_0 = r"(?!\s+(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])(?:[\s;'\"]|$))"
_TRAP = re.compile(rf"\btrap\b.*\bexit\b{_NOT_0}", re.DOTALL)
"""What may end a shell with 0 in a way that says nothing of why."""
_FIRST = r"(?:^|[;&|({!\n]|(?<!\S)(?:then|else|do|time|builtin|command)\s)[ \t]*"
"""Where the name of a command stands, and no argument of one."""
_ENDS = re.compile(rf"{_FIRST}(?:(?:exit{_NOT_0}|exec)(?![^\s;&|)}}])|(?:\.|source|eval)\s)")
"""What may end a shell of its own will, or bring what does."""
_HERE = re.compile(r"(?<!<)<<(?!<)-?\s*['\"\\]?([\w.]+)")
"""A here-document, with the word that ends it: without that it takes all that follows."""
_MAY_TRAP = re.compile(r"\btrap\b|(?:^|[\s;&|({])(?:\.|source|eval)\s")
"""What may set a trap, or bring what does."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one package is tested."""

    host: str
    folder: str
    """On the host: the folder of the tests goes below it."""
    logs: Path
    """On the controller: the folder of this host's and package's logs."""
    evidence: Path
    """The folder of the evidence; logs are named relative to it."""


class Results:
    """Gives a result for each check of one section, as soon as it is certain."""

    def __init__(
        self, planned: PlannedPackage, place: Place, give: Callable[[CheckResult], None]
    ) -> None:
        self._checks = planned.checks
        self._package = planned.artifact.key
        self._place = place
        self._give = give
        self._given: set[int] = set()
        # `install` ends when the environment was activated; not every section begins with it.
        self._open = [0] if planned.checks[0].kind is CheckKind.INSTALL else []
        """Checks that began and did not end; several when they make one statement."""
        self._returned = 0
        """What the command under way returned to its shell, where that tells."""
        self._has_no_end = False
        """Whether the statement that began last has no end, as its shell says."""
        self._activated = False
        self._linking = ""
        """The package whose post-link script ran last, until the environment is activated."""
        self._complete = False
        self._failure = False
        """Whether a check failed."""
        self._held: CheckResult | None = None
        """The result of the last check, until the script came to its end."""
        self._budget = Budget()
        self.sourced: tuple[str, ...] = ()
        """Texts besides the commands that their shell has read, or may have."""
        self.began_s = time.monotonic()
        """When what is under way began, on the clock of ``time.monotonic``."""
        self._capture = self._new_capture(0)

    def output(self, stream: str, data: bytes) -> None:
        """Take output of whatever is under way."""
        self._capture.add(stream, data)

    def close(self) -> None:
        """Close the log that is being written."""
        self._capture.close()

    def heard(self, mark: Heard) -> None:
        """Take a mark of the script."""
        match mark.said:
            case Said.LINKING:
                self._linking = mark.name
            case Said.ACTIVATED:
                self._activated = True
                installs = [n for n in self._open if self._checks[n].kind is CheckKind.INSTALL]
                self._end(installs, Outcome.PASSED, Cause.OK, exit_status=0)
            case Said.BEGUN | Said.BEGUN_OPEN:
                self._has_no_end = mark.said is Said.BEGUN_OPEN
                self._begun(mark.numbers)
            case Said.ENDED:
                self._ended(mark)
            case Said.WENT_ON:
                self._went_on(mark)
            case Said.RETURNED:
                self._returned = mark.status
            case Said.SHELL_ENDED:
                self._shell_ended(mark.status)
            case Said.TEST_FAILED:
                self._last_failed(Cause.TEST_FAILED, "A test left the file TEST_FAILED.")
            case Said.COMPLETE:
                self._complete = True

    def overran(self, message: str) -> None:
        """Conclude that what is under way was killed, since it ran for too long."""
        under_way = self._open or self._left()[:1]
        if under_way:
            self._end(under_way, Outcome.FAILED, Cause.TIMEOUT, message=message)
        else:
            self._last_failed(Cause.TIMEOUT, message)

    def over(self, status: int) -> None:
        """Conclude: the script ended with this status, and nothing more comes."""
        if not self._activated and not self._failure:
            what = "The environment cannot be activated"
            if self._linking:
                what = f"{self._linking}'s post-link script failed"
            # Without a check of its own, the first one that needs the environment says it.
            self._failed(self._open or self._left()[:1], status, f"{what}: exit status {status}.")
        elif self._open:
            self._failed(
                self._open, status, f"It ended the whole test section with exit status {status}."
            )
        elif (not self._complete or status != 0) and not self._failure:
            message = f"Something ended the whole test section, with exit status {status}."
            if left := self._left():
                self._failed(left[:1], status, message)
            else:
                self._last_failed(Cause.EXIT_STATUS, message, status)
        for number in self._left():
            self._not_reached(number, Cause.NOT_REACHED, "The test section ended before it.")

    def finish(self) -> None:
        """Give the last result."""
        if self._held is not None:
            self._give(self._held)

    def _begun(self, numbers: Collection[int]) -> None:
        if not self._open:
            self.began_s = time.monotonic()
            self._capture.close()
            self._capture = self._new_capture(min(numbers))
        self._returned = 0
        self._open = [*self._open, *numbers]

    def _ended(self, mark: Heard) -> None:
        numbers = [number for number in mark.numbers if number in self._open]
        if mark.died:
            message = f"It ended its process with exit status {mark.status}."
            self._failed(numbers, mark.status, message)
        elif mark.status:
            self._failed(numbers, mark.status)
        else:
            self._end(numbers, Outcome.PASSED, Cause.OK, exit_status=0)

    def _went_on(self, mark: Heard) -> None:
        """Conclude checks whatever they returned: `set -e` heeds no status of `! true`."""
        numbers = [number for number in mark.numbers if number in self._open]
        note = f"It returned {mark.status}, and its shell, as set, went on."
        notes = (note,) if mark.status else ()
        self._end(numbers, Outcome.PASSED, Cause.OK, exit_status=0, notes=notes)
        if mark.begun:
            self._has_no_end = False
            self._begun(mark.begun)

    def _shell_ended(self, status: int) -> None:
        """Conclude the one shell of ``run_test.sh`` and the commands."""
        if self._open and status == 0 and not self._trapped():
            # `exit 0` in the middle: what began and ended the shell did what it was asked to.
            self._end(self._open, Outcome.PASSED, Cause.OK, exit_status=0)
        elif self._open and status == 0:
            message = "The shell ended in it with exit status 0: a trap may hide that it failed."
            self._end(self._open, Outcome.FAILED, Cause.EXIT_STATUS, message=message)
        elif self._open:
            # cmd's scripts end with 1 whatever a command returned.
            self._failed(self._open, self._returned or status)
        elif status != 0 and (left := self._left("shell")):
            # It failed between two checks, and what cannot be told apart must not look passed.
            self._failed(left[:1], status)
        elif status != 0:
            self._last_failed(
                Cause.EXIT_STATUS,
                f"Every command ended well, and then their shell with exit status {status}.",
                status,
            )
        for number in self._left("shell"):
            if status == 0:
                message = "The shell ended before it with exit status 0, which conda-build passes."
                self._not_reached(number, Cause.EXIT_0, message)
            else:
                message = f"The shell ended before it, with exit status {status}."
                self._not_reached(number, Cause.NOT_REACHED, message)

    def _trapped(self) -> bool:
        """Say whether a command may have failed, and a trap ended the shell with 0 for all that.

        Where a command asks for no end itself, but the shell ended in it, a trap is all it can be.
        """
        commands = [one.text for one in self._checks if one.kind is CheckKind.COMMAND]
        if any(map(_TRAP.search, commands)):
            return True
        under_way = [self._checks[number] for number in self._open]
        return (
            all(one.kind is CheckKind.COMMAND for one in under_way)
            and not any(_ENDS.search(one.text) for one in under_way)
            and not (self._has_no_end and _unfinished("\n".join(one.text for one in under_way)))
            and any(map(_MAY_TRAP.search, (*commands, *self.sourced)))
        )

    def _last_failed(self, cause: Cause, message: str, status: int | None = None) -> None:
        """Conclude that the section failed after its last check: that one takes the blame."""
        if self._held is None:
            self._end(self._left()[-1:], Outcome.FAILED, cause, message=message, exit_status=status)
        elif self._held.outcome is not Outcome.FAILED:
            self._failure = True
            self._held = replace(
                self._held,
                outcome=Outcome.FAILED,
                cause=cause,
                message=message,
                exit_status=self._held.exit_status if status is None else status,
            )

    def _failed(self, numbers: Collection[int], status: int, message: str = "") -> None:
        self._end(
            numbers,
            Outcome.FAILED,
            Cause.EXIT_STATUS,
            message=message or f"It ended with exit status {status}{_known(status)}.",
            exit_status=status,
        )

    def _not_reached(self, number: int, cause: Cause, message: str) -> None:
        self._capture.close()
        self._capture = self._new_capture(number)
        self.began_s = time.monotonic()
        self._end([number], Outcome.SKIPPED, cause, message=message)

    def _left(self, language: str | None = None) -> list[int]:
        return [
            number
            for number, check in enumerate(self._checks)
            if number not in self._given and language in (None, check.language)
        ]

    def _end(
        self,
        numbers: Collection[int],
        outcome: Outcome,
        cause: Cause,
        *,
        message: str = "",
        exit_status: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Give these checks their result, and each check no more than one."""
        for number in [number for number in numbers if number not in self._given]:
            self._given.add(number)
            self._failure |= outcome is Outcome.FAILED
            self._capture.close()
            stdout, stderr = self._capture.excerpts(passed=outcome is Outcome.PASSED)
            result = CheckResult(
                host=self._place.host,
                package=self._package,
                check=self._checks[number].name,
                outcome=outcome,
                cause=cause,
                message=message,
                exit_status=exit_status,
                duration_s=time.monotonic() - self.began_s,
                stdout=stdout,
                stderr=stderr,
                log=self._capture.name(self._place.evidence),
                notes=notes,
            )
            if number == len(self._checks) - 1:
                self._held = result
            else:
                self._give(result)
        self._open = [number for number in self._open if number not in numbers]
        self.began_s = time.monotonic()

    def _new_capture(self, number: int) -> Capture:
        log = self._place.logs / log_name(number, self._checks[number])
        return Capture(log, self._budget)


def _unfinished(text: str) -> bool:
    """Say whether commands leave a here-document open, with which their shell just ends."""
    lines = {line.lstrip("\t") for line in text.split("\n")}
    return any(word not in lines for word in _HERE.findall(text))


def _known(status: int) -> str:
    """Return what Windows means by an exit status, as far as it is one of its own."""
    code = status & 0xFFFFFFFF
    return f" (0x{code:08X}: {_CRASHES[code]})" if code in _CRASHES else ""


def log_name(number: int, check: Check) -> str:
    """Return a check's log file name: safe on every file system, in the order of the plan."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", check.name).strip("-.")[:60]
    return f"{number:03d}-{safe or 'check'}.txt"
