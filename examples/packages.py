"""The example packages, and a ``python`` package made from the interpreter that runs this.

``python examples/packages.py DIR`` builds all of them below DIR, a folder for each recipe.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import builder

RECIPES = Path(__file__).parent / "recipes"
_C = ("greet", "greet-declared", "greet-undeclared")
_LEFT_OUT = ("test", "tests", "idlelib", "ensurepip", "site-packages", "__pycache__", "turtledemo")


def can_compile() -> bool:
    """Say whether the C examples can be built here: they are for x86_64 Linux."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def build(name: str, folder: Path, *extensions: str) -> list[Path]:
    """Build one example below ``folder``/SUBDIR, in both formats unless told otherwise."""
    recipe = RECIPES / name
    if name in _C:
        built = builder.Built(recipe=recipe, files=_compiled(name), subdir="linux-64")
    else:
        files = {
            "site-packages/purehello/__init__.py": b"from purehello.words import hello\n",
            "site-packages/purehello/words.py": b"def hello():\n"
            b"    return 'hello from pure Python'\n\n\ndef main():\n    print(hello())\n",
        }
        built = builder.Built(
            recipe=recipe,
            files={path: builder.Staged(data=data) for path, data in files.items()},
            subdir="noarch",
            build="py_0",
            entry_points=("purehello = purehello.words:main",),
        )
    return builder.write(built, folder, *extensions)


def _compiled(name: str) -> dict[str, builder.Staged]:
    """Compile the library and the program with zig, for the glibc that the example is about."""
    source = RECIPES / "greet"
    glibc = "2.17" if name == "greet" else "2.38"
    with tempfile.TemporaryDirectory() as scratch:
        library, program = Path(scratch) / "libgreet.so", Path(scratch) / "greet"
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"x86_64-linux-gnu.{glibc}"]
        code = (source / "greet.c").read_text()
        if glibc != "2.17":  # strlcpy came with glibc 2.38: without it the loader would not mind
            code = code.replace("return printf", "char t[64]; strlcpy(t, whom, 64); return printf")
            code = "#define _DEFAULT_SOURCE\n#include <string.h>\n" + code
        (Path(scratch) / "greet.c").write_text(code)
        placeholder = f'-DPLACEHOLDER="{builder.PLACEHOLDER}"'
        common = [f"-I{source}", "-O1", "-s"]
        _run(
            [
                *zig,
                *common,
                placeholder,
                "-fPIC",
                "-shared",
                "-Wl,-soname,libgreet.so",
                f"{scratch}/greet.c",
                "-o",
                str(library),
            ]
        )
        _run(
            [
                *zig,
                *common,
                str(source / "main.c"),
                str(library),
                "-Wl,-rpath,$ORIGIN/../lib",
                "-o",
                str(program),
            ]
        )
        return {
            "bin/greet": builder.Staged(data=program.read_bytes(), executable=True),
            "include/greet.h": builder.Staged(data=(source / "greet.h").read_bytes()),
            "lib/libgreet.so": builder.Staged(data=library.read_bytes(), executable=True),
        }


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the compiler failed: {' '.join(command)}\n{done.stderr}")


def python_channel(folder: Path) -> str:
    """Make an indexed channel that holds ``python``, from this interpreter; return its URL.

    Its binaries are this machine's: good for tests on this machine. CPython finds its
    library from where its program is, so the prefix in them need not be replaced.
    """
    from pytest_manualbuild.environment.environments import index_channel  # noqa: PLC0415 # an installed one

    short = sysconfig.get_python_version()
    base = Path(sys.base_prefix)
    stdlib = Path(sysconfig.get_path("stdlib"))
    files: dict[str, builder.Staged] = {
        f"bin/python{short}": builder.Staged(
            data=Path(sys.executable).resolve().read_bytes(), executable=True
        ),
        "bin/python": builder.Staged(data=b"", link=f"python{short}"),
        "bin/python3": builder.Staged(data=b"", link=f"python{short}"),
    }
    for library in sorted(base.glob("lib/libpython*.so*")):
        if not library.is_symlink():
            files[f"lib/{library.name}"] = builder.Staged(
                data=library.read_bytes(), executable=True
            )
    for path in sorted(stdlib.rglob("*")):
        relative = path.relative_to(stdlib)
        if path.is_file() and not set(relative.parts) & set(_LEFT_OUT) and path.suffix != ".a":
            files[f"lib/python{short}/{relative.as_posix()}"] = builder.Staged(
                data=path.read_bytes()
            )
    files[f"lib/python{short}/site-packages/README.txt"] = builder.Staged(data=b"\n")
    # Debian's own Python looks into dist-packages only, and conda packages have no such folder.
    files[f"lib/python{short}/dist-packages/site-packages.pth"] = builder.Staged(
        data=b"../site-packages\n"
    )
    built = builder.Built(
        recipe=None,
        files=files,
        subdir="linux-64" if sys.platform == "linux" else "osx-64",
        name="python",
        version=platform.python_version(),
        build="0_cpython",
        depends=(),
    )
    builder.write(built, folder, ".conda")
    index_channel(folder)
    return folder.absolute().as_uri()


def main() -> None:
    """Build every example below the folder that is given."""
    folder = Path(sys.argv[1])
    for name in (*_C, "purehello"):
        if name in _C and not can_compile():
            print(f"{name}: left out: it is for x86_64 Linux.")
            continue
        for path in build(name, folder / name):
            print(path)


if __name__ == "__main__":
    main()
