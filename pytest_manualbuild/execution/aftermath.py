"""Looks at a host after the tests of a package: what they left, changed or were killed for.

None of it is a check's result: a reviewer reads it as a warning.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Sequence

MOST_NAMES = 5

# The kernel's count of processes of this container that were killed for want of memory. As of all
# that is here, no process begins for it alone.
_OOM = """\
_mb_oom=
for _mb_file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  [ ! -r "$_mb_file" ] || while read -r _mb_key _mb_value; do
    [ "$_mb_key" != oom_kill ] || _mb_oom=$_mb_value
  done 2>/dev/null <"$_mb_file"
done
"""
# A kernel's time of files goes on in steps of milliseconds: what is written in the same step as
# ours would not be newer. The first write is for a test before, which may have set any time; `>|`
# for a script of the environment, which may have told the shell to keep files as they are.
_NEXT_STEP = """\
: >|{step}
_mb_tries=0
until [ {step} -nt {started} ] || [ $((_mb_tries += 1)) -gt 2000 ]; do
  : >|{step}
done
unset _mb_tries
"""
# Python writes *.pyc when it imports; the inode's time also tells of changed modes and owners. It
# also goes on when another host's environment is linked to the same file of the package cache.
# What the tests wrote is never calculated with: some shells run commands that stand in a number.
# Where they made our files something else (a FIFO, a link), those who come next get new ones.
_LOOK = """\
for _mb_file in {step} {started}; do
  [ -f "$_mb_file" ] && [ -w "$_mb_file" ] && [ ! -L "$_mb_file" ] || rm -rf "$_mb_file"
done
before=- noted=yes
[ ! -s {started} ] || read -r before <{started}
[ "$before" != - ] || before= noted=
{oom}case $_mb_oom$before in *[!0-9]*) _mb_oom= before= ;; esac
[ -z "$noted" ] || [ "${{_mb_oom:-0}}" = "${{before:-0}}" ] \\
  || printf 'oom %s\\0' $((_mb_oom - ${{before:-0}}))
here=.
[ -d {prefix}/conda-meta ] && cd {prefix} || {{ here=; printf 'gone \\0'; }}
[ -n "$noted" ] || exit 0
LC_ALL=C find $here {folder}/work "$HOME" "$TMPDIR" \\( -path './*' ! -type d ! -name '*.pyc' \\
  \\( -newer {started} -o -cnewer {started} -links 1 \\) \\
  -exec printf 'changed %s\\0' {{}} + \\) -o \\( ! -path './*' -type f -newer {started} \\
  \\( -name core -o -name 'core.[0-9]*' \\) -exec printf 'core %s\\0' {{}} + \\) 2>/dev/null
echo - 1<>{started}
"""
_NEXT = "[ -d {prefix}/conda-meta ] || printf 'spoilt \\0'\n"


def before(folder: str) -> str:
    """Return bash that notes when the tests begin whose folder of ours that is."""
    step, started = _notes(folder)
    noted = f"{_OOM}echo $_mb_oom 1<>{started}\nunset _mb_file _mb_oom\n"
    return noted + _NEXT_STEP.format(step=step, started=started)


def after(folder: str, prefix: str, following: Iterable[str]) -> str:
    """Return bash that looks at the host after the tests; ``findings`` reads what it prints.

    ``following`` has the prefixes of those who come next on that host.
    """
    step, started = _notes(folder)
    look = _LOOK.format(
        folder=shlex.quote(folder),
        prefix=shlex.quote(prefix),
        oom=_OOM,
        step=step,
        started=started,
    )
    return "".join(_NEXT.format(prefix=shlex.quote(one)) for one in following) + look


def _notes(folder: str) -> tuple[str, str]:
    """Return two files whose times tell when the tests began, quoted for a shell.

    They are beside the folder, for all sections of the host: a new file costs much where others
    were just deleted (ext4 without a journal). The second one is empty between sections.
    """
    beside = posixpath.dirname(folder)
    return shlex.quote(f"{beside}/step"), shlex.quote(f"{beside}/started")


def spoilt(said: bytes) -> bool:
    """Say whether tests removed the environment of those who come next."""
    return any(word.partition(b" ")[0].strip() == b"spoilt" for word in said.split(b"\0"))


def findings(said: bytes, left: Sequence[str], folder: str) -> list[str]:
    """Return sentences on what the tests did beside passing or failing.

    ``said`` is what the script of ``after`` printed for that folder, ``left`` the processes that
    were left behind.
    """
    found: dict[str, list[str]] = {}
    for line in said.decode(errors="backslashreplace").split("\0"):
        word, _, rest = line.partition(" ")
        found.setdefault(word.strip(), []).append(rest)
    sentences = []
    if left:
        sentences.append(f"the tests left processes behind, which were killed: {listed(left)}")
    if killed := found.get("oom"):
        sentences.append(f"{killed[0]} processes of the tests were killed for want of memory")
    if cores := found.get("core"):
        names = [name.removeprefix(f"{folder}/") for name in cores]
        sentences.append(f"the tests dumped core: {listed(names)}")
    if "gone" in found:
        sentences.append("the tests removed the environment")
    if "spoilt" in found:
        sentences.append("the tests removed that of others, who got a new host")
    if changed := found.get("changed"):
        names = [name.removeprefix("./") for name in changed]
        sentences.append(f"the tests changed or added files of the environment: {listed(names)}")
    return sentences


def listed(names: Iterable[str]) -> str:
    """Return names of processes or files, which a test may have chosen, fit to be shown."""
    shown = ["".join(c if c.isprintable() else "?" for c in name) for name in names]
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return ", ".join(sorted(shown)[:MOST_NAMES]) + more
