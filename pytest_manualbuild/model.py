"""The values that travel down the road: frozen, plain, and the same for every stop.

Nothing here reads a file, touches a host or judges. Names are those of the
design: host, check, test section, artifact, environment, outcome, cause.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace


class CheckKind(StrEnum):
    """What sort of thing a check runs."""

    INSTALL = "install"
    IMPORT = "import"
    COMMAND = "command"
    SCRIPT = "script"
    USE = "use"  # an import in Perl that nothing more is asked of than to be found
    PIP_CHECK = "pip-check"
    CONTENTS = "contents"  # of the package file; needs no environment
    FUNCTION = "function"  # a test function of the recipe's own, which pytest runs here
    DOWNSTREAM = "downstream"  # the tests of another package, beside this one


CheckKey = tuple[str, str, str]
"""(host, package key, check name): what names a result."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One import, command, script or built-in check: one pytest item on each host."""

    name: str
    """The name in reports: no host, hash or version in it, so that histories work."""
    kind: CheckKind
    language: str = ""
    text: str = ""
    """What is run: the module, the command line, or the script's path in the recipe."""
    index: int = 0
    """Position in its list of the recipe, from 0."""
    section: int = 0
    """Position of its test section in the package's, from 0."""


class TestFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file that the tests need, as it stands in the recipe folder."""

    path: str
    """Relative to the recipe folder, with ``/``."""
    sha256: str
    size: int
    # Left out where it is not so, as in plans from before there was such a key: they keep their
    # digest.
    idle: bool = False
    """It is a script, and holds nothing that could fail (``recipe.idle``)."""


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """One import, in the language that does it."""

    language: str
    name: str


class ContentsRule(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a ``package_contents`` test."""

    kind: str
    """``files``, ``bin``, ``lib``, ``include``, ``site_packages`` or ``strict``."""
    glob: str = ""
    """As the recipe has it; empty for ``strict``: every file is named by another rule."""
    exists: bool = True
    """Whether a file must match, or none may."""


class TestSection(msgspec.Struct, frozen=True, kw_only=True):
    """Tests that share an environment of their own: the reviewed text of the tests.

    An output of a ``meta.yaml`` has exactly one; one of a ``recipe.yaml`` has one for each of
    its tests.
    """

    label: str = ""
    """What the names of its checks begin with, such as ``tests[1]``; unique in the package."""
    imports: tuple[Import, ...] = ()
    commands: tuple[str, ...] = ()
    scripts: tuple[TestFile, ...] = ()
    """``run_test.*`` of the recipe, in the order in which conda-build runs them."""
    requires: tuple[str, ...] = ()
    files: tuple[TestFile, ...] = ()
    source_files: tuple[str, ...] = ()
    downstreams: tuple[str, ...] = ()
    schema: int = 0
    """Whose rules hold: 0 those of ``meta.yaml``, 1 those of ``recipe.yaml``."""
    pip_check: bool = False
    script: str | None = None
    """A text to run whole; None: the commands are run, or there is nothing to run."""
    interpreter: str = ""
    """The language of ``script``, one of ours; empty: it is for the shell."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str = ""
    """The folder of commands, script and files, below the prefix; empty: one outside of it."""
    build_requires: tuple[str, ...] = ()
    """What a second environment holds, whose programs are found first."""
    contents: tuple[ContentsRule, ...] = ()
    """What the package file must hold; a section with such rules has nothing else to run."""
    secrets: tuple[str, ...] = ()
    """Variables that it would like of the caller's environment; none is given, ever."""
    modules: tuple[TestFile, ...] = ()
    """Files of the recipe that pytest imports on the controller (``--recipe-tests``)."""
    functions: tuple[str, ...] = ()
    """``FILE::FUNCTION`` of each test function in them; such a section has nothing else to run."""
    unrunnable: str = ""
    """Why this version cannot run the section, in a sentence; its checks are skipped then."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One package that a recipe describes, rendered for one variant."""

    name: str
    version: str
    build_number: int
    noarch: str | None
    skip: bool
    sections: tuple[TestSection, ...]
    """At least one, in the order in which they run."""
    variant: dict[str, str] = msgspec.field(default_factory=dict)
    """The variant keys that it uses, with their values."""
    needs: tuple[str, ...] = ()
    """What its tests need of a host (``extra/manualbuild/needs``)."""
    run: tuple[str, ...] = ()
    """``requirements/run``."""
    test: dict[str, Any] = msgspec.field(default_factory=dict)
    """The test section as the recipe gives it, for people to read."""
    kind: str = "conda"
    """``wheel`` for an output of which no conda package comes, and that nothing tests."""
    unknown: tuple[str, ...] = ()
    """Keys of the test section that conda-build does not know, and that nothing runs."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One built package file, as its bytes and its ``info/`` say."""

    path: str
    """Absolute path of the file when it was read."""
    subdir: str
    filename: str
    sha256: str
    size: int
    name: str
    version: str
    build: str
    build_number: int
    noarch: str | None
    depends: tuple[str, ...]
    constrains: tuple[str, ...]
    variant: dict[str, str] = msgspec.field(default_factory=dict)
    """``info/hash_input.json``: the variant keys that the build used, as text."""

    @property
    def key(self) -> str:
        """``subdir/filename``: what names the package in a plan and in evidence."""
        return f"{self.subdir}/{self.filename}"

    @property
    def dist(self) -> str:
        """``name-version-build``."""
        return f"{self.name}-{self.version}-{self.build}"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host of the matrix, as its table says."""

    name: str
    kind: str
    subdir: str
    required: bool = True
    network: bool = False
    standin: bool = False
    """A replacement for a system we do not have: never satisfies ``required``."""
    provides: tuple[str, ...] = ()
    eol: str | None = None
    isolation: str = "host"
    """``host``: one container for all packages of a run; ``package``: a fresh one each."""
    at_once: int | None = None
    """How many hosts of its engine or machine may be up at once; None: any number."""
    timeout_factor: float = 1.0
    """How many times longer than usual it may take, whatever it does."""
    image: str | None = None
    engine: str | None = None
    memory: str | None = None
    """Limit, in the engine's notation, such as ``4g``."""
    pids: int | None = None
    """Limit of processes and threads."""
    address: str | None = None
    port: int | None = None
    ssh_config: str | None = None
    identity_file: str | None = None
    shell: str = "sh"
    https: bool = True
    ca_file: str | None = None
    """The certificates to trust, where they are not those of the system."""
    password_from: str | None = None
    """Where its password is: ``env:NAME`` or ``keyring:NAME``; never the password."""
    root: str | None = None
    persona: str = "win10"
    """The Windows that wine says it is."""
    machine: str | None = None
    """Of several in a Vagrantfile."""
    snapshot: str | None = None
    """What a virtual machine is put back to at each start."""

    @property
    def decides(self) -> bool:
        """Whether a package must pass on it: it is required, and the system that it stands for."""
        return self.required and not self.standin


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of one matrix file, in its order."""

    name: str
    sha256: str
    """Of the bytes of the file."""
    hosts: tuple[Host, ...]
    text: str
    """The file itself, for the evidence."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a host really is, as it said itself."""

    os_id: str = ""
    os_version: str = ""
    os_name: str = ""
    kernel: str = ""
    arch: str = ""
    glibc: str | None = None
    macos: str | None = None
    image_digest: str | None = None
    origin: str | None = None
    """What a virtual machine was made from, in words: box, version, provider, snapshot."""
    host_key: str | None = None
    """Type and SHA256 fingerprint of the key that an ssh server proved to have."""
    user: str = ""
    notes: tuple[str, ...] = ()
    """What the host cannot do or keep, in sentences: network not cut off, and the like."""


class PlannedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact with what must be tested of it."""

    artifact: Artifact
    label: str
    """Short, free of hashes, and unique in the plan: the PACKAGE of a report's class name."""
    sections: tuple[TestSection, ...]
    """At least one. Each runs in an environment of its own, whatever became of those before."""
    checks: tuple[Check, ...]
    """In the order in which they run; the first is always ``install``."""
    needs: tuple[str, ...] = ()
    """What its tests need of a host: ``internet``, or what ``Host.provides`` names."""

    def only(self, section: int) -> PlannedPackage:
        """Return the package with nothing but this one of its sections and its checks."""
        return replace(
            self,
            sections=(self.sections[section],),
            checks=tuple(check for check in self.checks if check.section == section),
        )

    def environment_key(self, section: int) -> str:
        """Return what names the environment of a section in a host's record."""
        key = self.artifact.key
        return f"{key} {self.sections[section].label}" if section else key


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One package on one host."""

    host: str
    package: str
    """The artifact's key."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Checks x packages x hosts: made once, touches no host, is plain JSON."""

    recipe: str
    """Absolute path of the recipe folder."""
    recipe_sha256: str
    """Over the sorted paths and hashes of the folder's files."""
    matrix: Matrix
    packages: tuple[PlannedPackage, ...]
    cells: tuple[Cell, ...]
    """In the order of the matrix, then of the packages."""

    def package(self, key: str) -> PlannedPackage:
        """Return the package of that key; KeyError if the plan has none."""
        for planned in self.packages:
            if planned.artifact.key == key:
                return planned
        raise KeyError(key)

    def host(self, name: str) -> Host:
        """Return the host of that name; KeyError if the matrix has none."""
        for host in self.matrix.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Names of hosts and runs: safe as a file name, a container label and an XML name part."""
SUBDIRS = (
    "linux-64",
    "linux-aarch64",
    "linux-ppc64le",
    "linux-s390x",
    "linux-riscv64",
    "linux-32",
    "osx-64",
    "osx-arm64",
    "win-64",
    "win-arm64",
    "win-32",
)
"""Subdirs that a host can have; packages may be ``noarch`` as well."""


def builder_subdir(subdir: str) -> str:
    """Return the subdir of the machine that builds a package: linux-64 for ``noarch``."""
    return "linux-64" if subdir == "noarch" else subdir
