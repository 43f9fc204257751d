"""The child process that talks to py-rattler: solves, links, indexes.

A process of its own, because py-rattler crashes now and then while Python
shuts down: this one ends with ``os._exit``. One JSON request a line comes in,
one JSON answer a line goes out, in whatever order they are ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any


def _applicable(index: dict[str, Any], virtual: dict[str, str]) -> str:
    """Return why the package cannot be on such a host; empty if it can."""
    from rattler import MatchSpec, Version, VersionSpec  # noqa: PLC0415 # only in this child

    for kind in ("depends", "constrains"):
        for text in index.get(kind, ()):
            if not text.startswith("__"):
                continue
            spec = MatchSpec(text)
            name = text.split()[0].split("=")[0].split("<")[0].split(">")[0].rstrip("!")
            value = virtual.get(name)
            if value is None and kind == "depends":
                return f"it needs {text}, and the host has no {name}"
            if (
                value is not None
                and spec.version is not None
                and not VersionSpec(str(spec.version)).matches(Version(value))
            ):
                return f"it needs {text}, and the host has {name} {value}"
    return ""


class _Solver:
    def __init__(self) -> None:
        import rattler  # noqa: PLC0415 # only in this child

        self._solutions: dict[str, list[Any]] = {}
        # Each new client reads all certificates of the system: longer than a small environment.
        self._client = rattler.Client.default_client()
        self._gateway = rattler.Gateway(client=self._client)

    async def solve(self, asked: dict[str, Any]) -> dict[str, Any]:
        import rattler  # noqa: PLC0415 # only in this child
        from rattler.exceptions import SolverError  # noqa: PLC0415
        from rattler.package import BuildString  # noqa: PLC0415

        virtual = dict(asked["virtual_packages"])
        specs = []
        for text in asked["specs"]:
            try:
                # As conda, conda-build and rattler-build read what is required of a test.
                specs.append(rattler.MatchSpec(text, strict=False))
            except Exception as error:  # noqa: BLE001 # whatever it is, it is the spec's fault
                return {"error": "spec", "spec": text, "text": str(error)}
        try:
            reason = _applicable(asked["index"], virtual)
        except Exception as error:  # noqa: BLE001 # of what the package's index says
            return {"error": "package", "text": str(error)}
        if reason:
            return {"error": "not-applicable", "text": reason}
        try:
            records = await rattler.solve(
                sources=asked["channels"],
                specs=specs,
                gateway=self._gateway,
                platforms=[asked["subdir"], "noarch"],
                virtual_packages=[
                    rattler.GenericVirtualPackage(
                        rattler.PackageName(name),
                        rattler.Version(version),
                        BuildString("x86_64" if name == "__archspec" else "0"),
                    )
                    for name, version in virtual.items()
                ],
            )
        except SolverError as error:
            return {"error": "unsolvable", "text": str(error)}
        except Exception as error:  # noqa: BLE001 # rattler's errors of channels share no base
            return {"error": "channel", "text": str(error)}
        self._solutions[asked["id"]] = records
        return {
            "solution": asked["id"],
            "version": rattler.__version__,
            "packages": [
                {
                    "name": record.name.normalized,
                    "version": str(record.version),
                    "build": str(record.build),
                    "subdir": str(record.subdir),
                    "sha256": record.sha256.hex() if record.sha256 else "",
                    "url": str(record.url),
                    "channel": str(record.channel or ""),
                    "file": str(record.file_name),
                }
                for record in records
            ],
        }

    async def link(self, asked: dict[str, Any]) -> dict[str, Any]:
        import rattler  # noqa: PLC0415 # only in this child

        try:
            await rattler.install(
                self._solutions[asked["solution"]],
                asked["target"],
                cache_dir=asked["cache"],
                client=self._client,
                platform=rattler.Subdir(asked["subdir"]),
                execute_link_scripts=False,
                show_progress=False,
                alternative_target_prefix=asked["prefix"],
            )
        except Exception as error:  # noqa: BLE001 # whatever it is, the caller must be told
            return {"error": "link", "text": str(error)}
        return {}

    async def unpack(self, asked: dict[str, Any]) -> dict[str, Any]:
        from rattler.package_streaming import download_and_extract  # noqa: PLC0415 # as above

        try:
            # Not with the hash that is expected: py-rattler takes it and does not look at it.
            sha256, _ = await download_and_extract(self._client, asked["url"], asked["target"])
        except Exception as error:  # noqa: BLE001 # whatever it is, the caller must be told
            return {"error": "unpack", "text": str(error)}
        return {"sha256": sha256.hex()}

    async def index(self, asked: dict[str, Any]) -> dict[str, Any]:
        from rattler.index import index_fs  # noqa: PLC0415 # only in this child

        try:
            await index_fs(asked["folder"])
        except Exception as error:  # noqa: BLE001 # whatever it is, the caller must be told
            return {"error": "index", "text": str(error)}
        return {}


async def _serve(answers: int) -> None:
    solver = _Solver()  # before anybody waits for it
    loop = asyncio.get_running_loop()
    verbs = {
        "solve": solver.solve,
        "link": solver.link,
        "unpack": solver.unpack,
        "index": solver.index,
    }

    async def answer(asked: dict[str, Any]) -> None:
        try:
            said = await verbs[asked["verb"]](asked)
        except Exception as error:  # noqa: BLE001 # an answer must always come
            said = {"error": "internal", "text": f"{type(error).__name__}: {error}"}
        os.write(answers, (json.dumps({"id": asked["id"], **said}) + "\n").encode())

    def read() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(answer(json.loads(line)), loop)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may speak on the stream of answers
    os.chdir("/")  # py-rattler takes no current folder whose name is not UTF-8
    asyncio.run(_serve(answers))


if __name__ == "__main__":
    main()
