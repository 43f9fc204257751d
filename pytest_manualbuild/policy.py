"""Reads ``policy.toml``: what the gate demands, kept where others review it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_manualbuild import matrix
from pytest_manualbuild.errors import PolicyError
from pytest_manualbuild.model import Matrix

DEFAULT_LABEL = "manual"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where packages may go."""

    kind: str | None = None
    owner: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a report must be."""

    matrix: str | None = None
    """A matrix's name, or its file relative to the policy's."""
    approvals: int = 0
    max_age_days: int | None = None


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Whose signatures count."""

    allowed_signers: str | None = None


@dataclass(frozen=True, kw_only=True)
class Enabled:
    """One package that may be built by hand."""

    package: str
    pr: str | int | None = None
    by: str | None = None
    until: str | None = None
    builders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the gate demands."""

    target: Target = Target()
    gate: Gate = Gate()
    signers: Signers = Signers()
    enabled: tuple[Enabled, ...] = ()
    matrix: Matrix | None = None
    """The matrix that ``gate.matrix`` names."""


_TABLES = {
    "target": tuple(Target.__dataclass_fields__),
    "gate": tuple(Gate.__dataclass_fields__),
    "signers": tuple(Signers.__dataclass_fields__),
    "enabled": tuple(Enabled.__dataclass_fields__),
}


def load(path: Path | None) -> Policy:
    """Return the policy of a file (None: the default one); PolicyError names file and key."""
    if path is None:
        return Policy()
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise PolicyError(
            f"{path}: the policy cannot be read: {error.strerror}.", remedy="Check --policy."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: not valid TOML: {error}.", remedy="Correct it.") from error
    for name, table in tables.items():
        _check_keys(path, name, table)
    try:
        policy = msgspec.convert(_plain(tables), type=Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{path}: {error}.", remedy="Correct that value.") from error
    if policy.gate.approvals < 0 or (policy.gate.max_age_days or 1) < 1:
        raise PolicyError(f"{path}: gate: numbers must not be negative.", remedy="Correct them.")
    if policy.gate.matrix is None:
        return policy
    named = path.parent / policy.gate.matrix
    wanted = str(named) if named.is_file() else policy.gate.matrix
    return replace(policy, matrix=matrix.load(wanted))


def _check_keys(path: Path, name: str, table: object) -> None:
    if name not in _TABLES:
        raise PolicyError(
            f"{path}: unknown key {name}.", remedy=f"Known keys: {', '.join(_TABLES)}."
        )
    rows = table if isinstance(table, list) else [table]
    if isinstance(table, list) != (name == "enabled"):
        form = f"[[{name}]]" if name == "enabled" else f"[{name}]"
        raise PolicyError(f"{path}: {name} has another form.", remedy=f"Write it as {form}.")
    for row in rows:
        if not isinstance(row, dict):
            raise PolicyError(f"{path}: {name} must be a table.", remedy="Correct it.")
        for key in row:
            if key not in _TABLES[name]:
                raise PolicyError(
                    f"{path}: unknown key {name}.{key}.",
                    remedy=f"Known keys: {', '.join(_TABLES[name])}.",
                )


def _plain(value: Any) -> Any:  # noqa: ANN401 # TOML's values
    """Write dates as text, as the values of a policy hold them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value
