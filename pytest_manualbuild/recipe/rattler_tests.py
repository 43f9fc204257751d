"""Turns the tests of rattler-build, of a recipe or of a package, into our test sections.

One for each test, and for a Python test one for each Python. The form is that of rattler-build's
rendered recipe, and of ``info/tests/tests.yaml`` in the packages it builds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from pytest_manualbuild import globs
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import ContentsRule, Import, TestFile, TestSection
from pytest_manualbuild.recipe import document
from pytest_manualbuild.recipe.folder import files, test_file

MOST_TESTS = 1000
MOST_TESTS_BYTES = 4 * 1024 * 1024
_TIMES = re.compile(r"\d(?::\d+){20}")
"""What YAML takes for a number to the base of 60: of a long one it makes a number for minutes."""
MOST_SCRIPT_BYTES = 1024 * 1024
# rattler-build's names for interpreters, and ours for the languages; the empty one is the shell.
_INTERPRETERS = {"bash": "", "python": "python", "perl": "perl", "rscript": "r", "ruby": "ruby"}
_BY_EXTENSION = {
    ".py": "python",
    ".rb": "ruby",
    ".js": "nodejs",
    ".pl": "perl",
    ".r": "rscript",
    ".sh": "bash",
    ".bash": "bash",
    ".bat": "cmd",
    ".cmd": "cmd",
    ".ps1": "powershell",
    ".nu": "nushell",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTENTS = ("include", "bin", "lib", "site_packages", "files")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where tests come from."""

    package: str
    recipe: Path | None = None
    """The recipe's file, for the files that tests name; None: they lie in a package."""
    siblings: Mapping[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    """Version and build string of the recipe's outputs, for ``pin_subpackage``."""

    @property
    def folder(self) -> Path:
        """The recipe's folder."""
        return (self.recipe or Path()).parent

    @property
    def where(self) -> str:
        """What an error names."""
        return str(self.recipe or f"{self.package}: info/tests/tests.yaml")


def sections(
    tests: object, scripts: Sequence[Sequence[str]], source: Source
) -> tuple[TestSection, ...]:
    """Return the sections of a list of tests; RecipeError for a kind that is not known.

    ``scripts`` has the rendered texts of each test's script. ``install`` is proven with nothing
    but the package: where the first test needs more, a section without tests comes before it.
    """
    found: list[TestSection] = []
    if not isinstance(tests, list) or len(tests) > MOST_TESTS:
        raise RecipeError(
            f"{source.where}: tests must be a list of at most {MOST_TESTS}.", remedy="Correct it."
        )
    place = 0  # rattler-build counts its folders of test files without package_contents
    for number, test in enumerate(tests):
        kind = next((one for one in _KINDS if isinstance(test, dict) and one in test), None)
        if kind is None:
            raise RecipeError(
                f"{source.where}: tests[{number}]: this version knows no such kind of test.",
                remedy=f"It knows {', '.join(_KINDS)}.",
            )
        folder = f"etc/conda/test-files/{source.package}/{place}"
        rendered = scripts[number] if number < len(scripts) else ()
        given = _Test(
            label=f"tests[{number}]", test=test, texts=rendered, folder=folder, source=source
        )
        found += [replace(one, schema=1) for one in _KINDS[kind](given)]
        place += kind != "package_contents"
    if not found or _needs_more(found[0]):
        found.insert(0, TestSection(schema=1))
    return tuple(found)


def packaged(content: bytes, package: str) -> tuple[TestSection, ...]:
    """Return the sections of a package's ``info/tests/tests.yaml``; RecipeError if it is broken."""
    source = Source(package=package)
    try:
        text = content.decode() if len(content) <= MOST_TESTS_BYTES else ""
        if _TIMES.search(text):
            raise RecipeError(f"{source.where}: it has an endless time.", remedy="Build it again.")
        tests = document.load(text, source.where, as_=document.DATA)
    except ValueError as error:
        raise RecipeError(f"{source.where}: it is not YAML.", remedy="Build it again.") from error
    found = sections(tests, (), source)
    return tuple(one for one in found if one != TestSection(schema=1))


def shipped(planned: Sequence[TestSection]) -> tuple[TestSection, ...]:
    """Return what ``info/tests/tests.yaml`` of the package says when these are its tests.

    ``package_contents`` is not in it, files are named by their globs, and numbers close up.
    """
    left = [one for one in planned if not one.contents and one != TestSection(schema=1)]
    numbers = {label: n for n, label in enumerate(dict.fromkeys(_test(one) for one in left))}
    return tuple(
        replace(one, files=(), label=one.label.replace(_test(one), f"tests[{numbers[_test(one)]}]"))
        for one in left
    )


def _test(section: TestSection) -> str:
    return section.label.partition("]")[0] + "]"


def _needs_more(section: TestSection) -> bool:
    return bool(
        section.requires
        or section.build_requires
        or section.contents
        or section.downstreams
        or section.unrunnable
    )


class _Test(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    test: dict[str, Any]
    texts: Sequence[str]
    folder: str
    source: Source

    def part(self, key: str, *known: str) -> dict[str, Any]:
        """Return a mapping of the test in which nothing but these keys may stand."""
        value = self.test.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(f"{key} is no mapping")
        if odd := sorted(str(one) for one in value.keys() - set(known)):
            raise self.wrong(f"{key}: this version does not know {', '.join(odd)}")
        return value

    def only(self, *known: str) -> None:
        """Refuse a test in which another key stands."""
        if odd := sorted(str(one) for one in self.test.keys() - set(known)):
            raise self.wrong(f"this version does not know {', '.join(odd)}")

    def texts_of(self, value: object) -> tuple[str, ...]:
        """Return a text or a list of texts as texts."""
        items = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(one, (str, int, float)) for one in items):
            raise self.wrong(f"{value!r} is no list of texts")
        return tuple(str(one) for one in items)

    def wrong(self, what: str) -> RecipeError:
        """Return the error that names this test."""
        return RecipeError(f"{self.source.where}: {self.label}: {what}.", remedy="Correct it.")


def _python(given: _Test) -> Iterator[TestSection]:
    given.only("python")
    test = given.part("python", "imports", "pip_check", "python_version")
    pip = test.get("pip_check", True) is True
    versions = test.get("python_version")
    if versions == []:
        raise given.wrong("python_version is an empty list, with which none of it would run")
    for version in dict.fromkeys(versions) if isinstance(versions, list) else [versions]:
        requires = ("pip",) if pip else ()
        if version is not None:
            requires = (f"python={version}", *requires)
        yield TestSection(
            label=f"{given.label}[{version}]" if isinstance(versions, list) else given.label,
            imports=_imports("python", given.texts_of(test.get("imports"))),
            pip_check=pip,
            requires=requires,
        )


def _imports(language: str, names: Sequence[str]) -> tuple[Import, ...]:
    return tuple(Import(language=language, name=name) for name in names)


def _modules(
    kind: str, key: str, language: str, needed: str
) -> Callable[[_Test], Iterator[TestSection]]:
    def read(given: _Test) -> Iterator[TestSection]:
        given.only(kind)
        names = given.texts_of(given.part(kind, key).get(key))
        yield TestSection(label=given.label, imports=_imports(language, names), requires=(needed,))

    return read


def _downstream(given: _Test) -> Iterator[TestSection]:
    given.only("downstream")
    yield TestSection(label=given.label, downstreams=given.texts_of(given.test["downstream"]))


def _contents(given: _Test) -> Iterator[TestSection]:
    given.only("package_contents")
    test = given.part("package_contents", *_CONTENTS, "strict")
    rules = []
    for kind in _CONTENTS:
        value = test.get(kind)
        if isinstance(value, dict):
            checks = given.part("package_contents", *_CONTENTS, "strict")[kind]
            if odd := sorted(checks.keys() - {"exists", "not_exists"}):
                raise given.wrong(f"{kind}: this version does not know {', '.join(odd)}")
            wanted, unwanted = checks.get("exists"), checks.get("not_exists")
        else:
            wanted, unwanted = value, None
        rules += [ContentsRule(kind=kind, glob=one) for one in given.texts_of(wanted)]
        rules += [
            ContentsRule(kind=kind, glob=one, exists=False) for one in given.texts_of(unwanted)
        ]
    if test.get("strict") is True:
        rules.append(ContentsRule(kind="strict"))
    for rule in rules:
        globs.regexes(rule.glob)
    if rules:
        yield TestSection(label=given.label, contents=tuple(rules))


def _script(given: _Test) -> Iterator[TestSection]:
    given.only("script", "script_win", "requirements", "files")
    script = given.test["script"]
    if isinstance(script, dict):
        given.part("script", "content", "file", "interpreter", "env", "secrets", "cwd", "sandbox")
        described = script
    else:
        described = {"content": script}
    needs = given.part("requirements", "run", "build")
    named = given.part("files", "recipe", "source")
    copied = _files(given, named.get("recipe"))
    from_sources = given.texts_of(named.get("source"))
    text, interpreter = _text(given, described, explicit=isinstance(script, dict))
    requires, build_requires = _specs(given, needs.get("run")), _specs(given, needs.get("build"))
    if not any((text, requires, build_requires, named)):
        return  # as in rattler-build: conditions left nothing of it
    language = _INTERPRETERS.get(interpreter, "")
    whole = "\n".join(text) if language or (len(text) == 1 and "\n" in text[0]) else None
    in_folder = copied or any(from_sources)
    yield TestSection(
        label=given.label,
        commands=() if whole is not None else text,
        script=whole or None,
        interpreter=language,
        requires=requires,
        build_requires=build_requires,
        files=copied,
        source_files=from_sources,
        env=_env(given, described.get("env") or {}),
        cwd=given.folder if in_folder else str(described.get("cwd") or ""),
        secrets=given.texts_of(described.get("secrets")),
        unrunnable=""
        if interpreter in _INTERPRETERS
        else f"Scripts for {interpreter} are not run by this version.",
    )


def _env(given: _Test, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise given.wrong("env is no mapping")
    if odd := [str(name) for name in value if not _NAME.fullmatch(str(name))]:
        raise given.wrong(f"env: {odd[0]!r} is no name for a variable")
    return {str(name): str(text) for name, text in value.items()}


def _text(
    given: _Test, described: Mapping[str, Any], *, explicit: bool
) -> tuple[tuple[str, ...], str]:
    """Return the texts of a script and its interpreter, which a file's name may decide."""
    content, named = described.get("content"), described.get("file")
    path = None
    if named is not None:
        path = _find(given, str(named))
        if path is None:
            raise given.wrong(f"there is no file {named!r}")
    elif isinstance(content, str) and not explicit and "\n" not in content:
        path = _find(given, content)
    interpreter = str(described.get("interpreter") or "")
    if path is not None:
        inferred = _BY_EXTENSION.get(path.suffix.lower(), "bash")
        return (_read(given, path),), interpreter or inferred
    # Jinja takes the last newline from a text that it rendered, and from no other.
    texts = tuple(one.rstrip("\n") for one in given.texts or given.texts_of(content))
    if isinstance(content, str):
        texts = tuple(filter(None, texts))
    return texts, interpreter or "bash"


def _find(given: _Test, name: str) -> Path | None:
    if given.source.recipe is None:
        return None
    path = given.source.folder / name
    if not path.suffix:
        path = path.with_name(f"{path.name}.sh")
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None  # a command and no name


def _read(given: _Test, path: Path) -> str:
    described = test_file(given.source.folder, path)
    if described.size > MOST_SCRIPT_BYTES:
        raise given.wrong(f"{described.path} has more than {MOST_SCRIPT_BYTES} bytes")
    try:
        return path.read_text("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise given.wrong(f"{described.path} is not UTF-8") from error


def _files(given: _Test, value: object) -> tuple[TestFile, ...]:
    chosen = given.texts_of(value)
    if given.source.recipe is None or not chosen:
        return ()
    folder = given.source.folder
    return tuple(
        test_file(folder, path)
        for path in files(folder)
        if any(globs.selects(one, path.relative_to(folder).as_posix()) for one in chosen)
    )


def _specs(given: _Test, value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(_spec(given, one) for one in items)


def _spec(given: _Test, value: object) -> str:
    """Return one requirement; pins are resolved as rattler-build does for tests."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, pin),) = value.items()
        if kind in ("pin_subpackage", "pin_compatible") and isinstance(pin, dict):
            name = str(pin.get("name"))
            if kind == "pin_compatible" or name not in given.source.siblings:
                return name
            return _pinned(pin, name, *given.source.siblings[name])
    raise given.wrong(f"{value!r} is no requirement")


def _pinned(pin: Mapping[str, Any], name: str, version: str, build: str) -> str:
    if pin.get("exact"):
        return f"{name} =={version} {build}"
    bounds = []
    if lower := pin.get("lower_bound"):
        bounds.append(f">={_cut(version, str(lower))}")
    if upper := pin.get("upper_bound"):
        bounds.append(f"<{_above(version, str(upper))}")
    return f"{name} {','.join(bounds)}".rstrip()


def _cut(version: str, pattern: str) -> str:
    """Return as many parts of a version as the pattern (``x.x``) has; a version stays."""
    if set(pattern) - set("x."):
        return pattern
    return ".".join(version.split(".")[: pattern.count("x")])


def _above(version: str, pattern: str) -> str:
    if set(pattern) - set("x."):
        return pattern
    parts = _cut(version, pattern).split(".")
    digits = "".join(char for char in parts[-1] if char.isdigit()) or "0"
    return ".".join([*parts[:-1], str(int(digits) + 1), "0a0"])


_KINDS: dict[str, Callable[[_Test], Iterator[TestSection]]] = {
    "python": _python,
    "perl": _modules("perl", "uses", "perl", "perl"),
    "r": _modules("r", "libraries", "r", "r-base"),
    "ruby": _modules("ruby", "requires", "ruby", "ruby"),
    "script": _script,
    "package_contents": _contents,
    "downstream": _downstream,
}
KINDS = tuple(_KINDS)
