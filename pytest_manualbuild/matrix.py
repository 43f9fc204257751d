"""Reads a matrix file: TOML tables of hosts, checked key by key.

One table below says which keys exist, of which type, and for which kinds of
host; the JSON Schema for editors (``schema()``) is made from the same table.
Nothing here starts a host, or knows how.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import platform
import re
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import msgspec

from pytest_manualbuild import tomlfile
from pytest_manualbuild.errors import MatrixError
from pytest_manualbuild.model import NAME_PATTERN, SUBDIRS, Host, Matrix

KINDS = ("local", "docker", "rootfs", "ssh", "winrm", "vagrant", "wine")


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    type: type
    text: str
    kinds: tuple[str, ...] = KINDS
    choices: tuple[str, ...] = ()


_KEYS: Mapping[str, _Key] = {
    "kind": _Key(type=str, text="How the host is reached.", choices=KINDS),
    "subdir": _Key(type=str, text="The conda subdir that it runs.", choices=SUBDIRS),
    "required": _Key(type=bool, text="Whether the gate demands a pass on it (default: true)."),
    "network": _Key(type=bool, text="Whether tests may use the network (default: false)."),
    "standin": _Key(type=bool, text="A replacement for another system: never counts as proof."),
    "provides": _Key(type=list, text="Capabilities that a recipe may ask for."),
    "eol": _Key(type=date, text="When its system is, or was, no longer supported."),
    "isolation": _Key(
        type=str, text="A fresh one for each package, or one a run.", choices=("host", "package")
    ),
    "at_once": _Key(type=int, text="How many hosts of its engine or machine may be up at once."),
    "timeout_factor": _Key(type=float, text="How many times longer than usual all may take."),
    "image": _Key(type=str, text="The container image.", kinds=("docker",)),
    "engine": _Key(type=str, text="URL of the Docker engine.", kinds=("docker",)),
    "memory": _Key(type=str, text="Memory limit, such as 4g.", kinds=("docker", "rootfs")),
    "pids": _Key(type=int, text="Limit of processes and threads.", kinds=("docker", "rootfs")),
    "address": _Key(type=str, text="[USER@]NAME of the machine.", kinds=("ssh", "winrm")),
    "port": _Key(type=int, text="Port of its server.", kinds=("ssh", "winrm")),
    "ssh_config": _Key(type=str, text="An ssh_config file.", kinds=("docker", "ssh")),
    "identity_file": _Key(type=str, text="A private key file.", kinds=("docker", "ssh")),
    "shell": _Key(
        type=str, text="The shell on the far side.", kinds=("ssh",), choices=("sh", "cmd")
    ),
    "password_from": _Key(
        type=str,
        text="Where the password is: env:NAME (a variable) or keyring:NAME (a service).",
        kinds=("winrm",),
    ),
    "https": _Key(
        type=bool,
        text="Whether to use TLS (default); without it, messages are sealed by the login.",
        kinds=("winrm",),
    ),
    "ca_file": _Key(type=str, text="A file of certificates to trust.", kinds=("winrm",)),
    "persona": _Key(
        type=str,
        text="The Windows that wine says it is (default: win10).",
        kinds=("wine",),
        choices=("win7", "win10"),
    ),
    "root": _Key(
        type=str,
        text="The root folder or its tarball (rootfs), the Vagrant folder, the wine prefix, or the"
        " folder for our files (ssh, winrm).",
        kinds=("rootfs", "ssh", "vagrant", "wine", "winrm"),
    ),
    "machine": _Key(type=str, text="One of several in its Vagrantfile.", kinds=("vagrant",)),
    "snapshot": _Key(
        type=str, text="A snapshot that the machine is put back to.", kinds=("vagrant",)
    ),
}
_TYPE_WORDS = {
    str: "text",
    bool: "true or false",
    list: "a list of texts",
    date: "a date (2018-12-01)",
    int: "a whole number above 0",
    float: "a number from 1 to 100",
}
_NEEDED = {
    "docker": ("image",),
    "ssh": ("address",),
    "winrm": ("address", "password_from"),
    "rootfs": ("root",),
    "vagrant": ("root",),
}
_PLACE = re.compile(r"(env|keyring):[A-Za-z0-9._-]+")
_MOST_PATIENCE = 100
_MEMORY = re.compile(r"[1-9][0-9]*[bkmgBKMG]?")


def local_subdir() -> str:
    """Return the conda subdir of this machine."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return "osx-arm64" if machine == "arm64" else "osx-64"
    return {"x86_64": "linux-64", "amd64": "linux-64", "i686": "linux-32"}.get(
        machine, f"linux-{machine}"
    )


def shipped_folder() -> Path:
    """Return the folder of the matrices that come with the tool."""
    installed = Path(__file__).parent / "matrices"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "matrices"


def load(name_or_file: str | None) -> Matrix:
    """Return the matrix of that name (shipped) or file; None means ``local``.

    Raises MatrixError, naming the file and the key.
    """
    if name_or_file == "":  # what a script gives whose variable is not set
        raise MatrixError(
            "--matrix is empty.", remedy="Give a name or a file, or leave it out for local."
        )
    wanted = name_or_file or "local"
    path = Path(wanted)
    if not path.suffix and "/" not in wanted and not path.is_file():
        path = shipped_folder() / f"{wanted}.toml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in shipped_folder().glob("*.toml")))
            raise MatrixError(
                f"There is no matrix named {wanted!r}.",
                remedy=f"Name one of these ({names}), or give the path of a TOML file.",
            )
    return parse(tomlfile.text(path, "matrix", MatrixError), str(path))


def select(matrix: Matrix, on: str | None) -> list[Host]:
    """Return the hosts whose names a glob takes (None: all), in order; MatrixError if none."""
    selected = [host for host in matrix.hosts if on is None or fnmatch.fnmatchcase(host.name, on)]
    if not selected:
        names = ", ".join(host.name for host in matrix.hosts)
        raise MatrixError(f"--on {on}: no host has such a name.", remedy=f"The hosts are: {names}.")
    return selected


def parse(text: str, name: str) -> Matrix:
    """Return the matrix that this TOML describes; ``name`` stands for it in errors.

    Raises MatrixError, naming the key.
    """
    tables = tomlfile.parse(text, name, MatrixError)
    for key in tables:
        if key not in ("defaults", "hosts"):
            raise _unknown(name, key, ("defaults", "hosts"))
    defaults = _table(name, "defaults", tables.get("defaults", {}))
    for key, value in defaults.items():
        _check(name, f"defaults.{key}", key, value)
    hosts_table = _table(name, "hosts", tables.get("hosts", {}))
    if not hosts_table:
        raise MatrixError(f"{name}: it names no host.", remedy="Add a table such as [hosts.local].")
    hosts = tuple(_host(name, host, table, defaults) for host, table in hosts_table.items())
    _refuse_twins(name, hosts)
    return Matrix(
        name=Path(name).stem,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        hosts=hosts,
        text=text,
    )


def _host(file: str, host: str, table: object, defaults: Mapping[str, object]) -> Host:
    where = f"hosts.{host}"
    if not NAME_PATTERN.fullmatch(host):
        raise MatrixError(
            f"{file}: {where}: {host!r} is not a safe name for a host.",
            remedy="Use up to 63 letters, digits, '.', '_' and '-', first a letter or digit.",
        )
    own = _table(file, where, table)
    for key, value in own.items():
        _check(file, f"{where}.{key}", key, value)
    kind = own.get("kind", defaults.get("kind"))
    if kind is None:
        raise MatrixError(
            f"{file}: {where}.kind is missing.", remedy=f"Use one of: {', '.join(KINDS)}."
        )
    for key in own:
        if kind not in _KEYS[key].kinds:
            raise MatrixError(
                f"{file}: {where}.{key}: a host of kind {kind!r} has no such key.",
                remedy=f"Remove it; it is for {' and '.join(_KEYS[key].kinds)}.",
            )
    values = {key: value for key, value in defaults.items() if kind in _KEYS[key].kinds} | own
    if kind == "local":
        values.setdefault("subdir", local_subdir())
    for key in ("subdir", *_NEEDED.get(str(kind), ())):
        if key not in values:
            raise MatrixError(
                f"{file}: {where}.{key} is missing.", remedy=f"Add it: {_KEYS[key].text}"
            )
    if isinstance(end := values.get("eol"), date):
        values["eol"] = end.isoformat()
    values["standin"] = _is_standin(file, where, str(kind), values)
    factor = values.get("timeout_factor", 1)  # which may be written as a whole number
    values["timeout_factor"] = float(factor)  # type: ignore[arg-type] # it was checked above
    values["provides"] = tuple(_texts(values.get("provides")))
    return Host(name=host, **values)  # type: ignore[arg-type] # each value was checked above


def _is_standin(file: str, where: str, kind: str, values: Mapping[str, object]) -> bool:
    """Say whether the host is one. Wine is: its evidence is of a Windows that never was."""
    if kind == "wine" and values.get("standin") is False:
        raise MatrixError(
            f"{file}: {where}.standin is false, and wine is not Windows.",
            remedy="Remove it: a host of kind 'wine' is always a stand-in.",
        )
    return kind == "wine" or values.get("standin") is True


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _check(file: str, where: str, key: str, value: object) -> None:
    if key not in _KEYS:
        raise _unknown(file, where, tuple(_KEYS))
    rule = _KEYS[key]
    # bool is an int in Python, and a datetime is a date
    right = type(value) is rule.type
    if right and rule.type is int:
        right = isinstance(value, int) and value > 0
    if rule.type is float and type(value) in (int, float):
        right = 1 <= value <= _MOST_PATIENCE  # type: ignore[operator] # a number: see above
    if right and isinstance(value, list):
        right = all(isinstance(item, str) and item for item in value)
    if right and rule.type is str:
        right = bool(value) and "\0" not in str(value)
    if not right:
        raise MatrixError(
            f"{file}: {where} is {value!r}.", remedy=f"It must be {_TYPE_WORDS[rule.type]}."
        )
    if rule.choices and value not in rule.choices:
        raise MatrixError(
            f"{file}: {where}: {value!r} is not known.{_near(str(value), rule.choices)}",
            remedy=f"Use one of: {', '.join(rule.choices)}.",
        )
    if key == "password_from" and not _PLACE.fullmatch(str(value)):
        raise MatrixError(
            f"{file}: {where} does not name a place.",  # it may be the password itself
            remedy="Write env:NAME or keyring:NAME; a password has no place in a matrix.",
        )
    if key == "memory" and not _MEMORY.fullmatch(str(value)):
        raise MatrixError(
            f"{file}: {where} is {value!r}.", remedy="Write a size such as 512m or 4g."
        )


def _refuse_twins(file: str, hosts: tuple[Host, ...]) -> None:
    # On file systems without case, and in reports where dots become underscores, these are one.
    seen: dict[str, str] = {}
    for host in hosts:
        folded = host.name.lower().replace(".", "_")
        if folded in seen:
            raise MatrixError(
                f"{file}: hosts.{host.name} and hosts.{seen[folded]} are one name in reports.",
                remedy="Rename one so that they differ in more than case, '.' and '_'.",
            )
        seen[folded] = host.name


def _table(file: str, where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise MatrixError(f"{file}: {where} must be a table.", remedy=f"Write it as [{where}].")
    return value


def _unknown(file: str, where: str, known: tuple[str, ...]) -> MatrixError:
    return MatrixError(
        f"{file}: unknown key {where}.{_near(where.rpartition('.')[2], known)}",
        remedy=f"Known keys: {', '.join(known)}.",
    )


def _near(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def schema() -> dict[str, object]:
    """Return the JSON Schema of a matrix file, for editors; made from the table of keys."""
    types: dict[type, dict[str, object]] = {
        str: {"type": "string", "minLength": 1},
        bool: {"type": "boolean"},
        list: {"type": "array", "items": {"type": "string", "minLength": 1}},
        date: {"type": "string", "format": "date"},
        int: {"type": "integer", "minimum": 1},
        float: {"type": "number", "minimum": 1, "maximum": _MOST_PATIENCE},
    }
    properties = {
        key: {
            **types[rule.type],
            **({"enum": list(rule.choices)} if rule.choices else {}),
            "description": rule.text
            + ("" if rule.kinds == KINDS else f" For: {', '.join(rule.kinds)}."),
        }
        for key, rule in _KEYS.items()
    }
    table = {"type": "object", "properties": properties, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A matrix of pytest-manualbuild: the hosts on which packages must pass",
        "type": "object",
        "required": ["hosts"],
        "additionalProperties": False,
        "properties": {
            "defaults": table,
            "hosts": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": f"^{NAME_PATTERN.pattern}$"},
                "additionalProperties": table,
            },
        },
    }
