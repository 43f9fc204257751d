"""Renders ``meta.yaml`` (v0) as conda-build does, as far as its tests depend on it.

The order is conda-build's: selectors on the text, then jinja, then selectors
on what jinja made. Numbers stay text; of a key given twice the last one wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Import, Output, TestFile, TestSection
from pytest_manualbuild.recipe import functions, selectors
from pytest_manualbuild.recipe.folder import files, folder_sha256, test_file

MOST_BYTES = 1024 * 1024
MOST_RENDERED = 4 * 1024 * 1024
MOST_NODES = 100_000
MOST_ALIASES = 100
_TRUE = ("y", "on", "true", "yes")
_SCRIPTS = ("run_test.py", "run_test.pl", "run_test.lua", "run_test.r", "run_test.sh")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A rendered recipe."""

    folder: Path
    """The folder that holds its ``meta.yaml``."""
    sha256: str
    outputs: tuple[Output, ...]


def load(folder: Path, *, subdir: str, variant: Mapping[str, str] | None = None) -> Recipe:
    """Render the recipe in a folder (or of that ``meta.yaml``, or of that feedstock).

    ``variant`` has the values that the build used (``info/hash_input.json``).
    Raises RecipeError, naming file and line.
    """
    path = _find(folder)
    values = dict(variant or {})
    subdir = "linux-64" if subdir == "noarch" else subdir
    rendered = _render(_read(path), path, subdir, values)
    tree = _parse(rendered, path)
    return Recipe(
        folder=path.parent,
        sha256=folder_sha256(path.parent),
        outputs=tuple(_outputs(tree, path)),
    )


def _find(given: Path) -> Path:
    folder = given.absolute()
    if folder.name == "meta.yaml":
        folder = folder.parent
    for place in (folder, folder / "recipe"):
        if (place / "meta.yaml").is_file():
            return place.resolve() / "meta.yaml"
        if (place / "recipe.yaml").is_file():
            raise RecipeError(
                f"{place / 'recipe.yaml'}: recipes of this form (v1) are not read by this version.",
                remedy="Give a recipe with a meta.yaml.",
            )
    what = "holds no meta.yaml" if folder.is_dir() else "there is no such folder"
    raise RecipeError(f"{given}: {what}.", remedy="Give the folder of a recipe with --recipe.")


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read: {error.strerror}.", remedy="Check its permissions."
        ) from error
    if size > MOST_BYTES:
        raise RecipeError(
            f"{path}: {size} bytes; a recipe may have {MOST_BYTES}.", remedy="Is it a recipe?"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8.", remedy="Save it as UTF-8.") from error
    for number, line_text in enumerate(text.splitlines(), 1):
        if line_text.lstrip(" ").startswith("\t"):
            raise RecipeError(
                f"{path}:{number}: a tab in the indentation.", remedy="YAML wants spaces there."
            )
    return text


def _render(text: str, path: Path, subdir: str, variant: Mapping[str, str]) -> str:
    known = selectors.names(subdir, variant)
    selected = selectors.select(text, known, str(path))
    try:
        template = functions.environment().from_string(selected)
        pieces, size = [], 0
        for piece in template.generate(functions.context(subdir, variant, str(path))):
            size += len(piece)
            if size > MOST_RENDERED:
                raise RecipeError(
                    f"{path}: it renders to more than {MOST_RENDERED >> 20} MiB.",
                    remedy="Look for a loop in it.",
                )
            pieces.append(piece)
    except RecipeError:
        raise
    except TemplateError as error:
        line = getattr(error, "lineno", None) or _template_line(error)
        where = f"{path}:{line}" if line else str(path)
        raise RecipeError(f"{where}: jinja: {_first_line(error)}.", remedy="Correct it.") from error
    except Exception as error:  # a template can raise whatever Python can
        raise RecipeError(
            f"{path}:{_template_line(error) or 1}: jinja: {type(error).__name__}:"
            f" {_first_line(error)}.",
            remedy="Correct it.",
        ) from error
    return selectors.select("".join(pieces), known, str(path))


def _template_line(error: BaseException) -> int | None:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML in which numbers stay text, as in conda-build."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        nodes = sum(1 for _ in islice(yaml.parse(text, Loader=_Loader), MOST_NODES + 1))
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader))
        if nodes > MOST_NODES or aliases > MOST_ALIASES:
            raise RecipeError(f"{path}: too many values or aliases.", remedy="Write them out.")
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 # it is a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or _first_line(error)
        raise RecipeError(f"{where}: YAML: {problem}.", remedy="Correct that line.") from error
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{path}: YAML: {_first_line(error)}.", remedy="Correct it.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: not a recipe: no package section.", remedy="Is it a meta.yaml?")
    return tree


def _section(tree: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = tree.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: {key} must be a mapping.", remedy="Indent its keys below it.")
    return value


def _texts(section: Mapping[str, Any], key: str, path: Path) -> list[str]:
    value = section.get(key)
    if value is None:
        return []
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, bool)) for item in items if item is not None):
        raise RecipeError(f"{path}: {key} must be a list of texts.", remedy="Correct it.")
    return [str(item) for item in items if item is not None]


def _outputs(tree: dict[str, Any], path: Path) -> Iterable[Output]:
    package = _section(tree, "package", path)
    build = _section(tree, "build", path)
    outputs = tree.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(item, dict) for item in outputs):
        raise RecipeError(f"{path}: outputs must be a list of mappings.", remedy="Correct it.")
    top_name = str(package.get("name") or "")
    top_test = _section(tree, "test", path)
    if not outputs:
        if not top_name:
            raise RecipeError(f"{path}: package/name is missing.", remedy="Add it.")
        section = _tests(top_name, top_test, path, own=True)
        yield _output(top_name, package, build, build, section, path)
    for item in outputs:
        name = str(item.get("name") or "")
        if not name:
            raise RecipeError(f"{path}: an output has no name.", remedy="Add it.")
        own_build = {**build, **_section(item, "build", path)}
        if name == top_name:
            # conda-build ignores the test section inside the output of the top level's name.
            section = _tests(name, top_test, path, own=True)
        elif "test" in item:
            section = _tests(name, _section(item, "test", path), path, own=False)
        else:
            left = {k: v for k, v in top_test.items() if k not in ("commands", "imports")}
            section = _tests(name, left, path, own=False)
        described = {"name": name, "version": item.get("version") or package.get("version")}
        yield _output(name, described, own_build, build, section, path)


def _output(
    name: str,
    package: Mapping[str, Any],
    build: Mapping[str, Any],
    top: Mapping[str, Any],
    section: TestSection,
    path: Path,
) -> Output:
    number = str(build.get("number") or top.get("number") or "0")
    if not number.isdigit():
        raise RecipeError(f"{path}: build/number is {number!r}.", remedy="Use a whole number.")
    noarch = build.get("noarch")
    return Output(
        name=name,
        version=str(package.get("version") or ""),
        build_number=int(number),
        noarch=str(noarch) if noarch else None,
        skip=str(build.get("skip") or top.get("skip") or "").lower() in _TRUE,
        sections=(section,),
    )


def _tests(name: str, test: Mapping[str, Any], path: Path, *, own: bool) -> TestSection:
    folder = path.parent
    scripts: list[TestFile] = []
    if own:
        scripts = [test_file(folder, folder / s) for s in _SCRIPTS if (folder / s).is_file()]
    elif script := test.get("script"):
        scripts = [test_file(folder, folder / str(script))]
    return TestSection(
        imports=tuple(_imports(name, test.get("imports"), path)),
        commands=tuple(_texts(test, "commands", path)),
        scripts=tuple(scripts),
        requires=tuple(sorted(_texts(test, "requires", path))),
        files=tuple(_files(folder, _texts(test, "files", path), path)),
        source_files=tuple(sorted(_texts(test, "source_files", path))),
        downstreams=tuple(sorted(_texts(test, "downstreams", path))),
    )


def _imports(name: str, value: Any, path: Path) -> Iterable[Import]:  # noqa: ANN401 # from YAML
    default = next((lang for lang in ("r", "perl", "lua") if name.startswith(f"{lang}-")), "python")
    items = value if isinstance(value, list) else [] if value is None else [value]
    plain: list[Import] = []
    for item in items:
        if isinstance(item, str):
            plain.append(Import(language=default, name=item))
        elif isinstance(item, dict) and isinstance(item.get("imports"), list):
            language = str(item.get("lang") or default)
            plain += [Import(language=language, name=str(one)) for one in item["imports"]]
        elif item is not None:
            raise RecipeError(f"{path}: imports: {item!r} is not a module.", remedy="Correct it.")
    for one in plain:
        if one.language == "python" and not one.name.strip():
            raise RecipeError(f"{path}: imports has an empty item.", remedy="Remove it.")
    # conda-build sorts the lists of a recipe that it packs, except commands.
    return sorted(plain, key=lambda one: (one.language, one.name))


def _files(folder: Path, globs: Iterable[str], path: Path) -> Iterable[TestFile]:
    everything = {file.relative_to(folder): file for file in files(folder)}
    found: dict[str, TestFile] = {}
    for glob in globs:
        clean = glob.rstrip("/")
        matches = [
            relative
            for relative in everything
            if relative.match(clean) or relative.is_relative_to(clean)
        ]
        if not matches:
            raise RecipeError(
                f"{path}: test/files: {glob!r} matches no file of the recipe.",
                remedy="Add the file, or correct the name.",
            )
        for relative in matches:
            described = test_file(folder, everything[relative])
            found[described.path] = described
    return [found[name] for name in sorted(found)]
