"""One rendering of a recipe, or of one of its outputs, for one variant.

Follows conda-build's ``MetaData`` (metadata.py): passes of selectors, jinja, selectors and
YAML, each with what the one before it found, and the search for the variant keys in use.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import document, functions, selectors, specs, template, used
from pytest_manualbuild.recipe import variants as combinations
from pytest_manualbuild.recipe.document import extracted, listed
from pytest_manualbuild.recipe.problems import Unresolved
from pytest_manualbuild.recipe.selectors import Names, Selected
from pytest_manualbuild.recipe.variants import Variant

_OUTPUT = re.compile(
    r"^\ +-\ +(?:name|type):.+?(?=^\w|\Z|^\ +-\ +(?:name|type))", flags=re.MULTILINE | re.DOTALL
)
_REQUIREMENTS = re.compile(
    r"requirements:.+?(?=^\w|\Z|^\s+-\s(?=name|type))", flags=re.MULTILINE | re.DOTALL
)
TOP_REQUIREMENTS = r"(^requirements:.*?)(?=^test:|^extra:|^about:|^outputs:|\Z)"
_OUTPUTS = r"(^outputs:.*?)(?=^test:|^extra:|^about:|\Z)"
# From the start alone: tried from each letter on, a text without it takes the square of its size.
_BEFORE_PACKAGE = r"\A(.*)package:"
_MOST_PASSES = 10
_LANGUAGES = ("PERL", "LUA", "R", "NUMPY", "PYTHON")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe as it lies on disk."""

    folder: Path
    file: str
    """How errors name it."""
    text: str
    subdir: str
    """Of the machine that builds it."""

    def script(self, name: str) -> str | None:
        """Return the text of a script of the recipe, or None if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        return path.read_bytes()[: document.MOST_BYTES].decode(errors="replace")


class Metadata:
    """A recipe or output: ``meta`` holds its sections as far as they could be rendered."""

    def __init__(
        self, source: Source, variant: Variant, given: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self.given = given or {}
        """More names for jinja."""
        self.variant = variant
        self.variants: list[Variant] = [variant]
        """Those that this rendering stands for."""
        self.input_variants: list[Variant] = []
        """All of the recipe."""
        self.type = "conda"
        self.skipped = False
        """Whether the recipe skips it as a whole, whatever an output says."""
        self.meta: dict[str, Any] = {}
        self.parent: str | None = None
        """Name of the recipe, if this is another output of it."""
        self.noarch_platform = False
        self.unresolved: RecipeError | None = None
        """What the last, strict pass could not do; conda-build goes on without it."""
        self.parse(strict=False)

    def copy(self) -> Metadata:
        """Return a copy whose sections and variant can be changed."""
        new = copy.copy(self)
        new.__dict__.pop("names", None)
        new.meta = copy.deepcopy(self.meta)
        return new

    # what it says

    def value(self, section: str, key: str, default: Any = None) -> Any:  # noqa: ANN401 # from YAML
        """Return a value of a section, with YAML 1.1's words for true and false as such."""
        value = (self.meta.get(section) or {}).get(key)
        if isinstance(value, str):
            if value.lower() in document.TRUE:
                return True
            if value.lower() in document.FALSE:
                return False
        return default if value is None else value

    @property
    def name(self) -> str:
        """The package's name; Unresolved if conda-build would not have it."""
        name = str(self.value("package", "name", ""))
        if name != name.lower():
            raise Unresolved(
                f"{self.source.file}: package/name: {name!r} must be lower case.",
                remedy="Correct it.",
            )
        return self._clean(name, "package/name", "!")

    @property
    def version(self) -> str:
        """The package's version; Unresolved if conda-build would not have it."""
        return self._clean(str(self.value("package", "version", "")), "package/version", "-")

    def _clean(self, text: str, what: str, more: str) -> str:
        bad = set("=@#$%^&*:;\"'\\|<>?/ " + more) & set(text)
        # No solver reads it, and no file can be named by it.
        bad |= {char for char in text if not char.isascii() or not char.isprintable()}
        if bad:
            raise Unresolved(
                f"{self.source.file}: {what}: {text!r} holds {''.join(sorted(bad))!r}.",
                remedy="Use letters, digits, '.', '-' and '_'.",
            )
        return text

    @property
    def build_number(self) -> int:
        """The build number; RecipeError if it is none."""
        number = self.value("build", "number")
        try:
            return int(number or 0)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self.source.file}: build/number is {number!r}.", remedy="Use a whole number."
            ) from error

    @property
    def noarch(self) -> object:
        """``python``, ``generic``, true, or nothing."""
        return self.value("build", "noarch")

    @property
    def skip(self) -> bool:
        """Whether the recipe says not to build it."""
        return bool(self.value("build", "skip", default=False))

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs section, as a list that can be changed."""
        section = self.meta.get("outputs")
        if not section:
            return []
        found = section if isinstance(section, list) else [section]
        if not all(isinstance(item, dict) for item in found):
            raise RecipeError(
                f"{self.source.file}: outputs must be a list of mappings.", remedy="Correct it."
            )
        for item in found:
            for key, kind, words in (("type", str, "a text"), ("test", dict, "a mapping")):
                if not isinstance(item.get(key) or kind(), kind):
                    raise RecipeError(
                        f"{self.source.file}: {key} of the output {item.get('name')!r} must be"
                        f" {words}.",
                        remedy="Correct it.",
                    )
        return found

    def requirements(self, env: str) -> list[Any]:
        """Return the requirements of an environment, with those of the output of that name."""
        own = listed(self.value("requirements", env))
        names = {first for item in own if item for first in str(item).split(maxsplit=1)[:1]}
        if self.parent is None:
            for out in self.outputs:
                if out.get("name") == self.value("package", "name"):
                    more = specs.expanded(out.get("requirements")).get(env, [])
                    own += [i for i in more if i and not names & {*str(i).split(maxsplit=1)[:1]}]
                    break
        return [item for item in own if item]

    def depends(self, env: str) -> list[str]:
        """Return the names of the requirements of an environment, after checking them."""
        where = f"{self.source.file}: requirements/{env}"
        items = self.value("requirements", env)
        return specs.dependencies(items, self.name, where, itself=False)

    @property
    def build_env(self) -> str:
        """Return ``host`` if it has one, else ``build``: where it is built."""
        has = self.requirements("host") or "host" in (self.meta.get("requirements") or {})
        return "host" if has else "build"

    # passes

    @property
    def host_subdir(self) -> str:
        """The subdir that selectors speak of."""
        if self.noarch_platform:
            return "noarch"
        return str(self.variant.get("target_platform", self.source.subdir))

    @cached_property
    def names(self) -> Names:
        """The names of selectors."""
        return selectors.names(self.host_subdir, self.variant, self.source.subdir)

    def select(self, text: str) -> Selected:
        """Return the lines of a text that its selectors leave."""
        return selectors.select(text, self.names, self.source.file)

    def render(self, selected: Selected, *, strict: bool, name: str | None = None) -> str:
        """Return what jinja makes of selected text, with the names that conda-build gives it."""
        languages = {*self.depends(self.build_env), self.value("package", "name")}
        known: dict[str, object] = dict(self.names)
        known |= functions.build_variables(self.host_subdir, self.variant, languages)
        for item in listed(self.value("build", "script_env")):
            key, equals, text = str(item).partition("=")
            if equals:
                known[key] = text
        known |= {
            "PKG_NAME": name or self.name,
            "PKG_VERSION": self.version,
            "PKG_BUILDNUM": str(self.build_number),
            "PKG_BUILD_STRING": "placeholder",
            "PKG_HASH": "1234567",
        }
        environ = {key: value for key, value in known.items() if key.isupper()}
        environ |= {
            key: value
            for key, value in self.variant.items()
            if key.upper() not in environ and key.upper() not in _LANGUAGES
        }
        known |= self.variant
        known |= functions.functions(
            self.source.folder, self.source.file, self.source.subdir, self.variant
        )
        known["environ"] = environ
        known["os"] = SimpleNamespace(environ=environ, getenv=environ.get, sep="/", name="posix")
        known |= self.given
        return template.render(
            selected,
            known,
            file=self.source.file,
            folder=self.source.folder,
            known=self.names,
            strict=strict,
        )

    def parse(self, *, strict: bool) -> None:
        """Do one pass over the whole recipe, with what the passes before it found."""
        text = self.render(self.select(self.source.text), strict=strict)
        self.meta = document.parse(self.select(text).text, self.source.file)
        for name in ("recipe_append.yaml", "recipe_clobber.yaml"):
            path = self.source.folder / name
            if path.is_file():
                more = selectors.select(document.read(path), self.names, str(path)).text
                document.merge(
                    self.meta, document.parse(more, str(path)), append=name == "recipe_append.yaml"
                )

    def resolve(self) -> None:
        """Do as many passes as it takes, the last one strict (``parse_until_resolved``).

        What conda-build forgives is kept in ``unresolved``.
        """
        self.unresolved = None
        try:
            self.parse(strict=False)
            if self.skip:
                return
            before: dict[str, Any] = {}
            for _ in range(_MOST_PASSES):
                if before == self.meta:
                    break
                before = self.meta
                self.parse(strict=False)
            self.parse(strict=True)
        except Unresolved as error:
            self.unresolved = error

    # which variant keys it uses

    def text(self, pattern: str | None = None, *, top: bool = False, select: bool = True) -> str:
        """Return the recipe's text, or an output's part of it (``get_recipe_text``)."""
        text = self.source.text if top or self.parent is None else self._own_text()
        if pattern is not None:
            text = extracted(text, pattern)
        return (self.select(text).text if select else text).rstrip()

    def _own_text(self, *, select: bool = True) -> str:
        """Return the part that is about this output (``extract_single_output_text``)."""
        blocks = _blocks(self.text(_OUTPUTS, top=True, select=select))
        name = self.value("package", "name")
        names = [(out.get("name", name), out.get("type", "conda")) for out in self.outputs]
        try:
            index = (names or [(name, "conda")]).index((name, self.type))
        except ValueError:
            return str(name)
        # The one that conda-build adds for the top level has no text of its own.
        return blocks[index] if index < len(blocks) else ""

    def used(self, *, everywhere: bool = False) -> set[str]:
        """Return the variant keys in use (``get_used_vars``).

        With ``everywhere`` those of all outputs count, and of ``run`` as well.
        """
        keys = tuple(sorted(self.variant))
        found = self._used_in_text(keys, everywhere=everywhere)
        if "package:" in self.text():
            found |= self._used_in_build(keys)
        else:
            found |= self._used_in_script(keys)
        if "target_platform" in self.variant and not self.noarch:
            found.add("target_platform")
        if "channel_targets" in self.variant:
            found.add("channel_targets")
        found -= set(map(str, listed(self.value("build", "force_ignore_keys"))))
        return found | set(map(str, listed(self.value("build", "force_use_keys")))) & set(keys)

    def _used_in_text(self, keys: tuple[str, ...], *, everywhere: bool) -> set[str]:
        def part(*, select: bool) -> str:
            if everywhere:
                return self.text(select=select)
            if self.parent is not None:
                return self._own_text(select=select)
            outputs = self.text(_OUTPUTS, top=True, select=select).strip()
            whole = self.text(select=select)
            return whole.replace(outputs, "") + self._own_text(select=select)

        selecting = used.in_text(keys, part(select=False), selectors_only=True)
        text = part(select=True)
        found = used.in_text(keys, text) | selecting
        if everywhere:
            return set(found)
        match = _REQUIREMENTS.search(text)
        required = used.in_text(keys, match.group() if match else "")
        return set((found - required) | self._without_build_only(required))

    def _without_build_only(self, required: frozenset[str]) -> set[str]:
        """Drop keys that requirements name but do not change the package by."""
        needs = specs.expanded(self.meta.get("requirements"))

        def keys(env: str) -> set[str]:
            items = listed(needs.get(env))
            return {
                first.replace("-", "_")
                for i in items if i
                for first in str(i).split(maxsplit=1)[:1]
            }  # fmt: skip

        build, host, run = keys("build"), keys("host"), listed(needs.get("run"))
        ignored = listed(self.variant.get("ignore_build_only_deps"))
        drop = {
            key
            for key in required
            if key not in host
            and ((key in run and key not in build)
                 or (key not in run and key in build and key in ignored))
        }  # fmt: skip
        return set(required) - drop

    def _used_in_build(self, keys: tuple[str, ...]) -> set[str]:
        found = used.in_shell(keys, self.source.script("build.sh") or "")
        if self.source.subdir.startswith("win"):
            found |= used.in_batch(keys, self.source.script("bld.bat") or "")
        return found

    def _used_in_script(self, keys: tuple[str, ...]) -> set[str]:
        output = self.rendered_output()
        name = output.get("script")
        if not isinstance(name, str) or not name.endswith((".sh", ".bat")):
            return set()
        text = self.source.script(name)
        if text is None:
            raise RecipeError(
                f"{self.source.file}: the script {name!r} of the output {self.name!r} is missing.",
                remedy="Put it into the recipe.",
            )
        return (used.in_shell if name.endswith(".sh") else used.in_batch)(keys, text)

    def rendered_output(self) -> Mapping[str, Any]:
        """Return this output's section, rendered by itself (``get_rendered_output``)."""
        text = self.text(_BEFORE_PACKAGE, top=True) + "\n" + self.text(_OUTPUTS, top=True)
        rendered = self.render(Selected(text=text.rstrip(), numbers=()), strict=False)
        tree = document.shared(rendered, self.source.file)
        outputs = tree.get("outputs") if isinstance(tree, dict) else None
        for out in outputs if isinstance(outputs, list) else []:
            if isinstance(out, dict) and out.get("name") == self.value("package", "name"):
                return out
        return {}

    def loops(self, *, everywhere: bool = False) -> set[str]:
        """Return the used keys that have several values."""
        return combinations.loops(
            self.input_variants or self.variants, self.used(everywhere=everywhere)
        )


@lru_cache(maxsize=64)
def _blocks(text: str) -> tuple[str, ...]:
    """Return the parts of the outputs' text that are about one output each."""
    return tuple(_OUTPUT.findall(text))
