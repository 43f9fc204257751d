"""The rules for the names, types, modes and links of a package's members.

Pure. Extractors differ in what they do with a device, a setuid program or a
link out of the prefix, and most just make it: here each is an error, found
before anything is extracted.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from pytest_manualbuild.records import Finding, Severity

_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?")
_WINDOWS_FORBIDDEN = re.compile(r'[<>:"|?*]|[. ]$')
_LONGEST = 260
"""Characters of a path that every Windows program can open."""
_MOST_LINKS = 40  # as the kernel follows
_MOST_STEPS = 1000
"""Parts of a path that are walked to find out where a link leads."""
_SETID = 0o6000
_WORLD_WRITABLE = 0o002
_REBUILD = "Build it again, and do not unpack this file."


class Kind(StrEnum):
    """What sort of member it is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    DEVICE = "device"
    FIFO = "fifo"
    OTHER = "other"  # sparse files, and whatever no extractor agrees about


_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.CHRTYPE: Kind.DEVICE,
    tarfile.BLKTYPE: Kind.DEVICE,
    tarfile.FIFOTYPE: Kind.FIFO,
}


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member of the archive, as its header says."""

    name: str
    """With ``/``, without a leading ``./``."""
    kind: Kind
    size: int = 0
    """Bytes."""
    mode: int = 0o644
    link: str = ""
    """Where a link leads: from its own folder (symlink), from the prefix (hardlink)."""
    sha256: str = ""
    """Of a regular file's content."""
    resized: bool = False
    """Its size stands in two headers, of which readers heed either."""


def kind(entry: tarfile.TarInfo) -> Kind:
    """Return what sort of member a header announces."""
    if entry.sparse is not None:
        return Kind.OTHER
    return _KINDS.get(entry.type, Kind.OTHER)


def findings(found: Iterable[Member], subdir: str) -> Iterator[Finding]:
    """Yield whatever is wrong with the members of a package for that subdir."""
    everything = tuple(found)
    on_windows = subdir in ("noarch", "") or subdir.startswith("win-")
    for member in everything:
        yield from _name(member, on_windows=on_windows)
        yield from _type(member, subdir)
    yield from _collisions(everything, subdir)
    yield from _links(everything)
    yield from _late(everything)


def _error(code: str, member: Member, message: str, remedy: str = _REBUILD) -> Finding:
    return Finding(
        code=f"archive-{code}",
        severity=Severity.ERROR,
        file=member.name,
        message=message,
        remedy=remedy,
    )


def _name(member: Member, *, on_windows: bool) -> Iterator[Finding]:
    name = member.name
    parts = name.split("/")
    if name == "." and member.kind is Kind.FOLDER:
        return
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        yield _error("absolute", member, "Its path is absolute.")
    elif ".." in parts:
        yield _error("escape", member, "Its path leads out of the prefix.")
    elif "" in parts or "." in parts:
        yield _error("name", member, "Its path has an empty part, or one that is a dot.")
    if "\\" in name:
        yield _error("backslash", member, "Its path has a backslash: on Windows, a separator.")
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name):
        yield _error("control", member, "Its path has invisible characters, or is no valid UTF-8.")
    elif not unicodedata.is_normalized("NFC", name):
        yield _error(
            "unicode", member, "Its path is not in the normal form NFC; macOS would change it."
        )
    if on_windows:
        yield from _windows_name(member, parts)


def _windows_name(member: Member, parts: list[str]) -> Iterator[Finding]:
    for part in parts:
        if _WINDOWS_DEVICE.fullmatch(part):
            yield _error("reserved", member, f"{part!r} is the name of a device on Windows.")
        elif part not in ("", ".", "..") and _WINDOWS_FORBIDDEN.search(part):
            yield _error("reserved", member, f"Windows cannot have a file named {part!r}.")
    if len(member.name) > _LONGEST:
        yield _error("long", member, f"Its path has more than {_LONGEST} characters.")


def _type(member: Member, subdir: str) -> Iterator[Finding]:
    if member.kind in (Kind.DEVICE, Kind.FIFO, Kind.OTHER):
        what = {Kind.DEVICE: "a device", Kind.FIFO: "a named pipe"}
        yield _error(
            str(member.kind),
            member,
            f"It is {what.get(member.kind, 'of a type that no package needs')}.",
        )
    elif member.kind is not Kind.FILE and member.size:
        yield _error("size-of-link", member, f"It is a {member.kind}, and yet has content.")
    if member.resized:
        yield _error("size-twice", member, "Its size is given twice; readers would disagree.")
    if member.kind in (Kind.FILE, Kind.FOLDER, Kind.HARDLINK):
        if member.mode & _SETID:
            yield _error(
                "setid", member, f"It would be setuid or setgid (mode {member.mode & 0o7777:o})."
            )
        # Windows has no such modes: what builds there writes 0666 for every file.
        if member.mode & _WORLD_WRITABLE and not subdir.startswith("win-"):
            yield _error(
                "world-writable",
                member,
                f"Everybody could write to it (mode {member.mode & 0o7777:o}).",
                "Take the permission away in the build script.",
            )


def _collisions(everything: tuple[Member, ...], subdir: str) -> Iterator[Finding]:
    """Yield what would be written twice, and what is the same where case does not count."""
    severity = Severity.WARNING if subdir.startswith("linux-") else Severity.ERROR
    kinds: dict[str, Kind] = {}
    # A tree, since the paths of all folders as texts could be made to fill the memory.
    spelled: dict[tuple[int, str], tuple[int, str]] = {}
    told: set[tuple[int, str]] = set()
    for member in everything:
        folders = kinds.get(member.name) is member.kind is Kind.FOLDER
        if member.name in kinds and not folders:
            yield _error("duplicate", member, "It is in the archive twice; one would win.")
        kinds.setdefault(member.name, member.kind)
        place = 0
        for part in member.name.split("/"):
            key = (place, part.casefold())
            place, other = spelled.setdefault(key, (len(spelled) + 1, part))
            if other != part:
                if (place, part) not in told:
                    told.add((place, part))
                    yield Finding(
                        code="archive-case",
                        severity=severity,
                        file=member.name,
                        message=f"{part!r} and {other!r} are one where case does not count.",
                        remedy="Rename one of them.",
                    )
                break


def _links(everything: tuple[Member, ...]) -> Iterator[Finding]:
    """Yield links that lead out, and members that would be written through a link."""
    links = {m.name: m.link for m in everything if m.kind is Kind.SYMLINK}
    leaves = {m.name for m in everything if m.kind is not Kind.FOLDER}
    earlier: set[str] = set()
    for member in everything:
        parent = member.name
        while parent := parent.rpartition("/")[0]:
            if parent in leaves:
                yield _error(
                    "through-link", member, f"It lies below {parent!r}, which is no folder."
                )
        if member.kind is Kind.SYMLINK:
            yield from _symlink(member, links)
        elif member.kind is Kind.HARDLINK:
            if member.link.removeprefix("./") not in earlier:
                yield _error(
                    "hardlink", member, f"It is a hard link to {member.link!r}, no earlier file."
                )
            else:
                earlier.add(member.name)
        elif member.kind is Kind.FILE:
            earlier.add(member.name)


def _late(everything: tuple[Member, ...]) -> Iterator[Finding]:
    """Yield files of ``info/`` where it is over for who reads no more than that.

    What unpacks the whole takes them all the same, tests and dependencies included.
    """
    begun = over = False
    for member in everything:
        inside = member.name.startswith("info/")
        if inside and over and member.kind is not Kind.FOLDER:
            message = "It stands behind other files than those of info/, where few look for it."
            yield _error("late-info", member, message)
        begun = begun or member.name == "info/index.json"
        over = begun and (over or not inside)


def _symlink(member: Member, links: dict[str, str]) -> Iterator[Finding]:
    target = member.link
    if target.startswith("/") or re.match(r"[A-Za-z]:", target):
        yield _error("link-absolute", member, f"It is a link to the absolute path {target!r}.")
    elif "\\" in target or not target:
        yield _error("link-escape", member, f"It is a link to {target!r}, which is no path.")
    elif (problem := _follow(member.name, links)) is not None:
        yield _error("link-escape", member, f"It is a link to {target!r}, which {problem}.")


def _follow(name: str, links: dict[str, str]) -> str | None:
    """Walk a link as the kernel would, other links of the package included; say if it leaves.

    ``a/b/..`` is not always ``a``: where ``b`` is a link, ``..`` is the parent of its target.
    """
    left = name.split("/")[::-1]
    at: list[str] = []
    hops = 0
    for _ in range(_MOST_STEPS):
        if not left:
            return None
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return "leads out of the prefix"
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is not None:
            hops += 1
            if hops > _MOST_LINKS:
                return "goes round in circles"
            if target.startswith("/"):
                return "leads out of the prefix"
            at.pop()
            left += target.split("/")[::-1]
    return "goes round in circles"
