"""Runs the test section of one package on one host, and turns events into results.

Nothing here starts or stops hosts, and nothing here judges. What the host does
wrong is raised (``HostError``); what the package does wrong is a result.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_manualbuild import preamble
from pytest_manualbuild.capture import Capture
from pytest_manualbuild.environment import post_link
from pytest_manualbuild.errors import Interrupted
from pytest_manualbuild.hosts.base import Connection, Exit, Mark, Output, Running
from pytest_manualbuild.languages import LANGUAGES
from pytest_manualbuild.model import (
    Artifact,
    Cause,
    Check,
    CheckResult,
    InstalledPackage,
    LinkedEnvironment,
    Outcome,
    PlannedPackage,
)

POLL_S = 0.2
"""How often a wait looks up to see whether it should stop; it adds nothing to a result."""
SHORT_S = 60.0
"""Time limit of our own small scripts on a host, in seconds."""

# What conda gives to a post-link script (gateways/subprocess.py, link.py), which ran at install.
_POST_LINK = """\
mark {mark}
PKG_NAME={name} PKG_VERSION={version} PKG_BUILDNUM={number} ROOT_PREFIX=$PREFIX \\
  PATH=$PREFIX/bin:$PATH bash "$PREFIX/"{script} || exit $?
"""
# conda activates under errexit: a failing script in activate.d fails the test.
_ACTIVATE = """\
set -e
cd {work}
_mb_work=$PWD
export PATH={prefix}/bin:$PATH
for _mb_script in {prefix}/etc/conda/activate.d/*.sh; do
  if [ -e "$_mb_script" ]; then . "$_mb_script"; fi
done
{too}set +e
unset _mb_script
mark 'activated'
"""
# A test may say so with a file of this name (conda-build, build.py).
_TEST_FAILED = "if [ -e TEST_FAILED ]; then mark 'test-failed'; fi\n"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one package is tested."""

    host: str
    folder: str
    """On the host: the folder of the tests goes below it."""
    logs: Path
    """On the controller: the folder of this host's and package's logs."""
    evidence: Path
    """The folder of the evidence; logs are named relative to it."""


Give = Callable[[CheckResult], None]


class SectionRun:
    """One run of one package's test section: give it a connection, it gives results."""

    def __init__(
        self,
        planned: PlannedPackage,
        environment: LinkedEnvironment,
        place: Place,
        give: Give,
        *,
        check_timeout_s: float,
        stopped: Callable[[], bool],
        build: LinkedEnvironment | None = None,
    ) -> None:
        self._planned = planned
        self._environment = environment
        self._build = build
        self._place = place
        self._give = give
        self._check_timeout_s = check_timeout_s
        self._stopped = stopped
        self._given: set[int] = set()
        self._open: list[int] = []
        """Checks that began and did not end; several when they make one statement."""
        self._began_s = 0.0
        self._linking = ""
        """The package whose post-link script ran last, until the environment is activated."""
        self._held: CheckResult | None = None
        """The result of the last check, unless it failed: ``TEST_FAILED`` may still change it."""
        self._capture = self._new_capture(0)

    def run(self, connection: Connection, scripts: Mapping[str, bytes]) -> bool:
        """Run every check; return whether the host is clean enough for the next package.

        ``scripts`` has the recipe's test files by their path. Raises HostError when the host
        failed; the checks that were given no result by then have none.
        """
        work = f"{self._place.folder}/work"
        script = self._script(work, connection, scripts)
        self._began_s = time.monotonic()
        self._open = [0]  # `install` ends when the environment was activated
        running = connection.start(script)
        try:
            return self._follow(running)
        finally:
            self._capture.close()

    def _script(self, work: str, connection: Connection, scripts: Mapping[str, bytes]) -> str:
        def parses(texts: Sequence[str]) -> list[bool]:
            # bash only warns of a here-document without its end, so words on stderr count too.
            script = "".join(
                f'if [ -z "$(bash -n -c {shlex.quote(text)} 2>&1 || echo no)" ];'
                " then echo yes; else echo no; fi\n"
                for text in texts
            )
            said = connection.run(script, timeout_s=SHORT_S).stdout.split()
            return [
                word == b"yes" and not text.endswith("\\")
                for word, text in zip(said, texts, strict=True)
            ]

        prefix = shlex.quote(self._environment.prefix)
        (section,) = self._planned.sections
        too = preamble.activate_too(self._build)
        script = variables(self._planned.artifact, self._environment, work)
        script += preamble.before(section, self._planned.artifact)
        for name in self._environment.post_link:
            script += _post_link(next(p for p in self._environment.packages if p.name == name))
        script += _ACTIVATE.format(prefix=prefix, work=shlex.quote(work), too=too)
        script += preamble.after(section)
        files = dict(scripts)
        for language in LANGUAGES:
            numbered = [
                (number, check)
                for number, check in enumerate(self._planned.checks)
                if check.language == language.NAME
            ]
            if numbered:
                piece = language.piece(numbered, dict(scripts), parses)
                script += piece.script
                files.update(piece.files)
        connection.put(work, files)
        return f"{script}cd {shlex.quote(work)}\n{_TEST_FAILED}"

    def _follow(self, running: Running) -> bool:
        clean = True
        while True:
            if self._stopped():
                running.kill()
                raise Interrupted("The run was interrupted.", remedy="Run it again.")
            event = running.next_event(POLL_S)
            if isinstance(event, Output):
                self._capture.add(event.stream, event.data)
            elif isinstance(event, Mark):
                self._mark(event.text)
            elif isinstance(event, Exit):
                self._exit(event.status)
                return clean
            elif self._open and time.monotonic() - self._began_s > self._check_timeout_s:
                # Raises HostLost when the host does not answer: then it is not the package's fault.
                running.kill()
                self._end_open(
                    Outcome.FAILED,
                    Cause.TIMEOUT,
                    message=f"It ran longer than {self._check_timeout_s:g} s and was killed.",
                )
                clean = False

    def _mark(self, text: str) -> None:
        if text == "activated":
            self._linking = ""
            self._end_open(Outcome.PASSED, Cause.OK, exit_status=0)
            return
        for part in text.split(";"):
            word, _, rest = part.strip().partition(" ")
            if word == "begin":
                if not self._open:
                    self._began_s = time.monotonic()
                    self._capture.close()
                    self._capture = self._new_capture(int(rest))
                self._open.append(int(rest))
            elif word == "end":
                number, status, *died = rest.split()
                self._ended(int(number), int(status), died=bool(died))
            elif word == "shell":
                self._shell_ended(int(rest))
            elif word == "link":
                self._linking = rest
            elif word == "test-failed":
                self._test_failed()

    def _ended(self, number: int, status: int, *, died: bool) -> None:
        if number not in self._open:
            return
        if status == 0 and not died:
            self._result(number, Outcome.PASSED, Cause.OK, exit_status=0)
        elif died:
            self._result(
                number,
                Outcome.FAILED,
                Cause.EXIT_STATUS,
                exit_status=status,
                message=f"It ended its process with exit status {status}.",
            )
        else:
            self._failed_with(number, status)
        self._open.remove(number)

    def _failed_with(self, number: int, status: int) -> None:
        self._result(
            number,
            Outcome.FAILED,
            Cause.EXIT_STATUS,
            exit_status=status,
            message=f"It ended with exit status {status}.",
        )

    def _shell_ended(self, status: int) -> None:
        """Conclude the one shell of ``run_test.sh`` and the commands."""
        if self._open:
            # `exit 0` in the middle: what began and ended the shell did what it was asked to.
            for number in self._open:
                if status == 0:
                    self._result(number, Outcome.PASSED, Cause.OK, exit_status=0)
                else:
                    self._failed_with(number, status)
            self._open = []
        elif status != 0:
            # It failed between two checks, and what cannot be told apart must not look passed.
            for number in self._left("shell")[:1]:
                self._failed_with(number, status)
        for number in self._left("shell"):
            self._not_reached(number, f"The shell ended before it, with exit status {status}.")

    def _test_failed(self) -> None:
        message = "A test left the file TEST_FAILED."
        last = len(self._planned.checks) - 1
        if self._held is not None:
            self._held = replace(
                self._held, outcome=Outcome.FAILED, cause=Cause.TEST_FAILED, message=message
            )
        else:
            self._result(last, Outcome.FAILED, Cause.TEST_FAILED, message=message)

    def _exit(self, status: int) -> None:
        if self._open == [0]:
            what = (
                f"{self._linking}'s post-link script failed"
                if self._linking
                else ("The environment cannot be activated")
            )
            self._end_open(
                Outcome.FAILED,
                Cause.EXIT_STATUS,
                exit_status=status,
                message=f"{what}: exit status {status}.",
            )
        elif self._open:
            self._end_open(
                Outcome.FAILED,
                Cause.EXIT_STATUS,
                exit_status=status,
                message=f"It ended the whole test section with exit status {status}.",
            )
        for number in self._left():
            self._not_reached(number, "The test section ended before it.")
        if self._held is not None:
            self._give(self._held)

    def _left(self, language: str | None = None) -> list[int]:
        return [
            number
            for number, check in enumerate(self._planned.checks)
            if number not in self._given and language in (None, check.language)
        ]

    def _not_reached(self, number: int, message: str) -> None:
        self._capture.close()
        self._capture = self._new_capture(number)
        self._began_s = time.monotonic()
        self._result(number, Outcome.SKIPPED, Cause.NOT_REACHED, message=message)

    def _end_open(
        self, outcome: Outcome, cause: Cause, *, message: str = "", exit_status: int | None = None
    ) -> None:
        for number in self._open:
            self._result(number, outcome, cause, message=message, exit_status=exit_status)
        self._open = []

    def _result(
        self,
        number: int,
        outcome: Outcome,
        cause: Cause,
        *,
        message: str = "",
        exit_status: int | None = None,
    ) -> None:
        if number in self._given:
            return
        self._given.add(number)
        self._capture.close()
        log = self._capture.log
        result = CheckResult(
            host=self._place.host,
            package=self._planned.artifact.key,
            check=self._planned.checks[number].name,
            outcome=outcome,
            cause=cause,
            message=message,
            exit_status=exit_status,
            duration_s=time.monotonic() - self._began_s,
            stdout=self._capture.stdout.text(),
            stderr=self._capture.stderr.text(),
            log=str(log.relative_to(self._place.evidence)) if self._capture.wrote else None,
        )
        last = number and number == len(self._planned.checks) - 1
        if last and outcome in (Outcome.PASSED, Outcome.SKIPPED):
            self._held = result
        else:
            self._give(result)

    def _new_capture(self, number: int) -> Capture:
        return Capture(self._place.logs / log_name(number, self._planned.checks[number]))


def _post_link(installed: InstalledPackage) -> str:
    number = re.search(r"\d+$", installed.build)
    return _POST_LINK.format(
        mark=shlex.quote(f"link {installed.name}"),
        name=shlex.quote(installed.name),
        version=shlex.quote(installed.version),
        number=number.group() if number else "0",
        script=shlex.quote(post_link(installed.name)),
    )


def log_name(number: int, check: Check) -> str:
    """Return a check's log file name: safe on every file system, in the order of the plan."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", check.name).strip("-.")[:60]
    return f"{number:03d}-{safe or 'check'}.txt"


def variables(artifact: Artifact, environment: LinkedEnvironment, work: str) -> str:
    """Return the exports that conda-build documents for the time of the test (environ.py)."""
    subdir = "linux-64" if artifact.subdir == "noarch" else artifact.subdir
    system, _, arch = subdir.partition("-")
    values = {name: value for name, value in artifact.variant.items() if _NAME.fullmatch(name)}
    values |= {
        "ARCH": {"64": "64", "32": "32"}.get(arch, arch),
        "CMAKE_GENERATOR": "Unix Makefiles",
        "CONDA_BUILD": "1",
        "CONDA_BUILD_STATE": "TEST",
        "CONDA_DEFAULT_ENV": environment.prefix,
        "CONDA_PREFIX": environment.prefix,
        "CONDA_SHLVL": "1",
        "PKG_BUILDNUM": str(artifact.build_number),
        "PKG_BUILD_STRING": artifact.build,
        "PKG_CONFIG_PATH": f"{environment.prefix}/lib/pkgconfig",
        "PKG_NAME": artifact.name,
        "PKG_VERSION": artifact.version,
        "PREFIX": environment.prefix,
        "PYTHONNOUSERSITE": "1",
        "RECIPE_DIR": work,
        "SHLIB_EXT": ".dylib" if system == "osx" else ".so",
        "SRC_DIR": work,
        "SUBDIR": subdir,
        "build_platform": subdir,
    }
    if hashed := re.search(r"h[0-9a-f]{7}", artifact.build):
        values["PKG_HASH"] = hashed.group()
    if system == "linux":
        values["LD_RUN_PATH"] = f"{environment.prefix}/lib"
    for installed in environment.packages:
        if installed.name == "python":
            short = ".".join(installed.version.split(".")[:2])
            values["PY_VER"] = short
            values["CONDA_PY"] = short.replace(".", "")
            values["STDLIB_DIR"] = f"{environment.prefix}/lib/python{short}"
            values["SP_DIR"] = f"{environment.prefix}/lib/python{short}/site-packages"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(values.items())]
    lines.append('export CPU_COUNT="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"')
    return "\n".join(lines) + "\n"
