"""Small binaries for every system, made with zig's compiler in a tenth of a second each.

They are linked against libraries of our own that bear the names and versions of
real ones, so that each can need whatever a test is about.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def _zig(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def _link(folder: Path, triple: str, out: str, *words: str) -> bytes:
    options = ("-O1", "-nostdlib", "-fno-builtin", "-shared", "-g0", "-s", "-o", out)
    _zig(folder, "cc", "-target", triple, *options, *words)
    return (folder / out).read_bytes()


def elf(
    folder: Path, *, glibc: str = "2.17", rpath: str = "$ORIGIN", arch: str = "x86_64"
) -> bytes:
    """Make a library that calls ``strlcpy`` of that glibc, as if it had it."""
    triple = f"{arch}-linux-gnu.2.17"
    (folder / "libc.c").write_text("void strlcpy(void) {}\n")
    (folder / "libc.map").write_text(f"GLIBC_{glibc} {{ strlcpy; }};\n")
    stub = ("-Wl,--version-script=libc.map", "-Wl,-soname,libc.so.6")
    _link(folder, triple, "libc.so.6", "libc.c", *stub)
    (folder / "u.c").write_text("void strlcpy(void);\nvoid f(void) { strlcpy(); }\n")
    return _link(folder, triple, "libu.so", "u.c", "libc.so.6", f"-Wl,-rpath,{rpath}")


def macho(folder: Path, *, macos: str, arch: str = "x86_64") -> bytes:
    """Make a library for macOS of that version and later."""
    (folder / "m.c").write_text("int f(void) { return 1; }\n")
    return _link(folder, f"{arch}-macos.{macos}", "libm.dylib", "m.c")


def pe(folder: Path, *, dll: str = "KERNEL32.dll", function: str = "GetTickCount") -> bytes:
    """Make a DLL that calls a function of another."""
    (folder / "d.def").write_text(f"LIBRARY {dll}\nEXPORTS\n{function}\n")
    _zig(folder, "dlltool", "-m", "i386:x86-64", "-d", "d.def", "-l", "libd.a")
    (folder / "d.c").write_text(
        f"int {function}(void);\nint DllMainCRTStartup(void) {{ return {function}(); }}\n"
    )
    return _link(folder, "x86_64-windows-gnu", "u.dll", "d.c", "libd.a")
