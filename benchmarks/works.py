"""The packages of the benchmarks, and the commands that test them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import bare  # noqa: E402
import builder  # noqa: E402
import packages  # noqa: E402
from conda_package_streaming.extract import extract  # noqa: E402

from pytest_manualbuild.environment.environments import index_channel  # noqa: E402

MODULES = (
    *("json", "re", "zipfile", "email", "decimal", "csv", "gzip", "shelve", "queue", "tarfile"),
    *("ast", "cmd", "code", "copy", "enum", "glob", "heapq", "hmac", "html", "uuid"),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Packages that are tested by the same imports and commands."""

    name: str
    packages: tuple[str, ...]
    recipe: Path
    artifacts: Path
    channels: tuple[str, ...]
    imports: tuple[str, ...]
    commands: tuple[str, ...]

    def scripts(self, folder: Path) -> list[Path]:
        """Write the tests of each package as one script, as the bare way runs them."""
        paths = []
        for number, package in enumerate(self.packages):
            paths.append(folder / f"{package}.sh")
            prefix = bare.prefix(number)
            lines = [f"export PATH={prefix}/bin:$PATH PREFIX={prefix}", "set -e"]
            if self.imports:
                lines.append(f"python -c 'import {', '.join(self.imports)}'")
            paths[-1].write_text("\n".join([*lines, *self.commands]) + "\n")
        return paths


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where everything is measured."""

    scratch: Path
    images: tuple[str, ...]
    matrix: Path


def greet(ground: Ground) -> Work:
    """Return the C example: a package that needs no other one."""
    folder = ground.scratch / "greet"
    packages.build("greet", folder, ".conda")
    index_channel(folder)
    meta = builder.render(packages.RECIPES / "greet")
    return Work(
        name="greet",
        packages=("greet",),
        recipe=packages.RECIPES / "greet",
        artifacts=folder,
        channels=(folder.as_uri(),),
        imports=(),
        commands=tuple(meta["test"]["commands"]),
    )


def python(ground: Ground) -> Work:
    """Return a small Python package with 10 imports and 10 commands."""
    files = {"site-packages/twenty.py": builder.Staged(data=b"x = 1\n")}
    return _with_python(ground, "twenty", files, checks=20)


def heavy(ground: Ground) -> Work:
    """Return a Python package of 3,000 files and 300 MB, half of it compressible."""
    noise = random.Random(3)  # noqa: S311 # the same bytes each time, and no secret
    files = {
        f"site-packages/heavy/part{number // 100}/data{number}.bin": builder.Staged(
            data=noise.randbytes(50_000) + b"compressible" * 4_200
        )
        for number in range(3_000)
    }
    return _with_python(ground, "heavy", files, checks=40)


def _with_python(
    ground: Ground, name: str, files: dict[str, builder.Staged], *, checks: int
) -> Work:
    folder, recipe = ground.scratch / name, ground.scratch / f"{name}-recipe"
    recipe.mkdir()
    imports = MODULES[: checks // 2]
    commands = tuple(f'python -c "print({number})"' for number in range(checks - len(imports)))
    meta = {
        "package": {"name": name, "version": "1.0"},
        "build": {"noarch": "python"},
        "requirements": {"run": ["python"]},
        "test": {"imports": list(imports), "commands": list(commands)},
    }
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    built = builder.Built(recipe=recipe, files=files, subdir="noarch", build="py_0")
    builder.write(built, folder, ".conda")
    index_channel(folder)
    channel = ground.scratch / "python"
    if not channel.is_dir():
        python_channel(channel)
    return Work(
        name=name,
        packages=(name,),
        recipe=recipe,
        artifacts=folder,
        channels=(folder.as_uri(), channel.as_uri()),
        imports=imports,
        commands=commands,
    )


def many(ground: Ground) -> Work:
    """Return the outputs of one recipe: 20 small packages with five commands each."""
    folder, recipe = ground.scratch / "many", ground.scratch / "many-recipe"
    recipe.mkdir()
    commands = tuple(f"test -f $PREFIX/share/{name}.txt" for name in ("a", "b", "c", "d", "e"))
    names = tuple(f"many{number}" for number in range(20))
    outputs = [
        {"name": name, "build": {"noarch": "generic"}, "test": {"commands": list(commands)}}
        for name in names
    ]
    meta = {"package": {"name": "many", "version": "1.0"}, "outputs": outputs}
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    files = {f"share/{name}.txt": builder.Staged(data=b"x\n") for name in "abcde"}
    for name in names:
        built = builder.Built(recipe=None, files=files, subdir="noarch", name=name, version="1.0")
        builder.write(built, folder, ".conda")
    index_channel(folder)
    return Work(
        name="many",
        packages=names,
        recipe=recipe,
        artifacts=folder,
        channels=(folder.as_uri(),),
        imports=(),
        commands=commands,
    )


def python_channel(folder: Path) -> None:
    """Make a channel with a Python whose library is compiled, as real conda packages have it."""
    plain = next((ROOT.parent / "shared" / "channel" / "linux-64").glob("python-*.conda"), None)
    if plain is None:
        packages.python_channel(folder.with_name("plain-python"))
        plain = next(folder.with_name("plain-python").glob("*/python-*.conda"))
    with tempfile.TemporaryDirectory() as scratch:
        extract(str(plain), scratch)
        root = Path(scratch)
        index = json.loads((root / "info/index.json").read_text())
        for path in root.rglob("*.py"):
            os.utime(path, (builder.MTIME, builder.MTIME))
        interpreter = next(root.glob("bin/python3.*[0-9]"))
        subprocess.run([interpreter, "-m", "compileall", "-q", root / "lib"], check=False)
        files = {
            path.relative_to(root).as_posix(): builder.Staged(
                data=b"" if path.is_symlink() else path.read_bytes(),
                executable=os.access(path, os.X_OK),
                link=str(path.readlink()) if path.is_symlink() else None,
            )
            for path in root.rglob("*")
            if (path.is_file() or path.is_symlink()) and "info" not in path.relative_to(root).parts
        }
        built = builder.Built(
            recipe=None,
            files=files,
            subdir=index["subdir"],
            name="python",
            version=index["version"],
            build=index["build"],
            depends=tuple(index["depends"]),
            placeholder=placeholder(root),
        )
        builder.write(built, folder, ".conda")
    index_channel(folder)


def placeholder(root: Path) -> str:
    """Return the prefix that an extracted package was built with."""
    rows = json.loads((root / "info/paths.json").read_text())["paths"]
    named = (row["prefix_placeholder"] for row in rows if row.get("prefix_placeholder"))
    return str(next(named, builder.PLACEHOLDER))


def trivial(ground: Ground, count: int) -> Work:
    """Return a package with that many commands which do nothing."""
    name = f"trivial{count}"
    folder, recipe = ground.scratch / name, ground.scratch / f"{name}-recipe"
    recipe.mkdir()
    commands = [f": {number}" for number in range(count)]
    meta = {
        "package": {"name": name, "version": "1.0"},
        "build": {"noarch": "generic"},
        "test": {"commands": commands},
    }
    (recipe / "meta.yaml").write_text(json.dumps(meta))
    files = {"share/empty.txt": builder.Staged(data=b"\n")}
    builder.write(builder.Built(recipe=recipe, files=files, subdir="noarch"), folder, ".conda")
    index_channel(folder)
    return Work(
        name=name,
        packages=(name,),
        recipe=recipe,
        artifacts=folder,
        channels=(folder.as_uri(),),
        imports=(),
        commands=tuple(commands),
    )
