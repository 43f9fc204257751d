"""The record of a build by hand: its values, its file, and the copy that goes into the evidence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec

from pytest_manualbuild.commits import Sources
from pytest_manualbuild.errors import BuildError
from pytest_manualbuild.model import Artifact

FOLDER = "manualbuild"
"""Beside the subdirs of ``build_artifacts``: a folder in it for each variant."""
FILE, LOG = "build.json", "log.txt"
MOST_BYTES = 4 * 1024 * 1024


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The variant file of a build."""

    name: str
    sha256: str


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The image of a build, as the engine had it when the build was over."""

    name: str
    id: str
    """Empty: the engine did not say."""
    digests: tuple[str, ...] = ()
    """``NAME@sha256:...`` in registries; none for an image that was made here."""


class BuiltFile(msgspec.Struct, frozen=True, kw_only=True):
    """One package that a build made or made again."""

    key: str
    """``subdir/filename``."""
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what there is to say of a package file."""
        key = f"{path.parent.name}/{path.name}"
        return cls(key=key, sha256=sha256(path), size=path.stat().st_size)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one build."""

    made_by: str
    tool: str
    """``feedstock``, ``rattler-build`` or ``conda-build``."""
    state: str
    """``running``, ``built``, ``failed`` or ``interrupted``; a killed one stays ``running``."""
    started: str
    """ISO 8601 with zone, as ``finished``."""
    command: tuple[str, ...]
    environment: dict[str, str]
    """The variables that we set; the caller's give ways to the engine and the network alone."""
    recipe_sha256: str
    """As in the evidence."""
    sources: Sources | None
    """None: it is not under git."""
    config: Config | None
    finished: str = ""
    exit_status: int | None = None
    image: Image | None = None
    """None: no container was asked for."""
    log_sha256: str = ""
    packages: tuple[BuiltFile, ...] = msgspec.field(default=())


def write(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    fresh.replace(path)


def parse(data: bytes) -> Record | None:
    """Return the record that these bytes are, or None if they are none."""
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, RecursionError):
        return None


def of_packages(artifacts: Iterable[Artifact]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each record that lies with packages and is about these bytes."""
    found = list(artifacts)
    known = {(one.key, one.sha256) for one in found}
    for folder in dict.fromkeys(Path(one.path).parent.parent / FOLDER for one in found):
        for path in sorted(folder.glob(f"*/{FILE}")):
            if path.is_symlink() or path.stat().st_size > MOST_BYTES:
                continue
            data = path.read_bytes()
            record = parse(data)
            if record is not None and any((p.key, p.sha256) in known for p in record.packages):
                yield path.parent.name, data


def in_evidence(name: str) -> str:
    """Return where the record of a build lies in the folder of the evidence."""
    return f"logs/build-{name}.json"


def in_folder(folder: Path, logs: Mapping[str, str]) -> Iterator[Record]:
    """Yield the records among the logs of a folder of evidence that are what it says they are."""
    for name, digest in logs.items():
        path = folder / name
        # A run that is one of several has its logs further down.
        if not re.search(r"(^|/)logs/build-[^/]*\.json$", name) or not path.is_file():
            continue
        data = path.read_bytes()
        record = parse(data) if hashlib.sha256(data).hexdigest() == digest else None
        if record is not None:
            yield record


def image_of(config: Path) -> str | None:
    """Return the image that a variant file of ``.ci_support`` names, or None.

    Raises BuildError for a file that cannot be read.
    """
    import yaml  # noqa: PLC0415 # no run of tests needs it

    try:
        value = yaml.load(config.read_text(), Loader=yaml.BaseLoader)  # noqa: S506 # texts alone
        images = value.get("docker_image") if isinstance(value, dict) else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BuildError(
            f"{config}: it cannot be read as YAML.", remedy="Run `conda smithy rerender` again."
        ) from error
    return str(images[0]) if isinstance(images, list) and images else None


def sha256(path: Path) -> str:
    """Return the sha256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
