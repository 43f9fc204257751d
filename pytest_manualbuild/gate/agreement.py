"""Compares test sections: those that were reviewed, and those that a package carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec.structs import fields

from pytest_manualbuild.checks import checks
from pytest_manualbuild.model import Check, TestSection
from pytest_manualbuild.recipe import specs


def differences(
    reviewed: Sequence[TestSection], carried: Sequence[TestSection], where: str
) -> Iterator[str]:
    """Yield in sentences what ``where`` has other than what was reviewed."""
    ours, theirs = checks(reviewed), checks(carried)
    named = [f"{where} lacks the check {check.name!r}." for check in _only(ours, theirs)]
    named += [f"{where} has another check {check.name!r}." for check in _only(theirs, ours)]
    if not named:
        for one, other in zip(reviewed, carried, strict=False):
            section = f" in {one.label}" if one.label else ""
            named += [
                f"{where} has other test {field.name}{section}."
                for field in fields(TestSection)
                if not _agree(field.name, getattr(one, field.name), getattr(other, field.name))
            ]
    if not named and len(reviewed) != len(carried):
        named = [f"{where} has other tests."]
    yield from named


def _agree(name: str, one: object, other: object) -> bool:
    if name == "requires" and isinstance(one, tuple) and isinstance(other, tuple):
        return specs.agree(one, other)
    return one == other


def _only(these: Sequence[Check], those: Sequence[Check]) -> list[Check]:
    left = Counter((check.name, check.text) for check in those)
    only = []
    for check in these:
        if left[check.name, check.text]:
            left[check.name, check.text] -= 1
        else:
            only.append(check)
    return only
