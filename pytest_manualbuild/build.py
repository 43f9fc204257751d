"""Builds packages by hand, and keeps a record: how, from what, on which image, and what came out.

A feedstock is built by its own ``.scripts/run_docker_build.sh``, a ``recipe.yaml`` by
py-rattler-build, a ``meta.yaml`` by conda-build where that is installed. Nothing here says that a
package is good; the record says where it came from (``build_record``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import __version__, build_record, commits, package, recipe
from pytest_manualbuild.build_record import BuiltFile, Config, Image, Record
from pytest_manualbuild.errors import BuildError
from pytest_manualbuild.recipe.folder import folder_sha256

SCRIPT = ".scripts/run_docker_build.sh"
LABEL = "manualbuild.build"
"""What containers of a build bear, so that none is left behind."""
ENDING_S = 20.0
"""How long a build that is interrupted may take to end by itself."""
_TAIL_S = 0.2
_CHUNK = 1 << 16
_QUESTION_S = 60
# What the caller's environment gives: ways to the engine and the network, and no token.
_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    *("CPU_COUNT", "MINIFORGE_HOME", "CONDA_FORGE_DOCKER_RUN_ARGS", "SSH_AUTH_SOCK"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
Tell = Callable[[bytes], None]


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be started, and where."""

    tool: str
    name: str
    """What tells builds of one recipe apart: the variant file's name, or the recipe's."""
    command: tuple[str, ...]
    folder: Path
    recipe: Path
    artifacts: Path
    environment: Mapping[str, str]
    """What is set besides the little that the caller's gives."""
    config: Path | None = None
    image: str = ""
    engine: str = ""
    """The program that talks to the engine, if one is used."""
    label: str = ""


def build(
    given: Path,
    *,
    config: str | None = None,
    image: str | None = None,
    channels: Sequence[str] = (),
    tell: Tell = lambda _: None,
) -> tuple[Path, Record]:
    """Build a feedstock or a recipe; return the file of the record, and what it says.

    ``config`` is the name of a file of ``.ci_support`` and ``image`` takes the place of the one
    that it names; ``channels`` are those of a recipe without a feedstock. ``tell`` gets what the
    build writes, as it comes. Raises BuildError when nothing was built, with the record in place,
    or RecipeError.
    """
    folder = recipe.file(given).parent
    feedstock = folder.parent
    if (feedstock / SCRIPT).is_file():
        job = _in_container(feedstock, folder, config, image)
    elif config or image or (feedstock / ".ci_support").is_dir():
        raise BuildError(
            f"{feedstock / SCRIPT}: there is no such script, so this is no feedstock that can be"
            " built in a container.",
            remedy="Run `conda smithy rerender` in it, or give the folder of a recipe alone.",
        )
    else:
        job = _alone(recipe.file(given), channels)
    place = job.artifacts / build_record.FOLDER / job.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        return _run(job, place, tell)
    except OSError as error:
        raise BuildError(
            f"{error.filename or place}: {error.strerror or error}.",
            remedy="Check that folder, and the space on its disk.",
        ) from error


def _in_container(feedstock: Path, folder: Path, config: str | None, image: str | None) -> _Job:
    file = _config(feedstock, config)
    image = image or build_record.image_of(file)
    if not image:
        raise BuildError(f"{file}: it names no docker_image.", remedy="Name one with --image.")
    # As in conda-forge's script.
    engine = next(filter(shutil.which, ("docker", "podman")), None)
    if engine is None:
        raise BuildError(
            "Neither docker nor podman is on PATH, and the build runs in a container.",
            remedy="Install one of them.",
        )
    _ask(engine, "version", problem="The container engine does not answer")
    label = f"{LABEL}={secrets.token_hex(8)}"
    options = f"{os.environ.get('CONDA_FORGE_DOCKER_RUN_ARGS', '')} --label {label}"
    return _Job(
        tool="feedstock",
        name=file.stem,
        command=("bash", SCRIPT),
        folder=feedstock,
        recipe=folder,
        artifacts=feedstock / "build_artifacts",
        config=file,
        image=image,
        engine=engine,
        label=label,
        environment={
            "CONFIG": file.stem,
            "DOCKER_IMAGE": image,
            "UPLOAD_PACKAGES": "False",
            "IS_PR_BUILD": "True",
            "CI": "manualbuild",  # with none the script asks the engine for a terminal
            "CONDA_FORGE_DOCKER_RUN_ARGS": options.strip(),
        },
    )


def _config(feedstock: Path, wanted: str | None) -> Path:
    """Return the variant file to build with: the one that is named, or the only one."""
    found = sorted((feedstock / ".ci_support").glob("linux*.yaml"))
    chosen = [path for path in found if wanted in (None, path.stem, path.name)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(path.stem for path in found) or "none"
    problem = f"there is no linux variant {wanted!r}" if wanted else "it has several variants"
    if not found:
        problem = "it has no variant for linux, and containers build for nothing else"
    raise BuildError(
        f"{feedstock / '.ci_support'}: {problem} (there: {names}).", remedy="Choose with --config."
    )


def _alone(file: Path, channels: Sequence[str]) -> _Job:
    """Return how to build a recipe without a feedstock."""
    folder = file.parent
    artifacts = folder.parent / "build_artifacts"
    given = [word for one in channels or ("conda-forge",) for word in ("-c", one)]
    if file.name == "recipe.yaml":
        program = [sys.executable, "-I", "-m", "pytest_manualbuild._rattler_build"]
        command, tool = [*program, str(file), str(artifacts), *given], "rattler-build"
    else:
        if not shutil.which("conda-build"):
            raise BuildError(
                f"{file}: building it needs conda-build, which is not on PATH.",
                remedy="Make the environment of environment.yml and activate it, or build the"
                " feedstock of the recipe.",
            )
        options = ["--croot", str(artifacts), "--no-anaconda-upload", "--override-channels"]
        command, tool = ["conda-build", str(folder), *options, *given], "conda-build"
    return _Job(
        tool=tool,
        name=folder.name if folder.name != "recipe" else folder.parent.name,
        command=tuple(command),
        folder=folder.parent,
        recipe=folder,
        artifacts=artifacts,
        environment={},
    )


def _run(job: _Job, place: Path, tell: Tell) -> tuple[Path, Record]:
    """Start the build and follow it; write the record before, and again at the end."""
    record = Record(
        made_by=f"pytest-manualbuild {__version__}",
        tool=job.tool,
        state="running",
        started=_now(),
        command=job.command,
        environment=dict(job.environment),
        recipe_sha256=folder_sha256(job.recipe),
        sources=commits.sources(job.folder),
        config=Config(name=job.config.name, sha256=build_record.sha256(job.config))
        if job.config
        else None,
    )
    path = place / build_record.FILE
    build_record.write(path, record)
    log = place / build_record.LOG
    before = _present(job.artifacts)
    state, status = "failed", None
    try:
        status = _follow(job, log, tell)
        state = "built" if status == 0 else "failed"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        made = [file for file, seen in _present(job.artifacts).items() if before.get(file) != seen]
        changed = folder_sha256(job.recipe) != record.recipe_sha256
        record = replace(
            record,
            state="failed" if state == "built" and (changed or not made) else state,
            finished=_now(),
            exit_status=status,
            image=_image(job),
            log_sha256=build_record.sha256(log) if log.is_file() else "",
            packages=tuple(BuiltFile.of(file) for file in sorted(made)),
        )
        build_record.write(path, record)
    problem = (
        f"the build ended with status {status}" if status != 0
        else "the recipe changed while it was built" if changed
        else f"the build made no package in {job.artifacts}" if not made
        else None
    )  # fmt: skip
    if problem:
        raise BuildError(f"{job.recipe}: {problem}.", remedy=f"Its log is {log}.")
    return path, record


def _follow(job: _Job, log: Path, tell: Tell) -> int:
    """Run the command with its output in a file; pass on what comes in. Return its status."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with log.open("wb") as sink, log.open("rb") as seen:
        process = subprocess.Popen(
            job.command,
            cwd=job.folder,
            env={**environment, **job.environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all of it can be ended
        )
        # A signal that comes while `Popen.wait` takes its lock leaves that locked, and the next
        # wait would never end. Signals come to the main thread alone.
        waiting = threading.Thread(target=process.wait, daemon=True)
        try:
            waiting.start()
            while True:
                waiting.join(_TAIL_S)
                ended = not waiting.is_alive()
                while chunk := seen.read(_CHUNK):
                    tell(chunk)
                if ended:
                    return process.returncode
        finally:
            _remove_containers(job)  # without its container the engine's client ends at once
            _end(process.pid, waiting)


def _end(group: int, waiting: threading.Thread) -> None:
    """End what is left of a build, first in the way that Ctrl-C does."""
    for number, limit_s in ((signal.SIGINT, ENDING_S), (signal.SIGKILL, None)):
        if waiting.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                os.killpg(group, number)
            waiting.join(limit_s)


def _present(artifacts: Path) -> dict[Path, tuple[int, ...]]:
    """Return the packages of a folder, each with what changes when it is written again."""
    found = {path: path.stat() for path in package.inside(artifacts)}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _said(*words: str) -> str | None:
    """Return what a program answers, or None if it does not."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_QUESTION_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _ask(*words: str, problem: str) -> None:
    if _said(*words) is None:
        raise BuildError(f"{problem}.", remedy=f"Look at what `{' '.join(words)}` says.")


def _image(job: _Job) -> Image | None:
    """Return the image as the engine has it now, after the script may have pulled it."""
    if not job.image:
        return None
    form = "{{.Id}}{{range .RepoDigests}} {{.}}{{end}}"
    said = (_said(job.engine, "image", "inspect", "--format", form, job.image) or "").split()
    return Image(name=job.image, id=said[0] if said else "", digests=tuple(said[1:]))


def _remove_containers(job: _Job) -> None:
    """Remove the containers of a build: ended ones take room, and a killed client leaves one."""
    if job.label:
        found = _said(job.engine, "ps", "-aq", "--filter", f"label={job.label}") or ""
        if found:
            _said(job.engine, "rm", "-f", *found.split())
