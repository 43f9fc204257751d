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
from pytest_manualbuild.languages.base import BatchSite, Numbered, Piece, Site, written
from pytest_manualbuild.model import CheckKind
from pytest_manualbuild.shells import SYSTEM_PATH

NAME = "python"
PACKAGE = "python"

# What bash runs in the background ignores INT and QUIT; an import must not notice.
_HEED = """\
import _signal
if _signal.getsignal(_signal.SIGINT) == _signal.SIG_IGN:
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.signal(_signal.SIGQUIT, _signal.SIG_DFL)
"""
# Is told on the descriptor ASK what to import, and answers on ANSWER with the key that came with
# the name: what else an import writes there is no answer. It keeps what an import may replace, and
# loads nothing that Python had not loaded by itself: a module that forgot an import must fail.
_DRIVER = """\
import os, sys
run, read, write, leave, getpid = exec, os.read, os.write, os._exit, os.getpid
streams, me = [sys.stdout, sys.stderr], os.getpid()
os.set_inheritable(ANSWER, False); os.set_inheritable(ASK, False)
__file__ = sys.argv[0] = os.path.join(os.getcwd(), "run_test.py")
if sys.path[:1] == [""]:
    sys.path[0] = os.getcwd()
while True:
    asked = b""
    while not asked.endswith(b"\\n"):
        more = read(ASK, 65536)
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
        loaded = set(sys.modules)
        try:
            import traceback
            traceback.print_exc()
        except BaseException:
            pass
        for other in set(sys.modules) - loaded:
            sys.modules.pop(other, None)
    if getpid() != me:
        leave(0)
    for stream in [*streams, sys.stdout, sys.stderr]:
        try:
            stream.flush()
        except BaseException:
            pass
    write(ANSWER, ("\\n%s %d\\n" % (key, status)).encode())
"""

# The shell knows the marks; the driver only ever holds the key of the import under way.
_RUN_IMPORTS = r"""_mb_names=({names})
_mb_keys=({keys})
_mb_begins=({begins})
_mb_ends=({ends})
_mb_say=${{_mb_work%/*}}/say _mb_hear=${{_mb_work%/*}}/hear
PATH={system} mkfifo "$_mb_say" "$_mb_hear" 2>/dev/null || {{
  PATH={system} rm -f "$_mb_say" "$_mb_hear"
  PATH={system} mkfifo "$_mb_say" "$_mb_hear"
}}
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

# Windows has no descriptors to inherit but handles; a process of ours stands where the shell does
# elsewhere. It holds the words in its memory, and removes the file that they came in.
_WINDOWS_DRIVER = """\
import os, sys
import msvcrt
ASK, ANSWER = [msvcrt.open_osfhandle(int(one), flags)
               for one, flags in zip(sys.argv[1:], (os.O_RDONLY, os.O_WRONLY))]
del sys.argv[1:]
"""
_WINDOWS_IMPORTS = r"""
import msvcrt, os, subprocess, sys

os.remove(__file__)
checks = {checks!r}
driver = {driver!r}


def say(line):
    for stream in 1, 2:
        os.write(stream, (line + "\r\n").encode())


position = 0
while position < len(checks):
    (ask_end, ask), (answers, answer_end) = os.pipe(), os.pipe()
    handles = [msvcrt.get_osfhandle(one) for one in (ask_end, answer_end)]
    for handle in handles:
        os.set_handle_inheritable(handle, True)
    call = [sys.executable, "-s", "-c", driver] + [str(handle) for handle in handles]
    child = subprocess.Popen(call, stdin=subprocess.DEVNULL, close_fds=False)
    os.close(ask_end)
    os.close(answer_end)
    say(checks[position][2])
    with os.fdopen(answers, "rb") as lines:
        while True:
            key, name, _, end = checks[position]
            status = None
            try:
                os.write(ask, (key + " " + name + "\n").encode())
            except OSError:
                break
            for line in lines:
                words = line.decode(errors="replace").split()
                if len(words) == 2 and words[0] == key:
                    status = words[1]
                    break
            if status is None or position + 1 == len(checks):
                break
            say(end + " " + status)
            position += 1
            say(checks[position][2])
        os.close(ask)
        code = child.wait()
    say(checks[position][3] + " " + ("%d died" % code if status is None or code else status))
    position += 1
"""


def piece(checks: Sequence[Numbered], scripts: dict[str, bytes], site: Site) -> Piece:
    """Return the script for ``run_test.py`` and the imports."""
    script = ""
    files: dict[str, bytes] = {}
    imports: list[tuple[int, str]] = []
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            files[check.text] = written(check, scripts)
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
            driver=shlex.quote(f"ASK, ANSWER = 4, 3\n{_HEED}{_DRIVER}"),
            system=SYSTEM_PATH,
        )
    for number, check in checks:
        if check.kind is CheckKind.PIP_CHECK:
            # As rattler-build does; a pip of the host must not stand in for the environment's.
            script += site.measured(number, '"$PREFIX/bin/python" -m pip check')
    return Piece(script=script, files=files)


def batch(checks: Sequence[Numbered], scripts: dict[str, bytes], site: BatchSite) -> Piece:
    """Return the same for Windows."""
    python = f'"{site.prefix}\\python.exe" -s'
    script = ""
    files: dict[str, bytes] = {}
    imports = [(number, check) for number, check in checks if check.kind is CheckKind.IMPORT]
    for number, check in checks:
        if check.kind is CheckKind.SCRIPT:
            files[check.text] = written(check, scripts)
            script += site.measured(number, f'{python} "{site.work}\\{check.text}"')
    if imports:
        asked = [
            (
                secrets.token_hex(8),
                " ".join(check.text.split()),
                site.marker(site.marks.new(Said.BEGUN, number)),
                site.marker(site.marks.new(Said.ENDED, number)),
            )
            for number, check in imports
        ]
        text = _WINDOWS_IMPORTS.format(checks=asked, driver=_WINDOWS_DRIVER + _DRIVER)
        files["manualbuild_imports.py"] = text.encode()
        script += f'{python} "{site.work}\\manualbuild_imports.py"\n'
    for number, check in checks:
        if check.kind is CheckKind.PIP_CHECK:
            script += site.measured(number, f"{python[:-3]} -m pip check")
    return Piece(script=script, files=files)
