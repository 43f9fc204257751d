"""Runs ``run_test.py``, then every import, with the environment's own Python.

conda-build appends the imports to ``run_test.py`` (create_test.py), so that a
script that calls ``sys.exit(0)`` hides them all, and the first failing import
hides the rest. Here the imports have a process of their own and go on after a
failure; where one takes the process down, the next ones get a new process.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_manualbuild.languages.base import Numbered, Parses, Piece
from pytest_manualbuild.model import CheckKind

NAME = "python"
PACKAGE = "python"

# Says on descriptor 3 what it is about to do, and goes on when descriptor 4 answers: the
# output of an import is then on its stream before the mark that ends it.
_DRIVER = """\
import os, sys, traceback
def say(line):
    sys.stdout.flush(); sys.stderr.flush()
    os.write(3, (line + "\\n").encode()); os.read(4, 1)
os.set_inheritable(3, False); os.set_inheritable(4, False)
sys.path[0] = os.getcwd()
for number, name in IMPORTS:
    if number < int(sys.argv[1]):
        continue
    say("begin %d" % number)
    status = 0
    try:
        exec("import " + name, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    say("end %d %d" % (number, status))
say("done")
os._exit(0)
"""

_RUN_IMPORTS = r"""_mb_next={first}
while [ "$_mb_next" -lt {stop} ]; do
  _mb_current=
  rm -f _manualbuild_say _manualbuild_hear
  mkfifo _manualbuild_say _manualbuild_hear
  "$PREFIX/bin/python" -s _manualbuild_imports.py "$_mb_next" \
    3>_manualbuild_say 4<_manualbuild_hear &
  _mb_python=$!
  exec 5<_manualbuild_say 6>_manualbuild_hear
  while read -r -u 5 _mb_word _mb_number _mb_status; do
    case "$_mb_word" in
      begin) mark "begin $_mb_number"; _mb_current=$_mb_number ;;
      end) mark "end $_mb_number $_mb_status"; _mb_current=; _mb_next=$((_mb_number + 1)) ;;
      done) _mb_next={stop}; break ;;
    esac
    printf . >&6
  done
  exec 5<&- 6>&-
  _mb_status=0
  wait "$_mb_python" || _mb_status=$?
  if [ "$_mb_next" -lt {stop} ]; then
    [ -n "$_mb_current" ] || {{ _mb_current=$_mb_next; mark "begin $_mb_current"; }}
    mark "end $_mb_current $_mb_status died"
    _mb_next=$((_mb_current + 1))
  fi
done
"""
# rattler-build runs `pip check`; a pip of the host must not stand in for the environment's.
_PIP_CHECK = """\
mark 'begin {number}'
_mb_status=0
"$PREFIX/bin/python" -m pip check || _mb_status=$?
mark "end {number} $_mb_status"
"""


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], parses: Parses) -> Piece:
    """Return the script for ``run_test.py`` and the imports (``parses`` is for shells)."""
    del parses
    script = ""
    files: dict[str, bytes] = {}
    imports: list[tuple[int, str]] = []
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            files[check.text] = scripts[check.text]
            script += (
                f"mark 'begin {number}'\n_mb_status=0\n"
                f'"$PREFIX/bin/python" -s "$_mb_work"/{check.text} || _mb_status=$?\n'
                f'mark "end {number} $_mb_status"\n'
            )
        elif check.kind is CheckKind.IMPORT:
            imports.append((number, check.text))
    if imports:
        files["_manualbuild_imports.py"] = f"IMPORTS = {imports!r}\n{_DRIVER}".encode()
        script += _RUN_IMPORTS.format(first=imports[0][0], stop=imports[-1][0] + 1)
    for number, check in checks:
        if check.kind is CheckKind.PIP_CHECK:
            script += _PIP_CHECK.format(number=number)
    return Piece(script=script, files=files)
