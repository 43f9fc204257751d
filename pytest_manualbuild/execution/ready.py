"""Gets test sections ready on one host: an environment each, or the results where none is needed.

Whatever keeps a section from being run becomes a result of each of its checks here, and never
one that passed. What runs the sections is the engine (``execution``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import package
from pytest_manualbuild.checks import name_asked_for
from pytest_manualbuild.environment.environments import Environments
from pytest_manualbuild.errors import (
    ArtifactError,
    ChannelError,
    EnvironmentBroken,
    HostLost,
    HostUnavailable,
    Interrupted,
    ManualBuildError,
    NotApplicable,
    RecipeError,
    Uninstallable,
    Unreadable,
    Unsolvable,
    during,
)
from pytest_manualbuild.execution import contents, downstream
from pytest_manualbuild.hosts.base import Placement, Progress, Provider
from pytest_manualbuild.hosts.facts import lacking, virtual_packages
from pytest_manualbuild.hosts.runs import Run
from pytest_manualbuild.languages import LANGUAGES
from pytest_manualbuild.model import (
    Check,
    CheckKey,
    CheckKind,
    Facts,
    Host,
    PlannedPackage,
    TestSection,
)
from pytest_manualbuild.records import Cause, CheckResult, LinkedEnvironment, Outcome

MOST_AT_ONCE = 4
"""Environments of one host that are solved and linked at a time."""
Give = Callable[[CheckResult], None]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One test section of a package: it has environments and a folder of its own."""

    planned: PlannedPackage
    """With nothing but this section and its checks."""
    key: str
    """What names its environment in the host's record."""
    recipe: Path
    """Where the files of its tests lie."""
    give: Give
    """Takes its results."""
    beside: tuple[str, ...] = ()
    """What its environment holds besides what the section asks for."""

    @property
    def place(self) -> str:
        """What tells its folder on a host from those of others: 64 hexadecimal digits."""
        artifact = self.planned.artifact
        text = f"{artifact.sha256}{self.key.removeprefix(artifact.key)}"
        return (
            hashlib.sha256(text.encode()).hexdigest() if len(text) > len(artifact.sha256) else text
        )

    @property
    def visited(self) -> bool:
        """Whether pytest's own functions are to run, on the controller."""
        return bool(self.planned.sections[0].functions)

    @property
    def logs(self) -> str:
        """The folder of its logs, below that of the host."""
        key = self.key.removeprefix(self.planned.artifact.key)
        own = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:80]
        if self.beside:  # specs of downstream packages may differ in what is left out alone
            own += f"-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        return f"{self.planned.label}/{own}".rstrip("/")

    @property
    def tools_key(self) -> str:
        """What names the environment of its ``requirements/build``."""
        return f"{self.key} (build)"


class Preparation(msgspec.Struct, frozen=True, kw_only=True):
    """Prepares the sections of one host."""

    host: Host
    run: Run
    provider: Provider
    facts: Facts
    recipe: Path
    environments: Environments
    selected: Collection[CheckKey]
    progress: Progress
    give: Give
    linked: dict[str, LinkedEnvironment] = msgspec.field(default_factory=dict)
    """The environments, by the key of their section; this is filled in."""
    roots: dict[str, str] = msgspec.field(default_factory=dict)
    """Whose environment goes where on the host, likewise."""

    def ready(self, packages: Sequence[PlannedPackage]) -> list[list[Section]]:
        """Return the sections of each package that can be run now; give the results of others."""
        asked = [list(self._sections(planned)) for planned in packages]
        with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="manualbuild-link") as pool:
            futures = [[pool.submit(self._expand, one) for one in group] for group in asked]
            return [[part for one in group for part in one.result()] for group in futures]

    def _sections(self, planned: PlannedPackage) -> Iterator[Section]:
        for number in range(len(planned.sections)):
            one = planned.only(number)
            if checks := self._to_run(one):
                yield Section(
                    planned=replace(one, checks=checks),
                    key=planned.environment_key(number),
                    recipe=self.recipe,
                    give=self.give,
                )

    def _to_run(self, planned: PlannedPackage) -> tuple[Check, ...]:
        """Return the checks of a section that must run for those that were selected.

        Those of the package itself run together or not at all.
        """
        names = {one.name for one in planned.checks}
        selected = {
            name for name in names if (self.host.name, planned.artifact.key, name) in self.selected
        }
        beside = {one.name for one in planned.checks if one.kind is CheckKind.DOWNSTREAM}
        own = names - beside
        wanted = (own if own & selected else set()) | (beside & selected)
        return tuple(one for one in planned.checks if one.name in wanted)

    def _expand(self, section: Section) -> list[Section]:
        """Return what is to be run for a section: nothing, itself, or those of a downstream."""
        (described,) = section.planned.sections
        if need := lacking(self.host, self.facts, section.planned.needs):
            message = (
                f"The recipe needs {need!r}, which the matrix does not say this host provides."
            )
            self._all(section, Outcome.SKIPPED, Cause.NOT_APPLICABLE, message)
        elif described.contents:
            self._look_into(section)
        elif described.unrunnable:
            self._all(section, Outcome.SKIPPED, Cause.RECIPE, described.unrunnable)
        elif self.host.subdir.startswith("win-") and (why := _not_in_cmd(section)):
            self._all(section, Outcome.SKIPPED, Cause.RECIPE, why)
        else:
            own, beside = _apart(section)
            rest = self._without_scripts_of_unix(own)
            parts = [rest] if rest.planned.checks and self.link(rest) else []
            return [*parts, *self._beside(beside)]
        return []

    def _without_scripts_of_unix(self, section: Section) -> Section:
        """Return what of a section a host can run; a noarch package has ``run_test.sh`` alone."""
        if not self.host.subdir.startswith("win-"):
            return section
        planned = section.planned
        unix = [one for one in planned.checks if _is_script(one, ".sh")]
        for check in unix:
            why = f"conda-build does not run {check.text} on Windows."
            section.give(result(self.host, planned, check, Outcome.SKIPPED, Cause.RECIPE, why))
        left = tuple(one for one in planned.checks if one not in unix)
        return replace(section, planned=replace(planned, checks=left))

    def _beside(self, section: Section) -> list[Section]:
        """Return the sections of downstream packages that can be installed beside this one."""
        parts = []
        for check in section.planned.checks:
            alone = replace(section.planned, checks=(check,))
            probe = replace(section, planned=alone, key=f"{section.key} {check.text}")
            if (found := self._downstream(probe, check)) is None:
                continue
            tally = downstream.Tally(found, check, section.give)
            for number in range(len(found.planned.sections)):
                label = found.planned.sections[number].label
                part = Section(
                    planned=found.planned.only(number),
                    key=f"{probe.key} {label}" if number else probe.key,
                    recipe=found.folder,
                    give=tally.add,
                    beside=(found.spec,),
                )
                parts += self._expand(part)
        return parts

    def _downstream(self, probe: Section, check: Check) -> downstream.Downstream | None:
        """Return a downstream package with its tests; None when its result was given."""
        planned = probe.planned
        try:
            self._link(replace(probe, beside=(check.text,)))
            there = {one.name: one for one in self.linked[probe.key].packages}
            other = there.get(name_asked_for(check.text))
            if other is None:
                raise RecipeError(
                    "this does not begin with the name of a package.",
                    remedy="Write NAME or CHANNEL::NAME, and after it which of them.",
                )
            info = self.environments.info(other)
            found = downstream.find(other, info, planned.artifact, planned.label, self.host.subdir)
        except Unreadable as error:  # nobody looked for an environment, so there may be one
            self._all(probe, Outcome.SKIPPED, Cause.RECIPE, f"It was not run: {error}")
        except Unsolvable as error:
            # rattler-build passes over it with a warning; what did not run is no pass here.
            why = f"It was not run: {error}"
            self._all(probe, Outcome.SKIPPED, Cause.UNSOLVABLE, why)
        except NotApplicable as error:
            self._all(probe, Outcome.SKIPPED, Cause.NOT_APPLICABLE, error.problem)
        except Uninstallable as error:
            self._all(probe, Outcome.FAILED, Cause.UNINSTALLABLE, str(error))
        except (ChannelError, EnvironmentBroken) as error:
            self._all(probe, Outcome.ERROR, cause_of(error), str(error))
        except (RecipeError, OSError, ValueError) as error:
            why = f"The tests of {check.text} cannot be read: {error}"
            self._all(probe, Outcome.ERROR, Cause.ENVIRONMENT, why)
        else:
            if found is not None:
                return found
            self._all(probe, Outcome.SKIPPED, Cause.RECIPE, f"{check.text} has no tests.")
        return None

    def of(self, section: Section) -> list[LinkedEnvironment]:
        """Return the environments of a section: its own, and that for tools of the build."""
        found = (self.linked.get(key) for key in (section.key, section.tools_key))
        return [one for one in found if one is not None]

    def placement(self, section: Section) -> Placement:
        """Return where the section's environment goes on the host."""
        return self.provider.placement(self.host, self.run, section.place)

    def _own_placement(self, place: str, key: str) -> Placement:
        """Return where an environment goes; EnvironmentBroken if another one goes there.

        A folder is named by few digits of what it is of, and who builds packages can try until
        those of two are the same: each would be tested with the other's files.
        """
        found = self.provider.placement(self.host, self.run, place)
        if self.roots.setdefault(found.root, key) != key:
            raise EnvironmentBroken(
                f"{key} and {self.roots[found.root]} have the same folder on the host:"
                f" {place[:16]}… begins like the hash of the other.",
                remedy="Build one of them again, or test each by itself.",
            )
        return found

    def _look_into(self, section: Section) -> None:
        (described,) = section.planned.sections
        try:
            artifact = section.planned.artifact
            with self.environments.packages.reading(artifact) as path:
                found = contents.problems(artifact, described.contents, list(package.paths(path)))
        except ArtifactError as error:
            self._all(section, Outcome.FAILED, Cause.CONTENTS, error.problem)
            return
        except EnvironmentBroken as error:
            self._all(section, Outcome.ERROR, cause_of(error), str(error))
            return
        for check, problem in zip(section.planned.checks, found, strict=True):
            outcome, cause = Outcome.PASSED, Cause.OK
            if problem:
                outcome, cause = Outcome.FAILED, Cause.CONTENTS
            section.give(result(self.host, section.planned, check, outcome, cause, problem))

    def link(self, section: Section) -> bool:
        """Have a section's environments linked; give its results where that fails.

        A host whose folders are gone after it was released needs them once more.
        """
        planned = section.planned
        try:
            with during("delivering"):
                self._link(section)
        except NotApplicable as error:
            self._all(section, Outcome.SKIPPED, Cause.NOT_APPLICABLE, error.problem)
        except (Unsolvable, Uninstallable) as error:
            cause = Cause.UNSOLVABLE if isinstance(error, Unsolvable) else Cause.UNINSTALLABLE
            first, *rest = planned.checks
            section.give(result(self.host, planned, first, Outcome.FAILED, cause, str(error)))
            for check in rest:
                why = "Its environment was not made."
                section.give(
                    result(self.host, planned, check, Outcome.SKIPPED, Cause.NOT_REACHED, why)
                )
        except (ChannelError, EnvironmentBroken) as error:
            self._all(section, Outcome.ERROR, cause_of(error), str(error))
        else:
            return True
        return False

    def _link(self, section: Section) -> None:
        (described,) = section.planned.sections
        used = {check.language for check in section.planned.checks}
        requires = [*section.beside, *described.requires]
        if not described.schema:
            # As conda-build adds them for the run_test.* that it finds or makes.
            requires += [one.PACKAGE for one in LANGUAGES if one.PACKAGE and one.NAME in used]
        self.linked[section.key] = self.environments.prepare(
            section.planned.artifact,
            requires=requires,
            virtual_packages=virtual_packages(self.facts, self.host.subdir),
            subdir=self.host.subdir,
            placement=self._own_placement(section.place, section.key),
            progress=self.progress,
        )
        if described.build_requires:
            tools = hashlib.sha256(f"{section.place} build".encode()).hexdigest()
            self.linked[section.tools_key] = self.environments.prepare(
                None,
                requires=described.build_requires,
                virtual_packages=virtual_packages(self.facts, self.host.subdir),
                subdir=self.host.subdir,
                placement=self._own_placement(tools, section.tools_key),
                progress=self.progress,
            )

    def _all(self, section: Section, outcome: Outcome, cause: Cause, message: str) -> None:
        for check in section.planned.checks:
            section.give(result(self.host, section.planned, check, outcome, cause, message))


def _apart(section: Section) -> tuple[Section, Section]:
    """Return a section without its downstream packages, and what is to be tested beside them."""
    planned = section.planned
    (described,) = planned.sections
    after = tuple(one for one in planned.checks if one.kind is CheckKind.DOWNSTREAM)
    own = tuple(one for one in planned.checks if one not in after)
    # Beside them are what they need themselves, and not what the package's own tests do.
    alone = TestSection(
        label=described.label, downstreams=described.downstreams, schema=described.schema
    )
    return (
        replace(section, planned=replace(planned, checks=own)),
        replace(section, planned=replace(planned, checks=after, sections=(alone,))),
    )


def _not_in_cmd(section: Section) -> str:
    """Say what of a section would be run on Windows, and is not by this version."""
    (described,) = section.planned.sections
    if described.schema and any(one.language == "shell" for one in section.planned.checks):
        return "Scripts of a recipe.yaml are not run in cmd by this version."
    if section.planned.artifact.noarch and (section.recipe / "run_test.bat").is_file():
        return "The run_test.bat of a noarch package is not run by this version."
    return ""


def _is_script(check: Check, ending: str) -> bool:
    return check.kind is CheckKind.SCRIPT and check.text.endswith(ending)


def result(
    host: Host,
    planned: PlannedPackage,
    check: Check,
    outcome: Outcome,
    cause: Cause,
    message: str,
) -> CheckResult:
    """Return the result of a check that was not run on the host."""
    return CheckResult(
        host=host.name,
        package=planned.artifact.key,
        check=check.name,
        outcome=outcome,
        cause=cause,
        message=message,
    )


def cause_of(error: ManualBuildError) -> Cause:
    """Return the cause that an error of host, engine, channel or disk stands for."""
    match error:
        case HostLost():
            return Cause.HOST_LOST
        case HostUnavailable():
            return Cause.HOST_UNAVAILABLE
        case ChannelError():
            return Cause.CHANNEL
        case EnvironmentBroken():
            return Cause.ENVIRONMENT
        case Interrupted():
            return Cause.INTERRUPTED
        case _:
            return Cause.INTERNAL
