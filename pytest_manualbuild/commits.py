"""Where a recipe stands in the history of its repository: asked of git, and never of a network.

A run writes down of which commit its recipe is. Whoever judges has a clone of his own, and sees
there whether that commit was reviewed, and whether its recipe is the one that was run.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import msgspec
from msgspec.structs import replace

from pytest_manualbuild.errors import ManualBuildError
from pytest_manualbuild.recipe.folder import MOST_BYTES, MOST_FILES, files

_LIMIT_S = 60
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_GIT = ("git", "-c", "core.fsmonitor=false", "--no-optional-locks", "--no-replace-objects")
_KEPT = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")
_SET = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    # What a partial clone lacks is not fetched.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_GRAFT_FILE": os.devnull,
}
_LINK = b"120000"
_BUT_BUILT = ("--", ".", ":!build_artifacts")
"""What a build makes is no change."""
_INCOMPLETE = "it lacks files of that commit"


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where a folder stands in the history of its repository."""

    commit: str
    dirty: bool
    """Whether anything in the folder but ``build_artifacts`` differs from the commit."""
    folder: str = ""
    """The folder, relative to the top of the repository; empty: it is the top."""


class Reviewed(msgspec.Struct, frozen=True, kw_only=True):
    """What a clone says of the commit of a recipe."""

    problem: str = ""
    """Why it says nothing, in a sentence; the rest is empty then."""
    contained: bool = False
    """Whether the commit is one of the branch."""
    differing: tuple[str, ...] = ()
    """Files of the recipe that are others than the commit has, or that only one of them has."""


class _Refused(Exception):
    """Git does not answer as asked; the text says why."""


class _Lacking(_Refused):
    """The clone does not have all of the commit."""


def sources(folder: Path) -> Sources | None:
    """Return the commit of a folder under git; None if it is under none, or there is no git."""
    try:
        commit = _git(folder, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
        prefix = _git(folder, "rev-parse", "--show-prefix").decode().removesuffix("\n")
    except (_Refused, ValueError):
        return None
    found = Sources(commit=commit, dirty=True, folder=prefix.rstrip("/"))
    try:
        # Not by `git status`, which runs whatever filters the repository names.
        ours = _digests(folder)
        theirs = _committed(folder, found)
        changed = any(ours.get(name) != digest for name, digest in theirs.items())
        new = _git(folder, "ls-files", "--others", "--exclude-standard", *_BUT_BUILT)
        staged = _git(folder, "diff-index", "--cached", "--name-only", commit, *_BUT_BUILT)
        return replace(found, dirty=changed or bool(new or staged))
    except (_Refused, OSError, ValueError, ManualBuildError):
        return found


def look_up(clone: Path, branch: str, wanted: Sources, recipe: Path) -> Reviewed:
    """Say whether a commit is one of a clone's branch, and compare a recipe with the one it has.

    ``branch`` is one of the clone itself, or of a remote as it was last fetched, such as
    ``origin/main``. Raises RecipeError or OSError if the recipe cannot be read.
    """
    ours = _digests(recipe)
    try:
        tip = _tip(clone, branch)
    except _Refused as refused:
        return Reviewed(problem=f"{clone}: {refused}.")
    # It stands in evidence, where anybody may have written it.
    if not _COMMIT.fullmatch(wanted.commit):
        return Reviewed()
    try:
        # By first parents: what a merged pull request was before its last commit nobody approved.
        reviewed = _git(clone, "rev-list", "--first-parent", tip).decode().split()
    except _Refused as refused:
        return Reviewed(problem=f"{clone}: {refused}.")
    if wanted.commit not in reviewed:
        return Reviewed()  # unknown, or on another branch
    try:
        theirs = _committed(clone, wanted)
    except _Lacking as lacking:
        return Reviewed(problem=f"{clone}: {lacking}.")
    except (_Refused, OSError, ValueError, ManualBuildError):
        theirs = {}  # no such folder, or not one that could be a recipe
    names = ours.keys() | theirs.keys()
    differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
    return Reviewed(contained=True, differing=tuple(differing))


def _tip(clone: Path, branch: str) -> str:
    """Return the commit of a branch, by its full name: a tag of that name is none."""
    if _git(clone, "rev-parse", "--show-prefix").strip():
        raise _Refused("it is a folder of a clone, and not its top")
    found = []
    for place in ("heads", "remotes"):
        name = f"refs/{place}/{branch}^{{commit}}"
        try:
            found.append(_git(clone, "rev-parse", "--verify", "--quiet", name).decode().strip())
        except _Refused:
            continue
    if len(found) != 1:
        raise _Refused(f"it has {len(found) or 'no'} branch{'es' * bool(found)} named {branch}")
    return found[0]


def _digests(recipe: Path) -> dict[str, str]:
    """Return the sha256 of each file of a recipe, with line ends as git keeps them.

    Feedstocks have ``bld.bat text eol=crlf``: such a file is written other than it is kept.
    """
    root = recipe.resolve()
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(
            path.read_bytes().replace(b"\r\n", b"\n")
        ).hexdigest()
        for path in files(root)
    }


def _committed(clone: Path, wanted: Sources) -> dict[str, str]:
    """Return the same of the files that a commit has in a folder; no filter of git's is run."""
    whole = f"{wanted.commit}:{wanted.folder}"
    tree = _git(clone, "rev-parse", "--verify", "--quiet", whole).decode().strip()
    listed = _whole(clone, "ls-tree", "-r", "-l", "-z", "--full-tree", tree)
    entries: list[tuple[str, bool, bytes]] = []
    total = 0
    for row in listed.split(b"\0")[:-1]:
        head, _, name = row.partition(b"\t")
        mode, _kind, blob, size = head.split()
        if size == b"BAD":  # of a file that is not there
            raise _Lacking(_INCOMPLETE)
        entries.append((os.fsdecode(name), mode == _LINK, blob))
        total += int(size)
    if len(entries) > MOST_FILES or total > MOST_BYTES:
        raise _Refused("it is too large")
    contents = _contents(clone, [blob for _, _, blob in entries])
    with tempfile.TemporaryDirectory(prefix="manualbuild-") as scratch:
        # Links last, so that nothing is written through one.
        for place, link, blob in sorted(entries, key=lambda entry: entry[1]):
            if {"", ".", ".."} & set(place.split("/")):
                raise _Refused("it has a path that leads elsewhere")
            path = Path(scratch, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            if link:
                path.symlink_to(os.fsdecode(contents[blob]))
            else:
                with path.open("xb") as file:
                    file.write(contents[blob])
        return _digests(Path(scratch))


def _contents(clone: Path, blobs: list[bytes]) -> dict[bytes, bytes]:
    asked = b"".join(blob + b"\n" for blob in blobs)
    answer = _whole(clone, "cat-file", "--batch", data=asked)
    found, place = {}, 0
    for blob in blobs:
        end = answer.index(b"\n", place)
        if answer[place:end].endswith(b" missing"):
            raise _Lacking(_INCOMPLETE)
        size = int(answer[place:end].split()[2])
        found[blob] = answer[end + 1 : end + 1 + size]
        place = end + size + 2
    return found


def _whole(clone: Path, *words: str, data: bytes = b"") -> bytes:
    """Return what git answers that needs all of a commit; _Lacking where it is not there."""
    try:
        return _git(clone, *words, data=data)
    except _Refused as refused:
        raise _Lacking(f"{_INCOMPLETE} ({refused})") from refused


def _git(folder: Path, *words: str, data: bytes = b"") -> bytes:
    """Return what git answers in a folder; _Refused if it does not."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _SET
    try:
        done = subprocess.run(
            (*_GIT, *words), cwd=folder, env=environment, input=data, capture_output=True,
            timeout=_LIMIT_S, check=False, start_new_session=True,  # Ctrl-C is not for it
        )  # fmt: skip
    except FileNotFoundError as error:
        what = "git" if folder.is_dir() else "such folder"
        raise _Refused(f"there is no {what}") from error
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _Refused(f"git does not answer ({error})") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["git refuses"]
        raise _Refused(said[0].removeprefix("fatal: ").rstrip("."))
    return done.stdout
