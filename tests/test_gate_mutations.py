"""From a good bundle, every single change that means something is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import run_pytest, signer, write_package
from pytest_manualbuild.errors import ManualBuildError
from pytest_manualbuild.gate import approvals, signatures, verify
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.signatures import Role
from pytest_manualbuild.gate.verdict import Decision

TEST = "test:\n  commands:\n    - 'true'\n    - 'false'\n"
POLICY = """# who may build odd
[target]
kind = "anaconda"
owner = "builder"
label = "manual"

[gate]
matrix = "local.toml"
approvals = 1
max_age_days = 30

[gate.severities]
license-missing = "note"

[signers]
allowed_signers = "signers"

[[enabled]]
package = "odd"
pr = 12
by = "core"
until = 2099-01-01
builders = ["alice"]
"""
MUTATIONS = 340
SEED = 3  # any will do; a fixed one lets a failure be seen again


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A package, a report with a waived check, its signatures, and the policy that accepts it."""
    folder = tmp_path_factory.mktemp("bundle")
    write_package(folder, TEST)
    ran = run_pytest("--recipe", "recipe", "--matrix", "local.toml", "--evidence", "report",
                     cwd=folder)  # fmt: skip
    assert ran.status == 1, ran.out
    (folder / "signers").write_text(
        signer(keys, "alice", "report") + signer(keys, "bob", "approve", "waiver")
    )
    (folder / "policy.toml").write_text(POLICY)
    policy = policies.load(folder / "policy.toml")
    approvals.sign_report(folder / "report", keys / "alice", policy)
    approvals.approve(folder / "report", keys / "bob", policy, ("log", "audit"), "all is fine")
    today = datetime.now(UTC).date()
    waiver = approvals.Waiver(
        id="w-1", package="odd", version="1", host="here", check="commands[1]: false",
        reason="known", link="https://example.org/1", created=today,
        expires=today + timedelta(days=9),
    )  # fmt: skip
    approvals.waive(folder / "report", keys / "bob", policy, waiver)
    assert accepted(folder)
    return folder


def accepted(folder: Path) -> bool:
    """Say whether the gate accepts; an error that a user would see is a refusal."""
    try:
        policy = policies.load(folder / "policy.toml")
        verdict = verify.verify(folder / "report", folder / "build_artifacts", policy).verdict
    except ManualBuildError:
        return False
    return verdict.decision is Decision.ACCEPT


Change = Callable[[random.Random, bytes], bytes]


def flip(dice: random.Random, data: bytes) -> bytes:
    """Change one byte that is no white space into another one that is none."""
    places = [place for place, byte in enumerate(data) if byte > ord(" ")]
    place = dice.choice(places)
    fresh = dice.choice([byte for byte in range(33, 127) if byte != data[place]])
    return data[:place] + bytes([fresh]) + data[place + 1 :]


def bit(dice: random.Random, data: bytes) -> bytes:
    place = dice.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]


def cut(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data) - 1)]


def longer(dice: random.Random, data: bytes) -> bytes:
    return data + dice.randbytes(dice.randrange(1, 9))


def setting(dice: random.Random, data: bytes) -> bytes:
    """Change, comment out or drop one line of a TOML file that is no remark."""
    lines = data.decode().splitlines()
    number = dice.choice([n for n, line in enumerate(lines) if line and not line.startswith("#")])
    line = lines[number]
    lines[number] = dice.choice(["", f"# {line}", flip(dice, line.encode()).decode()])
    return "\n".join(lines).encode()


def body(dice: random.Random, data: bytes) -> bytes:
    """Change one character of a signature, but none of the last, whose bits may be padding."""
    lines = data.decode().splitlines()
    number = dice.randrange(1, len(lines) - 2)
    place = dice.randrange(len(lines[number]))
    old = lines[number][place]
    fresh = dice.choice([c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/" if c != old])
    lines[number] = lines[number][:place] + fresh + lines[number][place + 1 :]
    return "\n".join(lines).encode()


def leaf(dice: random.Random, data: bytes) -> bytes:
    """Change one value somewhere in a JSON file, or drop one key or item."""
    value = json.loads(data)
    places = list(leaves(value))
    parent, key = dice.choice(places)
    old = parent[key]
    if dice.random() < 0.3:
        del parent[key]
    elif isinstance(old, bool):
        parent[key] = not old
    elif isinstance(old, int):
        parent[key] = old + dice.choice([-1, 1])
    elif isinstance(old, str):
        parent[key] = f"{old}x" if dice.random() < 0.5 else old[:-1] + "~"
    else:
        parent[key] = {"other": 1}
    return json.dumps(value, indent=1).encode()


def leaves(value: object) -> Iterator[tuple[dict[object, object], object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, item in items:
        if isinstance(item, dict | list) and item:
            yield from leaves(item)
        else:
            yield value, key  # type: ignore[misc]


PACKAGE = "build_artifacts/noarch/odd-1-0.conda"
TABLE: dict[str, tuple[Change, ...]] = {
    PACKAGE: (bit, cut, longer),
    "report/evidence.json": (flip, leaf, leaf, cut),
    "report/junit.xml": (flip, cut),
    "report/matrix.toml": (setting,),
    "report/recipe/meta.yaml": (flip, cut),
    "report/logs": (flip,),
    "report/evidence.json.sig": (body, cut),
    "report/approvals/bob.json": (flip, leaf),
    "report/approvals/bob.json.sig": (body,),
    "report/waivers/w-1.json": (flip, leaf),
    "report/waivers/w-1.json.sig": (body,),
    "policy.toml": (setting, setting),
    "local.toml": (setting,),
}


def files(bundle: Path, name: str) -> list[Path]:
    path = bundle / name
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def test_no_single_mutation_is_accepted(bundle: Path) -> None:
    dice = random.Random(SEED)
    choices = [(name, change) for name, changes in TABLE.items() for change in changes]
    slipped: list[str] = []
    tried: Counter[str] = Counter()
    while sum(tried.values()) < MUTATIONS:
        name, change = choices[sum(tried.values()) % len(choices)]
        path = dice.choice(files(bundle, name) or [bundle / PACKAGE])
        good = path.read_bytes()
        bad = change(dice, good)
        if bad == good:
            continue
        tried[name] += 1
        path.write_bytes(bad)
        try:
            if accepted(bundle):
                slipped.append(f"{name}: {change.__name__}: {bad!r:.3000}")
        finally:
            path.write_bytes(good)
    assert slipped == []
    assert accepted(bundle)  # everything was put back, so that each change was a single one
    assert set(tried) == set(TABLE)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "report/logs"])
def test_no_part_may_be_missing(bundle: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    assert not accepted(tmp_path / "bundle")


@pytest.mark.parametrize("number", range(30))
def test_a_report_that_was_changed_and_signed_again_is_not_the_approved_one(
    bundle: Path, tmp_path: Path, keys: Path, number: int
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle/report/evidence.json"
    path.write_bytes(leaf(random.Random(number), path.read_bytes()))
    who = "alice" if number % 2 else "mallory"
    signatures.sign(path, keys / who, Role.REPORT)
    assert not accepted(tmp_path / "bundle")


def remark(folder: Path) -> None:
    path = folder / "policy.toml"
    path.write_text("# more\n\n" + path.read_text().replace(" = ", "   =  ") + "\n")


def order(folder: Path) -> None:
    path = folder / "signers"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def views(folder: Path) -> None:
    (folder / "report/summary.md").write_text("\n")
    (folder / "report/results.jsonl").unlink()


def times(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (1, 1))


def names(folder: Path) -> None:
    for suffix in (".json.sig", ".json"):
        path = folder / f"report/approvals/bob{suffix}"
        path.rename(path.with_name(f"from-mail{suffix}"))


def newcomer(folder: Path) -> None:
    path = folder / "signers"
    key = path.read_text().split()[3]
    path.write_text(f"# {key}\n{path.read_text()}\n")


def elsewhere(folder: Path) -> None:
    path = folder / PACKAGE
    path.rename(folder / "build_artifacts" / path.name)


@pytest.mark.parametrize("change", [remark, order, views, times, names, newcomer, elsewhere])
def test_harmless_changes_are_still_accepted(
    bundle: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    change(tmp_path / "bundle")
    assert accepted(tmp_path / "bundle")
