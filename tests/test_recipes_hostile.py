# ruff: noqa: E501 # a recipe a line
"""No recipe acts, hangs or takes more than its share: it is rendered, or refused in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_manualbuild import recipe
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.recipe import _render
from pytest_manualbuild.recipe.renderer import DEADLINE_S, renderer

MOST = 300 * 1024 * 1024

HEAD = "package:\n  name: odd\n  version: '1'\n"


def jinja(text: str) -> str:
    return HEAD + f"test:\n  commands:\n    - echo {text}\n"


def selector(text: str) -> str:
    return HEAD + f"test:\n  commands:\n    - echo  # [{text}]\n"


ESCAPE = "{{{{ ''.__class__.__mro__[1].__subclasses__() {} }}}}"
BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x] # so that it is no selector\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}] # so that it is no selector\n"
    for n in range(1, 12)
)
# Each with what its refusal must say; an empty text: it may also be rendered, as it does no harm.
HOSTILE = {
    "loop of 10**9": (jinja("{% for i in range(10**9) %}x{% endfor %}"), "range"),
    "loops in loops": (
        jinja("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "too much",
    ),
    "loop that writes": (
        jinja("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
        "more than 4 MiB",
    ),
    "product of a text": (jinja("{{ 'x' * 10**10 }}"), "too large"),
    "product of a list": (jinja("{{ [0] * 10**10 }}"), "too large"),
    "doubled text": (
        jinja("{% set ns = namespace(x='x') %}{% for i in range(60) %}"
              "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"),
        "too large",
    ),
    "power": (jinja("{{ 9**(9**9) }}"), "too much"),
    "power in a loop": (
        jinja("{% for i in range(99999) %}{% if 7**(9999999+i) %}{% endif %}{% endfor %}"),
        "too much",
    ),
    "wide format": (jinja("{{ '%10000000000d' % 1 }}"), ""),
    "wide str.format": (jinja("{{ '{:>10000000000}'.format(1) }}"), ""),
    "center": (jinja("{{ 'x' | center(10000000000) }}"), "too large"),
    "indent": (jinja("{{ 'x\\nx' | indent(10000000000) }}"), ""),
    "ljust": (jinja("{{ 'x'.ljust(10000000000) }}"), "too large"),
    "replace": (jinja("{{ ('x' * 100000).replace('x', 'y' * 100000) }}"), "too large"),
    "join": (jinja("{{ range(99999) | join('x' * 1000000) }}"), "too large"),
    "batch": (jinja("{{ [1] | batch(1000000000, 0) | list }}"), "too large"),
    "macro without end": (
        "{% macro f() %}{{ f() }}{% endmacro %}" + jinja("{{ f() }}"), "too deeply"),
    "include of itself": ("{% include 'meta.yaml' %}" + HEAD, "too deeply"),
    "slow regular expression": (
        "{% set x = load_file_regex(load_file='a.txt', regex_pattern='(a+)+$',"
        " from_recipe_dir=True) %}" + HEAD, "too much"),
    "deep parentheses": (jinja("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"), ""),
    "deep lists in jinja": (jinja("{{ " + "[" * 3000 + "]" * 3000 + " }}"), ""),
    "subclasses": (jinja(ESCAPE.format("")), "unsafe"),
    "globals": (jinja("{{ compiler.__globals__ }}"), "unsafe"),
    "globals of a lookup": (jinja("{{ lipsum.__globals__['os'].system('touch acted') }}"), "jinja"),
    "globals of an attribute filter": (
        jinja("{{ cycler | attr('__init__') | attr('__globals__') }}"), "__globals__"),
    "globals through format": (jinja("{{ '{0.__class__.__init__}'.format(cycler) }}"), ""),
    "globals through the undefined": (jinja("{{ nothing.__init__.__globals__ }}"), ""),
    "system through time": (jinja("{{ time.sys.modules['os'].system('touch acted') }}"), ""),
    "system through datetime": (jinja("{{ datetime.sys.modules }}"), ""),
    "system through os": (jinja("{{ os.system('touch acted') }}"), ""),
    "environment": (jinja("{{ environ['MANUALBUILD_SECRET'] }}{{ os.environ }}"), ""),
    "import": (jinja("{% import 'os' as os %}"), "os"),
    "file of the system": (jinja("{% include '/etc/passwd' %}"), "passwd"),
    "file above": (jinja("{% include '../secret' %}"), "secret"),
    "file through a link": (jinja("{% include 'link' %}"), "link"),
    "data of the system": (
        jinja("{{ load_file_data('/etc/passwd', 'yaml', from_recipe_dir=True) }}"), "in the recipe"),
    "setup.py": (
        "{% set data = load_setup_py_data() %}" + HEAD, "Write the value into the recipe"),
    "npm": ("{% set data = load_npm() %}" + HEAD, "Write the value into the recipe"),
    "selector: power": (selector("9**9**9"), "not a selector"),
    "selector: product": (selector("'x' * 10**10"), "not a selector"),
    "selector: call": (selector("__import__('os').system('touch acted')"), "not a selector"),
    "selector: dunder": (selector("().__class__.__bases__"), "not a selector"),
    "selector: comprehension": (selector("all(x for x in (1,) * 9)"), "not a selector"),
    "selector: deep": (selector("not " * 3000 + "linux"), "too long"),
    "selector: deep parentheses": (selector("(" * 900 + "linux" + ")" * 900), "not a selector"),
    "selector: os.system": (selector("os.system('touch acted')"), "not a selector"),
    "selector: grows": (selector(" or ".join("ab" * n for n in range(1, 30))), ""),
    "python tag": (HEAD + "extra: !!python/object/apply:os.system ['touch acted']\n", "YAML"),
    "python name": (HEAD + "extra: !!python/name:os.system\n", "YAML"),
    "alias bomb": (HEAD + BOMB, "aliases"),
    "merge bomb": (
        HEAD + "m0: &m0 {a: 1}\n"
        + "".join(f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}] # no selector\n" for n in range(1, 40)),
        "aliases",
    ),
    "alias of itself": (HEAD + "extra: &x [*x] # no selector\n", "aliases"),
    "deep lists": (HEAD + "extra: " + "[" * 20_000 + "]" * 20_000 + "\n", ""),
    "deep mappings": (HEAD + "extra:\n" + "".join(" " * n + "a:\n" for n in range(1, 300)), "levels"),
    "many values": (HEAD + "extra:\n" + "  - x\n" * 150_000, "too many"),
    "10 MB": (HEAD + "# " + "x" * 10_000_000, "bytes"),
    "a line of 900 kB in brackets": (HEAD + "x: " + "[a" * 300_000 + "]" * 300_000, ""),
    "a line of 900 kB of selectors": (HEAD + "x: '" + "#[" * 450_000 + "'", ""),
    "tab": (HEAD + "test:\n\tcommands:\n", "tab"),
    "undefined": (jinja("{{ nobody_knows }}"), "meta.yaml:6"),
    "undefined in a condition": (
        HEAD + "test:\n  commands:\n    - a\n{% if nobody_knows %}\n    - b\n{% endif %}\n",
        "nobody_knows",
    ),
    "unknown function": (jinja("{{ frobnicate('x') }}"), "frobnicate"),
    "unknown filter": (jinja("{{ 'x' | frobnicate }}"), "frobnicate"),
    "open tag": (jinja("{{ 'x' "), "meta.yaml:6"),
    "list that is a selector": (HEAD + "test:\n  imports: [json, os.path]\n", "list item a line"),
    "list of names that is a selector": (HEAD + "test:\n  imports: [json, os]\n", "list item"),
    "list for a text": ("[package, name]\n", ""),
    "name that leads out": ("package:\n  name: ../../x\n  version: '1'\n", "package/name"),
    "name in capitals": ("package:\n  name: Odd\n  version: '1'\n", "lower case"),
    "files above": (HEAD + "test:\n  files:\n    - ../secret\n", "test/files"),
    "files by stars": (HEAD + "test:\n  files:\n    - '" + "**/" * 40 + "x'\n", "test/files"),
    "script that is missing": (
        HEAD + "outputs:\n  - name: part\n    test:\n      script: no_such_test.py\n", "no_such_test"),
    "outputs that need each other": (
        HEAD + "outputs:\n  - name: a\n    requirements:\n      run:\n        - b\n"
        "  - name: b\n    requirements:\n      run:\n        - a\n", "need each other"),
    "many variants": (HEAD + "# {{ a }}{{ b }}{{ c }}{{ d }}\n", "variants"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MANUALBUILD_SECRET", "swordfish")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("swordfish")
    made = tmp_path / "recipe"
    made.mkdir()
    (made / "a.txt").write_text("a" * 40 + "b")
    return made


# These never end. One is left to the limit of CPU time, which counts where no clock is looked at.
ENDLESS = ("power in a loop", "loops in loops", "slow regular expression")


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_recipe_is_refused_or_harmless(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, says = HOSTILE[what]
    if what in ENDLESS:
        monkeypatch.setattr("pytest_manualbuild.recipe.renderer.DEADLINE_S", 1.0)
    (folder / "meta.yaml").write_text(text)
    if what == "file through a link":
        (folder / "link").symlink_to("../secret")
    if what == "many variants":
        lines = "".join(f"{key}:\n" + "".join(f"  - {n}\n" for n in range(99)) for key in "abcd")
        (folder / "conda_build_config.yaml").write_text(lines)
    before = sorted(path for path in folder.parent.rglob("*"))
    began_s = time.monotonic()

    try:
        rendered = str(recipe.load(folder, subdir="linux-64").outputs)
    except RecipeError as error:
        rendered = ""
        assert says in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert not says, rendered[:500]

    assert time.monotonic() - began_s < DEADLINE_S + 30  # a hang, not a slow machine
    assert "swordfish" not in rendered
    assert sorted(path for path in folder.parent.rglob("*")) == before
    assert _render.MOST_MEMORY < MOST  # what the system gives to one that had to be ended
    if (process := renderer._process) is not None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < MOST


def test_bytes_that_are_no_text_are_refused_with_their_line(folder: Path) -> None:
    for data, says in (
        (HEAD.encode() + b"# caf\xe9\n", "meta.yaml:4: not UTF-8"),
        (b"\x7fELF\x00\x01\x02", "not a text"),
        (os.urandom(4096), "meta.yaml"),
        (HEAD.encode("utf-16"), "not UTF-8"),
    ):
        (folder / "meta.yaml").write_bytes(data)
        with pytest.raises(RecipeError) as refused:
            recipe.load(folder, subdir="linux-64")
        assert says in str(refused.value)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "it is no file"),
        (lambda path: path.symlink_to(path.name), "leads"),
        (lambda path: path.symlink_to("none"), "No such file"),
    ],
)
def test_a_test_script_that_is_no_file_is_refused(
    folder: Path, make: Callable[[Path], None], why: str
) -> None:
    (folder / "meta.yaml").write_text(HEAD)
    make(folder / "run_test.py")

    with pytest.raises(RecipeError, match=f"run_test.py: .*{why}"):
        recipe.load(folder, subdir="linux-64")


def test_a_link_out_of_the_recipe_is_refused(folder: Path) -> None:
    (folder / "meta.yaml").symlink_to("../secret")

    with pytest.raises(RecipeError) as refused:
        recipe.load(folder, subdir="linux-64")

    assert "swordfish" not in str(refused.value)


@pytest.mark.parametrize("name", ["..\\..\\escaped", "good\\evil"])
def test_a_file_name_that_means_folders_on_windows_is_refused(folder: Path, name: str) -> None:
    (folder / "meta.yaml").write_text(jinja("good"))
    (folder / name).write_text("")

    with pytest.raises(RecipeError, match="means other folders on Windows"):
        recipe.load(folder, subdir="linux-64")


def test_a_link_to_a_folder_which_no_digest_would_show_is_refused(folder: Path) -> None:
    (folder / "meta.yaml").write_text(jinja("good"))
    (folder / "evil").mkdir()
    (folder / "tests").symlink_to("evil")

    with pytest.raises(RecipeError, match="this is a link to a folder"):
        recipe.load(folder, subdir="linux-64")


def test_the_next_recipe_is_rendered_after_one_that_had_to_be_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "meta.yaml").write_text(jinja("{{ 9**(9**9) }}"))
    with monkeypatch.context() as patch:
        patch.setattr("pytest_manualbuild.recipe.renderer.DEADLINE_S", 1.0)
        with pytest.raises(RecipeError):
            recipe.load(folder, subdir="linux-64")

    (folder / "meta.yaml").write_text(jinja("good"))

    assert recipe.load(folder, subdir="linux-64").outputs[0].sections[0].commands == ("echo good",)


def test_a_large_recipe_in_the_form_of_json_is_rendered(folder: Path) -> None:
    meta = {
        "package": {"name": "top", "version": "1"},  # `"package": {` is no `package:`
        "about": {"description": "many words of it. " * 20_000},
        "outputs": [{"name": "one", "test": {"commands": ["echo good"]}}],
    }
    (folder / "meta.yaml").write_text(json.dumps(meta))

    outputs = recipe.load(folder, subdir="linux-64").outputs

    assert [one.sections[0].commands for one in outputs if one.name == "one"] == [("echo good",)]
