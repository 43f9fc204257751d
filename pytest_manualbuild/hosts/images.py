"""Images of hosts of kind ``docker``: fetched when missing, with the facts found in them before."""

from __future__ import annotations

import contextlib
from typing import Any

from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts import engines
from pytest_manualbuild.hosts.base import Progress
from pytest_manualbuild.model import Host


def image(client: Any, host: Host, progress: Progress) -> Any:  # noqa: ANN401 # docker publishes no complete types
    """Return the image of a host, pulled if it is not there; HostUnavailable if it cannot be."""
    import docker  # noqa: PLC0415 # 0.2 s, only for those who have such hosts
    from docker.utils import parse_repository_tag  # noqa: PLC0415

    with contextlib.suppress(docker.errors.ImageNotFound):
        return client.images.get(host.image)
    progress(f"pulling {host.image}")
    repository, tag = parse_repository_tag(host.image or "")
    layers: dict[str, tuple[int, int]] = {}
    try:
        for line in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise docker.errors.APIError(line["error"])
            detail = line.get("progressDetail") or {}
            if detail.get("total"):
                layers[line.get("id", "")] = (detail.get("current", 0), detail["total"])
                done, total = (sum(values) for values in zip(*layers.values(), strict=True))
                progress(f"pulling {host.image} ({100 * done // total} %)")
        return client.images.get(host.image)
    except docker.errors.APIError as error:
        raise HostUnavailable(
            f"{host.name}: the image {host.image} is not here and cannot be pulled:"
            f" {engines.reason(error)}.",
            remedy="Correct its name in the matrix, or fetch or import it by hand.",
        ) from error
