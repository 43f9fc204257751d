"""Checks what a package file holds against a ``package_contents`` test; nothing is installed.

The rules are rattler-build's (``content_test.rs``). It looks when it builds; here the file under
test is looked at, so that a package built without its tests is found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_manualbuild import globs
from pytest_manualbuild.errors import ArtifactError
from pytest_manualbuild.model import Artifact, ContentsRule

MOST_NAMED = 5
_WINDOWS_BIN = ("Library/bin", "Scripts", "bin", "Library/mingw-w64/bin", "Library/usr/bin", "")
_WINDOWS_PROGRAM = "{,.exe,.bat,.cmd,.com,.ps1}"


def problems(artifact: Artifact, rules: Sequence[ContentsRule], paths: Sequence[str]) -> list[str]:
    """Return for each rule what is wrong, in a sentence; empty where the package keeps it.

    ``paths`` are those of the package's files. Raises ArtifactError for a rule of no known kind.
    """
    named: set[str] = set()
    found = []
    for rule in rules:
        if rule.kind == "strict":
            found.append("")
            continue
        patterns = list(_patterns(rule, artifact))
        hits = [[path for path in paths if _any(alternatives, path)] for alternatives in patterns]
        if rule.exists:
            named.update(path for hit in hits for path in hit)
            missing = [one for one, hit in zip(patterns, hits, strict=True) if not hit]
            found.append(f"No file matches {_or(missing[0])}." if missing else "")
        else:
            unwanted = [path for hit in hits for path in hit]
            found.append(f"It must not hold {_few(unwanted)}." if unwanted else "")
    left = [path for path in paths if path not in named]
    for number, rule in enumerate(rules):
        if rule.kind == "strict" and left:
            found[number] = f"{len(left)} files are named by no rule: {_few(left)}."
    return found


def _any(alternatives: Sequence[str], path: str) -> bool:
    return any(globs.matches(one, path) for one in alternatives)


def _or(alternatives: Sequence[str]) -> str:
    return " or ".join(alternatives)


def _few(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(paths[:MOST_NAMED]) + more


def _patterns(rule: ContentsRule, artifact: Artifact) -> Iterator[tuple[str, ...]]:
    """Yield groups of globs; of each group one must match (or none, where none may)."""
    windows, glob = artifact.subdir.startswith("win-"), rule.glob
    match rule.kind:
        case "files":
            yield (glob,)
        case "include":
            yield (f"Library/include/{glob}" if windows else f"include/{glob}",)
        case "bin" if windows:
            yield tuple(f"{place}/{glob}{_WINDOWS_PROGRAM}".lstrip("/") for place in _WINDOWS_BIN)
        case "bin":
            yield (f"bin/{glob}",)
        case "lib" if windows:
            yield from _windows_libraries(glob)
        case "lib":
            yield _libraries(glob, macos=artifact.subdir.startswith("osx-"))
        case "site_packages":
            yield _modules(glob, artifact, windows=windows)
        case _:
            raise ArtifactError(
                f"{artifact.key}: package_contents knows no {rule.kind!r}.", remedy="Correct it."
            )


def _windows_libraries(glob: str) -> Iterator[tuple[str, ...]]:
    if glob.endswith(".dll"):
        yield (f"Library/bin/{glob}",)
    elif glob.endswith(".lib"):
        yield (f"Library/lib/{glob}",)
    else:
        yield (f"Library/bin/{glob}.dll",)
        yield (f"Library/lib/{glob}.lib",)


def _libraries(glob: str, *, macos: bool) -> tuple[str, ...]:
    if macos:
        if glob.endswith((".dylib", ".a")):
            return (f"lib/{glob}",)
        return (f"lib/{{,lib}}{glob}.dylib", f"lib/{{,lib}}{glob}.*.dylib")
    if glob.endswith((".so", ".a")) or ".so." in glob:
        return (f"lib/{glob}",)
    return (f"lib/{{,lib}}{glob}.so", f"lib/{{,lib}}{glob}.so.*")


def _modules(glob: str, artifact: Artifact, *, windows: bool) -> tuple[str, ...]:
    if artifact.noarch == "python":
        base = "site-packages"
    else:
        base = "Lib/site-packages" if windows else "lib/python*/site-packages"
    if "/" in glob:
        return (f"{base}/{glob}",)
    path = glob.replace(".", "/")
    return (f"{base}/{path}.py", f"{base}/{path}/__init__.py")
