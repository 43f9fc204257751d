"""A display for tests that need one: Xvfb, started inside the host for one test section.

A person's shell on a host that was kept gets one of its own.
"""

from __future__ import annotations

import msgspec

from pytest_manualbuild.errors import HostUnavailable
from pytest_manualbuild.hosts.base import Connection
from pytest_manualbuild.model import PlannedPackage
from pytest_manualbuild.patience import patient

DISPLAY = "display"
"""The need that is met by starting Xvfb on a host that provides it."""
PROGRAM = "Xvfb"
START_S = 60.0
_NO_PROGRAM = 127
_WORDS = 2
# Xvfb takes a number that is free and says it once it is ready; where it ends, nothing is read.
_START = """\
[ "$(uname)" = Linux ] || exit 0
command -v Xvfb >/dev/null || exit 127
rm -f "$TMPDIR/display" && mkfifo "$TMPDIR/display" || exit 1
{alone}Xvfb -displayfd 7 -screen 0 1280x1024x24 -nolisten tcp \\
  7>"$TMPDIR/display" </dev/null >/dev/null 2>"$TMPDIR/Xvfb.txt" 200>&- 201>&- &
read -r -t 30 number <"$TMPDIR/display"
rm -f "$TMPDIR/display"
[ -n "$number" ] && echo "$number" $! || {{ tail -n 1 "$TMPDIR/Xvfb.txt" >&2; exit 1; }}
"""
# So that it removes its socket and lock; whatever is wrong, it is killed with all that is left.
# One that has ended may stay as a zombie, where nobody asks what became of it.
_STOP = """\
kill {process} || exit 0
SECONDS=0
while [ $SECONDS -lt 5 ] && {{ read -r state </proc/{process}/stat; }} 2>/dev/null; do
  case ${{state##*) }} in Z*|X*) break;; esac
done
"""
# Xvfb ends with the shell and all that is started from it, which hold the other end of a pipe. It
# has a session of its own, so that what is typed (Ctrl-C) is not meant for it.
_ENTER = """\
if _mb_display=$(
{start}); then
  if [ -n "$_mb_display" ]; then
    export DISPLAY=:${{_mb_display% *}}
    exec {{_mb_held}}> >(
      exec >/dev/null 2>&1
      trap '' HUP INT
      read -r _
      kill "${{_mb_display#* }}"
    )
  fi
else
  echo 'DISPLAY is not set: Xvfb is missing on this host, or it does not start.' >&2
fi
unset _mb_display _mb_held
"""


class Display(msgspec.Struct, frozen=True, kw_only=True):
    """A display that was started."""

    number: str
    process: str

    @property
    def known(self) -> str:
        """Bash that makes it known to tests."""
        return f"export DISPLAY=:{self.number}\n"

    def stop(self, connection: Connection) -> None:
        """End it, as far as it lets itself be ended; settling the host does the rest."""
        connection.run(_STOP.format(process=self.process), timeout_s=patient(START_S))


def enter(planned: PlannedPackage) -> str:
    """Return bash for a person's shell, which starts a display if the package needs one."""
    if DISPLAY not in planned.needs:
        return ""
    return _ENTER.format(start=_START.format(alone="setsid "))


def start(connection: Connection, planned: PlannedPackage, host: str) -> Display | None:
    """Start a display if the package needs one; systems other than Linux have their own.

    HostUnavailable where it cannot be started.
    """
    if DISPLAY not in planned.needs:
        return None
    done = connection.run(_START.format(alone=""), timeout_s=patient(START_S))
    if done.exit_status == _NO_PROGRAM:
        raise HostUnavailable(
            f"{host}: the matrix says that it provides a display, and it has no {PROGRAM}.",
            remedy="Install it there (Debian: xvfb), or take the display out of `provides`.",
        )
    if done.exit_status != 0:
        said = done.stderr.decode(errors="backslashreplace").strip() or "it did not start"
        raise HostUnavailable(
            f"{host}: {PROGRAM} cannot be started: {said}.", remedy="Try it there by hand."
        )
    words = done.stdout.decode(errors="replace").split()
    return Display(number=words[0], process=words[1]) if len(words) == _WORDS else None
