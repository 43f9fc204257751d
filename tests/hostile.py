"""Packages that misbehave, as a table: what each one tests, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass, field

OK = ("passed", "ok")
FAILED = ("failed", "exit-status")
TIMEOUT = ("failed", "timeout")
UNREACHED = ("skipped", "not-reached")
HIDDEN = ("skipped", "exit-0")
LOST = ("error", "host-lost")
Said = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One package, as an output of a recipe."""

    name: str
    commands: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    script: str = ""
    """The text of its ``run_test.py``."""
    files: dict[str, str] = field(default_factory=dict)
    """Modules beside the tests."""
    says: tuple[Said, ...]
    """Of each check after ``install``, in the order of the plan."""
    warns: str = ""
    """What the host's record says of it, in part."""
    local: bool = True
    """Whether it can be let loose on this machine; else only on a container."""

    @property
    def python(self) -> bool:
        """Whether it needs Python."""
        return bool(self.imports or self.script)


def shell(name: str, *commands: str, says: tuple[Said, ...], **more: object) -> Hostile:
    """Return a package that tests commands."""
    return Hostile(name=name, commands=commands, says=says, **more)  # type: ignore[arg-type]


# Everything that a child of the shell can see of it, and what looks like one of our nonces there.
SPY = (
    "nonces=$( (declare -f; set; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ $HOME/../* $0"
    " 2>/dev/null) | tr '\\0' '\\n' | grep -aoE '[0-9a-f]{16,24}' | sort -u | head -50)"
)
# One ``tee`` for all of them: one each is thousands of processes where others' numbers are found.
FORGE = (
    "for n in $nonces; do for w in $nonces; do for k in 'exit:0' \"mark:$w 0\"; do"
    " printf '\\036%s:%s\\036' $n \"$k\"; done; done; done | tee /dev/stderr >&200"
)

SHELLS = (
    # What they write
    shell("not-utf8", r"printf '\377\376\200'", says=(OK,)),
    shell("nul", r"printf 'a\000b\000'; exit 3", says=(FAILED,)),
    shell("escapes", r"printf '\033]0;owned\007\033[2J<a>&amp;]]>'; exit 3", says=(FAILED,)),
    shell("like-framing", r"printf '\036%024d:exit:0\036' 7 | tee /dev/stderr", "false",
          says=(OK, FAILED)),
    shell("forged", SPY, FORGE, "false", "true", says=(OK, OK, FAILED, UNREACHED)),
    shell("forged-at-once", f"{SPY}; {FORGE}; exit 4", "true", says=(FAILED, UNREACHED)),
    shell("mark-called", "_mb_mark 0123456789abcdef; _mb_mark; false", "true",
          says=(FAILED, UNREACHED)),
    shell("garbage-on-200", "head -c 300000 /dev/urandom >&200; echo 1 >&201", "true",
          says=(OK, OK)),
    # What they do to their shell
    shell("exec-true", "exec true", "false", says=(OK, HIDDEN)),
    shell("exec-false", "exec false", "true", says=(FAILED, UNREACHED)),
    shell("exit-0", "exit 0", "false", "true", says=(OK, HIDDEN, HIDDEN)),
    shell("closed-12", "exec 1>&- 2>&-", "true", "false", says=(OK, OK, FAILED)),
    shell("closed-200", "exec 200>&-", "true", "false", says=(OK, OK, FAILED)),
    shell("closed-201", "exec 201>&-", "true", "exit 3", says=(OK, OK, FAILED)),
    shell("closed-both", "exec 200>&- 201>&-", "true", says=(OK, HIDDEN)),
    shell("closed-both-fails", "exec 200>&- 201>&-", "false", says=(FAILED, UNREACHED)),
    shell("output-away", "exec >/dev/null 2>&1", "echo gone", "false", says=(OK, OK, FAILED)),
    shell("errexit-off", "set +e", "false", "true", says=(OK, OK, OK)),
    shell("trap-exit-3", "trap 'exit 3' EXIT", "true", says=(OK, FAILED)),
    shell("trap-debug", "trap 'echo $BASH_COMMAND' DEBUG", "true", "false", says=(OK, OK, FAILED)),
    shell("noexec", "set -n", "false", says=(OK, HIDDEN)),
    shell("redefines", "mark() { :; }; exit() { builtin exit 0; }; set() { :; }; printf() { :; }",
          "false", says=(OK, FAILED)),
    shell("redefines-ours", "_mb_mark() { :; }", "true", says=(OK, HIDDEN)),
    shell("redefines-builtin", "builtin() { :; }", "false", says=(FAILED, UNREACHED)),
    shell("calls-mark", "mark", says=(FAILED,)),
    shell("path-gone", "export PATH=/nowhere", "true", "ls", says=(OK, OK, FAILED)),
    shell("exported-functions", "cat() { echo mine; }; export -f cat", 'test "$(cat)" = mine',
          "bash -c cat | grep mine", says=(OK, OK, OK)),
    shell("ulimits", "ulimit -f 0; ulimit -v 500000; ulimit -t 5", "true", says=(OK, OK)),
    shell("last-argument", "mkdir made", "cd $_", "test ${PWD##*/} = made", says=(OK, OK, OK)),
    shell("statuses", "! true", "false && true", "test $? = 1", "true | false || true",
          says=(OK, OK, OK, OK)),
    shell("pipe-statuses", "false | true", "test ${PIPESTATUS[0]} = 1", says=(OK, OK)),
    # What they do to others
    shell("kills-itself", "kill -9 $$", "true", says=(FAILED, UNREACHED)),
    shell("interrupts-itself", "kill -INT $$", "true", says=(FAILED, UNREACHED)),
    shell("kills-parent", "kill -9 $PPID; sleep 1", "true", says=(FAILED, UNREACHED)),
    shell("kills-parent-late", "(sleep 0.3; kill -9 $PPID) & sleep 1", "true",
          says=(FAILED, UNREACHED)),
    shell("kills-shell", "read -r _ _ _ up _ </proc/$PPID/stat; read -r _ _ _ up _ </proc/$up/stat;"
          " kill -9 $up; sleep 5", "true", says=(LOST, LOST), local=False),
    shell("kills-all", "kill -9 -1; sleep 5", "true", says=(LOST, LOST), local=False),
    shell("fork-bomb", "bomb() { bomb | bomb & }; bomb; sleep 60; true", says=(TIMEOUT,),
          local=False),
    shell("steals-input", "timeout 1 cat /proc/1/fd/0; false", says=(FAILED,), local=False),
    shell("writes-to-1", r"printf '\036%024d:exit:0\036' 7 >/proc/1/fd/1; exit 5", says=(FAILED,),
          local=False),
    # What they leave
    shell("daemon", "(sleep 300 &); setsid sleep 300 & sleep 0.2", "true", says=(OK, OK),
          warns="sleep"),
    shell("late", "(sleep 300; touch TEST_FAILED) & sleep 0.1", says=(OK,), warns="left processes"),
    shell("no-folder", 'rm -rf "$PWD"', "true", "cd /", says=(OK, OK, OK)),
    shell("no-prefix", "rm -rf $PREFIX/*", "true", says=(OK, OK), warns="removed the environment"),
    shell("no-environments", 'rm -rf "${PREFIX%/*/*}"/*', "true", says=(OK, OK), local=False,
          warns="that of others, who got a new host"),
    shell("changes-prefix", "echo mine >> $PREFIX/share/odd.txt", says=(OK,),
          warns="share/odd.txt"),
    shell("failed-below", "mkdir sub; touch sub/TEST_FAILED", says=(OK,)),
    shell("failed-here", "touch TEST_FAILED", says=(("failed", "test-failed"),)),
    shell("full-disk", "echo much > /dev/full", "true", says=(FAILED, UNREACHED)),
    shell("eats-memory", "dd if=/dev/zero of=/dev/null bs=3000M count=1", says=(FAILED,),
          local=False, warns="want of memory"),
    # What they wait for
    shell("reads-input", "cat; read -r x || true", says=(OK,)),
    shell("sleeps", "sleep 600", "true", says=(TIMEOUT, UNREACHED)),
    shell("deaf", "trap '' TERM INT HUP; sleep 600", says=(TIMEOUT,)),
    shell("stops-itself", "kill -STOP $$", "true", says=(TIMEOUT, UNREACHED)),
    shell("writes-for-ever", "yes", "true", says=(TIMEOUT, UNREACHED)),
    shell("hangs-at-exit", "trap 'sleep 600' EXIT", "true", says=(OK, TIMEOUT)),
    # Commands that make a statement together, or look as if they did not
    shell("heredoc", "cat <<'EOF' | grep -x \"it's\"", "it's", "EOF", "false",
          says=(OK, OK, OK, FAILED)),
    shell("case", "case x in", "x) true;;", "esac", "false", says=(OK, OK, OK, FAILED)),
    shell("function", "f() {", "  return 3", "}", "f", says=(OK, OK, OK, FAILED)),
    shell("continued", "test 1 = \\", "1", "false", says=(OK, OK, FAILED)),
    shell("quotes", "test 'a", "b' = 'a", "b'", "false", says=(OK, OK, OK, FAILED)),
    shell("comment", "# don't (\"", "true # it's {", "false", says=(OK, OK, FAILED)),
    shell("extglob", "shopt -s extglob", "test !(a) = run_test.sh", "exit 0", "false",
          says=(OK, OK, OK, HIDDEN)),
    shell("never-whole", "true", "if true; then", "true", says=(OK, FAILED, UNREACHED)),
    shell("syntax", "true", ") (", "true", says=(OK, FAILED, UNREACHED)),
    shell("heredoc-open", "cat <<EOF", "text", " EOF", "false", says=(OK, HIDDEN, HIDDEN, HIDDEN)),
)  # fmt: skip


def py(name: str, module: str, *says: Said, more: tuple[str, ...] = ("zipfile",)) -> Hostile:
    """Return a package that tests the import of a module, and others after it."""
    return Hostile(name=name, imports=(name, *more), files={f"{name}.py": module}, says=says)


def script(
    name: str, text: str, *says: Said, imports: tuple[str, ...] = (), commands: tuple[str, ...] = ()
) -> Hostile:
    """Return a package that has a ``run_test.py``."""
    return Hostile(name=name, script=text, says=says, imports=imports, commands=commands)


IMPORTS = (
    py("prints", "print('\\x1e' * 9 + 'end 1 0\\n' * 500)", OK, OK),
    py("raises", "raise ValueError", FAILED, OK),
    py("leaves", "import sys; sys.exit(0)", FAILED, OK),
    py("drops", "import os; os._exit(0)", FAILED, OK),
    py("crashes", "import os; os.kill(os.getpid(), 11)", FAILED, OK),
    py("forks", "import os; os.fork()", OK, OK),
    py("clobbers", "import sys; sys.modules['zipfile'] = sys.stdout = sys.stderr = None", OK,
       FAILED),
    py("rebuilds", "import builtins, os; builtins.exec = builtins.print = os.write = None", OK,
       FAILED, more=("zz_no_such",)),
    py("writes3", "import os\nfor n in range(9): os.write(3, b'end %d 0\\n%d 0\\n' % (n, n))", OK,
       OK, FAILED, more=("zipfile", "zz_no_such")),
    py("closes3", "import os; os.closerange(3, 300)", FAILED, OK),
    py("frames", "import sys; sys.modules['__main__'].__dict__.clear()", FAILED, OK),
    py("interruptible", "import signal; assert signal.getsignal(2) is signal.default_int_handler",
       OK, OK),
    py("hangs", "import time; time.sleep(600)", TIMEOUT, UNREACHED),
    py("lingers", "import threading, time; threading.Timer(600, print).start()", OK, TIMEOUT),
    py("dies_at_exit", "import atexit, os; atexit.register(os._exit, 7)", OK, FAILED),
    script("script-drops", "import os; os._exit(0)", OK),
    script("script-leaves", "import sys; sys.exit(0)", OK, FAILED, imports=("zz_no_such",)),
    script("script-dies", "import os; os.kill(os.getpid(), 9)", FAILED, OK, commands=("true",)),
    script("script-kills", "import os; os.kill(os.getppid(), 9); os.pause() if 0 else None", FAILED,
           UNREACHED, commands=("true",)),
)  # fmt: skip
