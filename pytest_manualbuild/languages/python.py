"""Runs ``run_test.py``, then every import, with the environment's own Python.

conda-build appends the imports to ``run_test.py`` (create_test.py), so that a
script that calls ``sys.exit(0)`` hides them all, and the first failing import
hides the rest. Here the imports share a process of their own, as they do
there, and go on after a failure; where one takes the process down, the next
ones get a new one. The last import passes only when the process ends well.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence

from pytest_manualbuild.execution.marks import Said
from pytest_manualbuild.languages.base import Numbered, Piece, Site
from pytest_manualbuild.model import CheckKind
from pytest_manualbuild.shells import SYSTEM_PATH

NAME = "python"
PACKAGE = "python"

# Is told on descriptor 4 what to import, and answers on descriptor 3 with the key that came with
# the name: what else an import writes there is no answer. It keeps what an import may replace.
_DRIVER = """\
import os, sys, traceback
run, read, write, leave, getpid = exec, os.read, os.write, os._exit, os.getpid
complain, streams, me = traceback.print_exc, [sys.stdout, sys.stderr], os.getpid()
os.set_inheritable(3, False); os.set_inheritable(4, False)
sys.path[0] = os.getcwd()
while True:
    asked = b""
    while not asked.endswith(b"\\n"):
        more = read(4, 65536)
        if not more:
            break
        asked += more
    if not asked:
        break
    key, name = asked.decode().strip().split(" ", 1)
    status = 0
    try:
        run("import " + name, {"__name__": "__main__"})
    except BaseException:
        status = 1
        try:
            complain()
        except BaseException:
            pass
    if getpid() != me:
        leave(0)
    for stream in [*streams, sys.stdout, sys.stderr]:
        try:
            stream.flush()
        except BaseException:
            pass
    write(3, ("\\n%s %d\\n" % (key, status)).encode())
"""

# The shell knows the marks; the driver only ever holds the key of the import under way.
_RUN_IMPORTS = r"""_mb_names=({names})
_mb_keys=({keys})
_mb_begins=({begins})
_mb_ends=({ends})
_mb_say=${{_mb_work%/*}}/say _mb_hear=${{_mb_work%/*}}/hear
PATH={system} rm -f "$_mb_say" "$_mb_hear"
PATH={system} mkfifo "$_mb_say" "$_mb_hear"
_mb_next=0
while [ "$_mb_next" -lt {count} ]; do
  mark "${{_mb_begins[_mb_next]}}"
  "$PREFIX/bin/python" -s -c {driver} 3>"$_mb_say" 4<"$_mb_hear" &
  _mb_python=$!
  exec 5<"$_mb_say" 6>"$_mb_hear"
  trap '' PIPE
  while
    _mb_status=
    printf '%s %s\n' "${{_mb_keys[_mb_next]}}" "${{_mb_names[_mb_next]}}" >&6 2>/dev/null
  do
    while read -r -u 5 _mb_key _mb_word; do
      if [ "$_mb_key" = "${{_mb_keys[_mb_next]}}" ]; then _mb_status=$_mb_word; break; fi
    done
    [ -n "$_mb_status" ] && [ $((_mb_next + 1)) -lt {count} ] || break
    mark "${{_mb_ends[_mb_next]}} $_mb_status"
    _mb_next=$((_mb_next + 1))
    mark "${{_mb_begins[_mb_next]}}"
  done
  exec 5<&- 6>&-
  trap - PIPE
  _mb_exit=0
  wait "$_mb_python" || _mb_exit=$?
  if [ -z "$_mb_status" ] || [ "$_mb_exit" != 0 ]; then _mb_status="$_mb_exit died"; fi
  mark "${{_mb_ends[_mb_next]}} $_mb_status"
  _mb_next=$((_mb_next + 1))
done
"""


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.py`` and the imports."""
    script = ""
    files: dict[str, bytes] = {}
    imports: list[tuple[int, str]] = []
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            files[check.text] = scripts[check.text]
            path = shlex.quote(check.text)
            script += site.measured(number, f'"$PREFIX/bin/python" -s "$_mb_work"/{path}')
        elif check.kind is CheckKind.IMPORT:
            imports.append((number, check.text))
    if imports:
        script += _RUN_IMPORTS.format(
            names=" ".join(shlex.quote(" ".join(name.split())) for _, name in imports),
            keys=" ".join(secrets.token_hex(8) for _ in imports),
            begins=" ".join(site.marks.new(Said.BEGUN, number) for number, _ in imports),
            ends=" ".join(site.marks.new(Said.ENDED, number) for number, _ in imports),
            count=len(imports),
            driver=shlex.quote(_DRIVER),
            system=SYSTEM_PATH,
        )
    for number, check in checks:
        if check.kind is CheckKind.PIP_CHECK:
            # As rattler-build does; a pip of the host must not stand in for the environment's.
            script += site.measured(number, '"$PREFIX/bin/python" -m pip check')
    return Piece(script=script, files=files)
