"""Makes the environment in which a package is tested: solved for the host, linked once.

What is linked are exactly the artifact's bytes: they are hashed, given to the
solver in a channel of their own, and compared with the linked files afterwards
(py-rattler checks no hashes of ``file://`` packages); the file must not have been
touched from the one to the other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pytest_manualbuild.environment import files, layers
from pytest_manualbuild.environment.looks import Looks, Turns
from pytest_manualbuild.environment.packages import Packages
from pytest_manualbuild.environment.prefix import below, on_windows, padded
from pytest_manualbuild.environment.solver import LINK_S, SOLVE_S, Solver
from pytest_manualbuild.environment.unpacked import info_of
from pytest_manualbuild.errors import (
    ArtifactError,
    ChannelError,
    EnvironmentBroken,
    NotApplicable,
    Uninstallable,
    Unreadable,
    Unsolvable,
)
from pytest_manualbuild.hosts.base import Placement, Progress
from pytest_manualbuild.hosts.runs import locked
from pytest_manualbuild.model import Artifact
from pytest_manualbuild.records import InstalledPackage, LinkedEnvironment


class Environments:
    """Solves and links environments for several hosts at once; use as a context manager."""

    def __init__(self, cache: Path, channels: Sequence[str]) -> None:
        """Keep packages and linked environments below ``cache``; solve with these channels."""
        self._cache = cache
        self._channels = tuple(channels)
        self._solver = Solver()
        self._turns = Turns()
        self._looks = Looks()
        self.packages = Packages(cache)
        self._solved: dict[tuple[int, str], dict[str, Any]] = {}
        self._placed: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the solver's process now, so that it is ready when it is needed."""
        self._solver.start()

    def expect(self, artifacts: Sequence[Artifact]) -> None:
        """Say which packages are tested: they come before what any channel has of their names.

        As in the channel of packages just built that conda-build and rattler-build test with.
        """
        self.packages.tested = tuple(artifacts)

    def close(self) -> None:
        """End the solver's process."""
        self._solver.close()

    def prepare(
        self,
        artifact: Artifact | None,
        *,
        requires: Sequence[str],
        virtual_packages: Sequence[tuple[str, str]],
        subdir: str,
        placement: Placement,
        progress: Progress,
    ) -> LinkedEnvironment:
        """Return a linked environment that holds exactly this artifact and what is required.

        Without an artifact it holds only the latter. ``virtual_packages`` is the host's complete
        list. Raises NotApplicable, Unsolvable or
        Uninstallable (the package's doing), ChannelError or EnvironmentBroken (not its doing).
        """
        try:
            channel, index, paths = (
                self.packages.channel(artifact) if artifact is not None else (None, {}, [])
            )
        except ArtifactError as error:
            raise Uninstallable(error.problem, remedy=error.remedy) from error
        except OSError as error:
            raise self._unmakable(error) from error
        try:
            asked_s = time.monotonic()
            progress("solving")
            solution = self._solve(artifact, index, channel, requires, virtual_packages, subdir)
            prefix, notes = self._place(
                artifact, solution["packages"], placement.root, subdir, paths
            )
            with self._turns.of(placement.root if placement.in_place else prefix):
                progress(f"linking {len(solution['packages'])} packages")
                path = self._linked(artifact, solution, subdir, prefix, paths, placement, asked_s)
        except ArtifactError as error:  # of a package that a channel gave
            raise ChannelError(error.problem, remedy="Check --channel.") from error
        except OSError as error:
            raise self._unmakable(error) from error
        installed = tuple(
            InstalledPackage(
                **{
                    key: str(one[key])
                    for key in ("name", "version", "build", "subdir", "sha256", "channel")
                }
            )
            for one in solution["packages"]
        )
        self._urls |= {one["sha256"]: one["url"] for one in solution["packages"]}
        linking = [one.name for one in installed if (path / post_link(one.name, subdir)).is_file()]
        ours = artifact.name if artifact is not None else ""
        return LinkedEnvironment(
            path=str(path),
            prefix=prefix,
            packages=installed,
            post_link=tuple(sorted(linking, key=lambda name: (name == ours, name))),
            notes=notes,
        )

    def info(self, package: InstalledPackage) -> Path:
        """Return the ``info/`` of a package that is in an environment of this run.

        Raises ChannelError or EnvironmentBroken.
        """
        return info_of(self._cache, self._solver, package, self._urls[package.sha256])

    def _unmakable(self, error: OSError) -> EnvironmentBroken:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return EnvironmentBroken(
            f"The environment cannot be made in {self._cache}: {error.strerror or error}.",
            remedy="Free some space." if full else "Check the folder's permissions.",
        )

    def _solve(
        self,
        artifact: Artifact | None,
        index: dict[str, Any],
        channel: str | None,
        requires: Sequence[str],
        virtual_packages: Sequence[tuple[str, str]],
        subdir: str,
    ) -> dict[str, Any]:
        # A package that needs no other one needs no channel either, and no network.
        ours, what = [], "requirements/build of the test"
        depends: Sequence[str] = ()
        if artifact is not None:
            ours = [f"{artifact.name} =={artifact.version} {artifact.build}"]
            what, depends = artifact.dist, artifact.depends
        alone = not requires and all(spec.startswith("__") for spec in depends)
        others = [] if alone else [_channel(one) for one in self._channels]
        common = [] if alone else self.packages.common_channel(subdir)
        # Where it asks nothing of a host, it is solved once for all of them.
        bound = not alone or "__" in json.dumps([index.get("depends"), index.get("constrains")])
        asked = {
            "index": index,
            "channels": [*([channel] if channel else []), *common, *others],
            "specs": [*ours, *requires],
            "subdir": subdir,
            "virtual_packages": list(virtual_packages) if bound else [],
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        # A solution lives in the child that found it, and goes with it.
        key = (self._solver.start(), digest)
        with self._turns.of(digest):
            if key not in self._solved:
                self._solved[key] = self._solver.ask("solve", SOLVE_S, **asked)
        said = self._solved[key]
        host = ", ".join(f"{name} {version}" for name, version in virtual_packages)
        match said.get("error"):
            case None:
                return said
            case "not-applicable":
                raise NotApplicable(
                    f"{what} is not for this host: {said['text']}.",
                    remedy="Nothing is wrong with either.",
                )
            case "unsolvable":
                raise Unsolvable(
                    f"No environment can be made for {what} on this host ({host}).",
                    remedy="Check the package's depends, and --channel.",
                    detail=said["text"],
                )
            case "spec" if said["spec"] not in ours:
                raise Unreadable(
                    f"The requirement {said['spec']!r} of the test cannot be read by the solver.",
                    remedy="Write it in another way in the recipe.",
                    detail=said["text"],
                )
            case "spec" | "package":
                raise Uninstallable(
                    f"{what} cannot be read by the solver.",
                    remedy="Check its info/index.json.",
                    detail=said["text"],
                )
            case _ if not others and artifact is not None:
                raise Uninstallable(
                    f"{what} cannot be read by the solver.",
                    remedy="Check its info/index.json.",
                    detail=said["text"],
                )
            case _:
                raise ChannelError(
                    f"A channel cannot be read ({', '.join(others) or channel}).",
                    remedy="Check --channel and the network.",
                    detail=said["text"],
                )

    def _place(
        self,
        artifact: Artifact | None,
        packages: list[dict[str, Any]],
        root: str,
        subdir: str,
        paths: list[dict[str, Any]],
    ) -> tuple[str, tuple[str, ...]]:
        """Check the packages' files and find their prefix: once for hosts with one solution."""
        sha256 = artifact.sha256 if artifact is not None else ""
        key = json.dumps([root, sha256, *(one["url"] for one in packages)])
        with self._turns.of(key):
            if key not in self._placed:
                files.check_files(packages, artifact)
                find = on_windows if subdir.startswith("win-") else padded
                linked = [one for one in paths if one.get("path_type") != files.INFO]
                # Of others a channel may name no hash at all.
                known = {artifact.sha256: linked} if artifact is not None else {}
                self._placed[key] = find(root, packages, known)
        return self._placed[key]

    def _linked(
        self,
        artifact: Artifact | None,
        solution: dict[str, Any],
        subdir: str,
        prefix: str,
        paths: list[dict[str, Any]],
        placement: Placement,
        asked_s: float,
    ) -> Path:
        link = self._linker(artifact, solution, subdir, None if placement.in_place else prefix)
        if placement.in_place:
            target = Path(prefix)
            link(target)
            files.own_files(target)
        else:
            names = sorted(one["sha256"] or one["url"] for one in solution["packages"])
            text = json.dumps([names, prefix, solution["version"]])
            key = hashlib.sha256(text.encode()).hexdigest()[:32]
            layer = self._cache / "environments" / key
            inside = below(placement.root, prefix)
            target = layer / inside
            if not self._looks.changed(layer, asked_s):
                return target
            layer.parent.mkdir(parents=True, exist_ok=True)
            with locked(layer.with_suffix(".lock")):
                if layer.is_dir() and not layers.is_whole(layer, target, paths):
                    shutil.rmtree(layer)
                if not layer.is_dir():
                    with layers.making(layer) as fresh:
                        (fresh / inside).parent.mkdir(parents=True)
                        link(fresh / inside)
                        fresh.rename(layer)
                    layers.made(layer)
            self._looks.know(layer)
        return target

    def _linker(
        self,
        artifact: Artifact | None,
        solution: dict[str, Any],
        subdir: str,
        prefix: str | None,
    ) -> Callable[[Path], None]:
        """Return what links a solution into a folder, to be seen at the prefix if there is one."""
        hashes = [one["sha256"] for one in solution["packages"]]
        ours = self.packages.among(hashes, artifact)

        def link(target: Path) -> None:
            try:
                once(target, self._cache / "pkgs")
            except (Uninstallable, _Unlinked) as error:
                # No package's fault if what was unpacked of it earlier is no longer whole.
                with locked(self._cache / "again.lock"):
                    for one in ours:
                        self.packages.forget(one)
                    self.packages.forget_named(error.detail, solution["packages"])
                    shutil.rmtree(target, ignore_errors=True)
                    # Others may unpack and remove packages in the common place meanwhile.
                    with self._own_place() as unpacked:
                        once(target, unpacked)

        def once(target: Path, unpacked: Path) -> None:
            with contextlib.ExitStack() as unchanged:
                for one in ours:
                    unchanged.enter_context(self.packages.reading(one))
                said = self._solver.ask(
                    "link",
                    LINK_S,
                    solution=solution["solution"],
                    target=str(target),
                    prefix=prefix,
                    cache=str(unpacked),
                    subdir=subdir,
                )
            if "error" in said:
                raise _link_error(artifact, said["text"])
            if sum(one.size for one in ours) > files.LARGE:
                files.write_out(unpacked)
            for one in ours:
                where = target if one is artifact else None
                if wrong := self.packages.difference(one, where, unpacked):
                    raise _difference(one, wrong)

        return link

    @contextlib.contextmanager
    def _own_place(self) -> Iterator[Path]:
        """Give whoever has the lock on it an empty folder where packages are unpacked."""
        place = self._cache / "again"
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def post_link(name: str, subdir: str) -> str:
    """Return the path of a package's post-link script below the prefix (conda's rule)."""
    if subdir.startswith("win-"):
        return f"Scripts/.{name}-post-link.bat"
    return f"bin/.{name}-post-link.sh"


def index_channel(folder: Path) -> None:
    """Index a folder of packages as a conda channel; ChannelError if that fails."""
    solver = Solver()
    try:
        said = solver.ask("index", LINK_S, folder=str(folder.absolute()))
    finally:
        solver.close()
    if "error" in said:
        raise ChannelError(
            f"{folder}: it cannot be indexed.", remedy="Check its packages.", detail=said["text"]
        )


def _channel(text: str) -> str:
    """Return a channel as the solver takes it; ChannelError for a folder that is none."""
    folder = Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(text)
    is_path = text.startswith(("file://", "/", "./", "../"))
    if is_path and not any(folder.glob("*/repodata.json*")):
        what = "holds no repodata.json" if folder.is_dir() else "is no folder"
        raise ChannelError(
            f"The channel {text} {what}.",
            remedy="Give a channel that was indexed (conda index, rattler-index), with --channel.",
        )
    return folder.absolute().as_uri() if is_path else text


def _difference(artifact: Artifact, wrong: str) -> Exception:
    if wrong.startswith("info/"):  # which was read out of the package, so that it can be unpacked
        return _Unlinked(
            f"{artifact.dist}: another package of that name was unpacked in its place.",
            remedy="Does another run test one? Run again after it.",
        )
    return Uninstallable(
        f"{artifact.dist}: {wrong} is not in the environment as the package has it.",
        remedy="Build the package again.",
    )


class _Unlinked(EnvironmentBroken):
    """Packages that cannot be linked, and none that is tested is to blame."""


def _link_error(artifact: Artifact | None, text: str) -> Exception:
    if "No space left" in text or "os error 28" in text:
        return EnvironmentBroken("The disk is full.", remedy="Free some space.", detail=text)
    if artifact is not None and _names(artifact, text):
        return Uninstallable(
            f"{artifact.dist} cannot be installed.", remedy="Build it again.", detail=text
        )
    return _Unlinked(
        "The environment cannot be linked.", remedy="Check the channel's packages.", detail=text
    )


def _names(artifact: Artifact, text: str) -> bool:
    """Say whether a text names a package, and not only another one that is called `py` and it."""
    names = "|".join(map(re.escape, (artifact.filename, artifact.dist, artifact.sha256)))
    return re.search(rf"(?<![\w.-])({names})(?![\w-])", text) is not None
