"""What is known of a section's tests before they run, and whoever reads the report must know."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_manualbuild.hosts.facts import INTERNET
from pytest_manualbuild.model import PlannedPackage


def of(planned: PlannedPackage) -> Iterator[str]:
    """Yield the warnings for the record of the host on which these tests run."""
    if INTERNET in planned.needs:
        yield f"{planned.label}: its tests had the network: the recipe needs it"
    if asked := [name for one in planned.sections for name in one.secrets]:
        yield (
            f"{planned.label}: its tests ran without the secrets that they ask for:"
            f" {', '.join(asked)}"
        )
