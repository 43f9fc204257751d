"""The rules by which conda-build renders a recipe, one small case each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_manualbuild import recipe
from pytest_manualbuild.errors import RecipeError
from pytest_manualbuild.model import Output
from pytest_manualbuild.recipe import document, engine

HEAD = "package:\n  name: odd\n  version: '1'\n"


def render(
    tmp_path: Path,
    text: str,
    files: dict[str, str] | None = None,
    *,
    subdir: str = "linux-64",
    **options: Any,
) -> tuple[Output, ...]:
    folder = tmp_path / "recipe"
    folder.mkdir(exist_ok=True)
    (folder / "meta.yaml").write_text(text)
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return recipe.load(folder, subdir=subdir, **options).outputs


def commands(*lines: str, head: str = HEAD) -> str:
    return head + "test:\n  commands:\n" + "".join(f"    {line}\n" for line in lines)


ONE_LINE = [
    # selectors
    ("- a  # [linux]", ["a"]),
    ("- a  # [win]", []),
    ("- a  # [linux64 and x86_64 and x86 and unix and not osx]", ["a"]),
    ("- a  # a comment [win] behind it", []),
    ("- a  # [win] (not a selector)", ["a"]),
    ("- a [linux]", ["a"]),  # the # is optional
    ("- a [win]", []),
    ("- 'a'  # [linux]", ["a"]),
    ("- 'a  # [linux]'", ["a"]),  # a line may be quoted as a whole
    ("- a  # [nobody_knows]", []),  # unknown names are false
    ("- a  # [not nobody_knows]", ["a"]),
    ("- a  # [win or x86]", ["a"]),
    ("- a  # [x or x86]", []),  # the unknown `x` is replaced in `x86` as well
    ("- a  # [py >= 38 and py3k and py < 312]", ["a"]),
    ("- a  # [np == 123]", ["a"]),
    ("- a  # [pl.startswith('5.') and pl == '5.26.2']", ["a"]),
    ("- a  # [lua == '5' and not luajit]", ["a"]),
    ("- a  # [target_platform == build_platform == 'linux-64']", ["a"]),
    ("- a  # [c_compiler in ('gcc', 'clang')]", ["a"]),
    ("- a  # [environ.get('CI') == 'yes']", []),  # nothing of the caller
    ("- a  # [os.environ.get('CI', 'no') == 'no']", ["a"]),
    ("- a  # [('x' if linux else 'y') == 'x']", ["a"]),
    ("- a  # [1 + 1 == 2 and 5 % 3 == 2]", ["a"]),
    ("# - a", []),
    # jinja
    ("- {{ PKG_NAME }}-{{ PKG_VERSION }}-{{ PKG_BUILDNUM }}", ["odd-1-0"]),
    ("- {{ compiler('c') }} {{ compiler('rust') }}", ["gcc_linux-64 rust_linux-64"]),
    ("- {{ stdlib('c') }}", ["c_linux-64"]),
    ("- {{ cdt('mesa') }} {{ cdt('mesa 1') }}", ["mesa-cos6-x86_64 mesa-cos6-x86_64 1"]),
    ("- {{ pin_compatible('numpy') }}", ["numpy"]),
    ("- {{ pin_subpackage('odd', exact=True) }}", ["odd"]),
    ("- echo {{ environ['PKG_NAME'] }} {{ environ.get('HOME_OF') }}", ["echo odd None"]),
    ("- echo {{ target_platform }} {{ c_compiler }}", ["echo linux-64 gcc"]),
    ("- echo lib{{ SHLIB_EXT }} {{ PY_VER }} {{ CONDA_PY }} {{ NPY_VER }}",
     ["echo lib.so 3.11 311 1.23"]),
    ("- test -d {{ PREFIX }}/lib", ["test -d $PREFIX/lib"]),  # the test's, not the builder's
    ("- echo {{ '%s' | format(1) }}{% if win %} win{% endif %}", ["echo 1"]),
    ("{% for i in range(2) %}- echo {{ i }}\n    {% endfor %}", ["echo 0", "echo 1"]),
    ("{% set x = 'y' %}- echo {{ x }}", ["echo y"]),
    ("- echo {{ load_str_data('[1, 2]', 'json')[1] }}", ["echo 2"]),
    ("- echo {{ load_str_data('a = 3', 'toml').a }}", ["echo 3"]),
    ("- echo {{ load_str_data('1.10', 'yaml') }}", ["echo 1.1"]),  # data are what YAML says
    ("{% set x = [] %}{% set _ = x.append('a') %}- echo {{ x[0] }}", ["echo a"]),
    ("- {{ pin_subpackage(subpackage_name='a') }}{{ cdt(package_name='b') }}",
     ["ab-cos6-x86_64"]),
    ("- echo {{ datetime.datetime(2020, 1, 2).strftime('%Y') }}", ["echo 2020"]),
    ("- echo {{ time.strftime('%Y', time.gmtime(0)) }}", ["echo 1970"]),
    ("- echo {{ ccache('native') }}{{ installed }}{{ resolved_packages('host') }}",
     ["echo ccache{}[]"]),
    ("- echo \"{{ '[' }}win{{ ']' }}\"", ['echo "[win]"']),
    ("- echo {{ '[' }}win{{ ']' }}", []),  # what jinja made is selected again
    # YAML
    ("- 1.10", ["1.10"]),  # numbers stay text
    ("- 0x10", ["0x10"]),
    ("- 2020-01-02", ["2020-01-02"]),
    ("- |\n      a\n      b", ["a\nb\n"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "says"), ONE_LINE)
def test_a_line(line: str, says: list[str], tmp_path: Path) -> None:
    assert list(render(tmp_path, commands(line))[0].sections[0].commands) == says


ON_WINDOWS = [
    ("- a  # [win64 and not unix and x86_64]", ["a"]),
    ("- {{ compiler('c') }} {{ SHLIB_EXT }}", ["vs2017_win-64 .dll"]),
    ("- if not exist {{ PREFIX }}\\x exit 1", ["if not exist %PREFIX%\\x exit 1"]),
]


@pytest.mark.parametrize(("line", "says"), ON_WINDOWS)
def test_a_line_on_windows(line: str, says: list[str], tmp_path: Path) -> None:
    found = render(tmp_path, commands(line), subdir="win-64")

    assert list(found[0].sections[0].commands) == says


def test_selectors_come_before_jinja(tmp_path: Path) -> None:
    text = "{% set x = 'osx' %}  # [osx]\n{% set x = 'linux' %}  # [linux]\n"

    assert render(tmp_path, text + commands("- {{ x }}"))[0].sections[0].commands == ("linux",)
    assert render(tmp_path, text + commands("- {{ x }}"), subdir="osx-64")[0].sections[
        0
    ].commands == ("osx",)


def test_of_a_key_given_twice_the_last_wins(tmp_path: Path) -> None:
    text = HEAD + "test:\n  commands:\n    - a\ntest:\n  commands:\n    - b\n"

    assert render(tmp_path, text)[0].sections[0].commands == ("b",)


def test_values_come_from_files_of_the_recipe(tmp_path: Path) -> None:
    text = (
        "{% set data = load_file_data('d.yaml', from_recipe_dir=True) %}\n"
        "{% set found = load_file_regex(load_file='v.txt', regex_pattern='v=(.*)',"
        " from_recipe_dir=True) %}\n"
        "{% from 'm.jinja' import hello %}\n"
    )
    files = {
        "d.yaml": "a: [x, y] # z\n",
        "v.txt": "v=7\n",
        "m.jinja": "{% macro hello(x) %}hello {{ x }}{% endmacro %}\n",
    }

    found = render(
        tmp_path, text + commands("- {{ hello(data.a[1]) }} {{ found.group(1) }}"), files
    )

    assert found[0].sections[0].commands == ("hello y 7",)


def test_sections_are_appended_and_replaced_by_their_files(tmp_path: Path) -> None:
    files = {
        "recipe_append.yaml": "test:\n  commands:\n    - b\n    - c  # [win]\n",
        "recipe_clobber.yaml": "package:\n  version: 2\n",
    }

    found = render(tmp_path, commands("- a"), files)

    assert (found[0].version, found[0].sections[0].commands) == ("2", ("a", "b"))


def test_a_name_that_only_the_build_section_needs_may_be_unknown(tmp_path: Path) -> None:
    text = HEAD + "build:\n  script: {{ nobody_knows }}\n"

    assert render(tmp_path, text)[0].version == "1"


# variants


def variants(*pairs: tuple[str, list[str]], more: str = "") -> dict[str, str]:
    lines = "".join(f"{key}:\n" + "".join(f"  - {v}\n" for v in values) for key, values in pairs)
    return {"conda_build_config.yaml": lines + more}


def test_only_used_keys_make_variants(tmp_path: Path) -> None:
    files = variants(("flavour", ["sweet", "sour"]), ("unused", ["1", "2", "3"]))

    found = render(tmp_path, commands("- echo {{ flavour }}"), files)

    assert [one.sections[0].commands for one in found] == [("echo sweet",), ("echo sour",)]
    assert found[0].variant == {"flavour": "sweet", "target_platform": "linux-64"}


@pytest.mark.parametrize(
    "use",
    [
        "test:\n  commands:\n    - a {{ flavour }}\n",
        "test:\n  commands:\n    - a  # [flavour == 'sweet']\n",
        "test:\n  commands:\n    {% if flavour == 'sweet' %}- a{% endif %}\n",
        "requirements:\n  host:\n    - flavour\n",
        "build:\n  force_use_keys:\n    - flavour\n",
        "about:\n  home: {% for x in flavour %}{{ x }}{% endfor %}\n",
        "about:\n  {% set x = flavour[0] %}home: {{ x }}\n",
    ],
)
def test_what_counts_as_use(use: str, tmp_path: Path) -> None:
    assert len(render(tmp_path, HEAD + use, variants(("flavour", ["sweet", "sour"])))) == 2


@pytest.mark.parametrize(
    "no_use",
    [
        "requirements:\n  run:\n    - flavour\n",
        "about:\n  summary: flavour\n",
        "test:\n  commands:\n    - a {{ flavours }}{% set flavours = 1 %}\n",
        "build:\n  force_ignore_keys:\n    - flavour\n  string: {{ flavour }}\n",
    ],
)
def test_what_does_not(no_use: str, tmp_path: Path) -> None:
    text = "{% set flavours = 1 %}\n" + HEAD + no_use

    assert len(render(tmp_path, text, variants(("flavour", ["sweet", "sour"])))) == 1


def test_a_build_script_uses_keys(tmp_path: Path) -> None:
    files = variants(("flavour", ["sweet", "sour"])) | {"build.sh": "echo ${flavour}\n"}

    assert len(render(tmp_path, HEAD, files)) == 2


def test_a_compiler_and_its_version_are_used_together(tmp_path: Path) -> None:
    files = variants(("c_compiler", ["gcc"]), ("c_compiler_version", ["12", "13"]))
    text = HEAD + "requirements:\n  build:\n    - {{ compiler('c') }}\ntest:\n  requires:\n"

    found = render(tmp_path, text + "    - {{ compiler('c') }}\n", files)

    assert [one.sections[0].requires for one in found] == [
        ("gcc_linux-64 12.*",),
        ("gcc_linux-64 13.*",),
    ]


def test_zipped_keys_go_together(tmp_path: Path) -> None:
    zipped = "zip_keys:\n  -\n    - a\n    - b\n"
    files = variants(("a", ["1", "2"]), ("b", ["x", "y"]), more=zipped)

    found = render(tmp_path, commands("- {{ a }}{{ b }}"), files)

    assert [one.sections[0].commands for one in found] == [("1x",), ("2y",)]


def test_zipped_keys_of_different_length_are_refused(tmp_path: Path) -> None:
    files = variants(("a", ["1", "2"]), ("b", ["x"]), more="zip_keys:\n  -\n    - a\n    - b\n")

    with pytest.raises(RecipeError, match="zip_keys"):
        render(tmp_path, commands("- {{ a }}{{ b }}"), files)


def test_a_later_file_narrows_and_an_exclusive_one_replaces(tmp_path: Path) -> None:
    files = variants(("flavour", ["sweet", "sour"]))
    later, other = tmp_path / "later.yaml", tmp_path / "other.yaml"
    later.write_text("flavour:\n  - sour\n")
    other.write_text("flavour:\n  - bitter  # [linux]\n  - salty  # [win]\n")
    text = commands("- {{ flavour }}")

    def flavours(**options: Any) -> list[str]:
        return [one.sections[0].commands[0] for one in render(tmp_path, text, files, **options)]

    assert flavours() == ["sweet", "sour"]
    assert flavours(configs=[later]) == ["sour"]
    assert flavours(exclusive=other) == ["bitter"]
    assert flavours(exclusive=other, configs=[later]) == ["sour"]
    assert flavours(variant={"flavour": "sour"}) == ["sour"]
    assert flavours(config="flavour:\n- umami\n") == ["umami"]


def test_keys_that_extend_are_no_loops(tmp_path: Path) -> None:
    more = "pin_run_as_build:\n  python:\n    max_pin: x.x\nignore_version:\n  - a\n  - b\n"
    text = HEAD + "# {{ pin_run_as_build }} {{ ignore_version }}\n"

    assert len(render(tmp_path, text, variants(more=more))) == 1


def test_a_noarch_package_is_made_once_with_the_newest_python(tmp_path: Path) -> None:
    files = variants(("python", ["3.9.* *_cpython", "3.12.* *_cpython", "3.10.* *_cpython"]))
    text = HEAD + "build:\n  noarch: python\nrequirements:\n  host:\n    - python\n"

    found = render(tmp_path, text + "test:\n  commands:\n    - echo {{ PY_VER }}\n", files)

    assert [one.sections[0].commands for one in found] == [("echo 3.12",)]


# outputs

TOP = HEAD.replace("odd", "top")
INHERITED = "test:\n  requires:\n    - make\n  commands:\n    - top\n  files:\n    - a.txt\n"


def outputs(*texts: str) -> str:
    return "outputs:\n" + "".join(f"  - name: {text}\n" for text in texts)


def by_name(found: tuple[Output, ...]) -> dict[str, Output]:
    return {one.name: one for one in found}


def test_an_output_without_tests_inherits_all_but_commands_and_imports(tmp_path: Path) -> None:
    found = render(tmp_path, TOP + outputs("part") + INHERITED, {"a.txt": ""})

    assert list(by_name(found)) == ["part"]
    section = found[0].sections[0]
    assert (section.requires, section.commands) == (("make",), ())
    assert [one.path for one in section.files] == ["a.txt"]


def test_an_output_with_tests_has_these_only(tmp_path: Path) -> None:
    own = "part\n    test:\n      commands:\n        - own"
    found = render(tmp_path, TOP + outputs(own) + INHERITED, {"a.txt": "", "run_test.sh": "x"})

    section = found[0].sections[0]
    assert (section.commands, section.requires, section.files, section.scripts) == (
        ("own",), (), (), ())  # fmt: skip


def test_the_output_of_the_top_levels_name_has_the_top_levels_tests(tmp_path: Path) -> None:
    own = "top\n    test:\n      commands:\n        - own"
    found = render(tmp_path, TOP + outputs(own, "part") + INHERITED, {"a.txt": ""})

    assert by_name(found)["top"].sections[0].commands == ("top",)


def test_the_top_level_is_added_when_it_needs_an_output(tmp_path: Path) -> None:
    needs = "requirements:\n  run:\n    - part\n"
    pins = "requirements:\n  run:\n    - {{ pin_subpackage('part', exact=True) }}\n"

    for text in (needs, pins):
        found = render(tmp_path, TOP + text + outputs("part") + INHERITED, {"a.txt": ""})
        assert by_name(found)["top"].sections[0].commands == ("top",)
        assert by_name(found)["part"].sections[0].commands == ()


def test_platforms_that_are_listed_make_a_package_each(tmp_path: Path) -> None:
    files = variants(("target_platform", ["win-64", "win-32"]))

    found = render(tmp_path, commands("- a  # [win64]"), files, subdir="win-64")

    assert [(one.variant["target_platform"], one.sections[0].commands) for one in found] == [
        ("win-64", ("a",)),
        ("win-32", ()),
    ]


def test_names_and_versions_of_outputs_come_from_variants(tmp_path: Path) -> None:
    out = outputs("part-{{ mpi }}\n    version: {{ mpi | length }}")
    found = render(tmp_path, TOP + out, variants(("mpi", ["openmpi", "mpich"])))

    assert sorted((one.name, one.version) for one in found) == [
        ("part-mpich", "5"),
        ("part-openmpi", "7"),
    ]


def test_an_output_inherits_the_build_number_or_has_its_own(tmp_path: Path) -> None:
    text = TOP + "build:\n  number: 3\n"
    own = ("b\n    build:\n      noarch: generic", "c\n    build:\n      number: 4")
    found = by_name(render(tmp_path, text + outputs("a", *own)))

    assert [(found[n].build_number, found[n].noarch) for n in "abc"] == [
        (3, None),
        (3, "generic"),
        (4, None),
    ]


def test_a_skip_of_the_top_level_is_for_all_and_one_of_an_output_for_it_alone(
    tmp_path: Path,
) -> None:
    own = ("a", "b\n    build:\n      skip: true", "c\n    build:\n      number: 1")

    def skipped(text: str) -> list[str]:
        found = render(tmp_path, text + outputs(*own))
        return [one.name for one in found if one.skip]

    assert skipped(TOP) == ["b"]
    assert skipped(TOP + "build:\n  skip: true  # [linux]\n") == ["a", "b", "c"]


def test_words_for_true_skip(tmp_path: Path) -> None:
    for word, says in (("yes", True), ("'on'", True), ("no", False), ("True", True), ("1", True)):
        assert render(tmp_path, HEAD + f"build:\n  skip: {word}\n")[0].skip is says


# test sections


def scripts(found: tuple[Output, ...]) -> list[str]:
    return [one.path for one in found[0].sections[0].scripts]


RUN_TEST = {f"run_test.{ending}": "x" for ending in ("sh", "bat", "py", "pl", "r", "lua")}


def test_scripts_run_in_conda_builds_order(tmp_path: Path) -> None:
    tail = ["run_test.py", "run_test.pl", "run_test.lua", "run_test.r"]

    assert scripts(render(tmp_path, HEAD, RUN_TEST)) == [*tail, "run_test.sh"]
    assert scripts(render(tmp_path, HEAD, RUN_TEST, subdir="win-64")) == [*tail, "run_test.bat"]


def test_an_output_runs_the_script_that_it_names(tmp_path: Path) -> None:
    def part(script: str, subdir: str = "linux-64") -> list[str]:
        text = TOP + outputs(f"part\n    test:\n      script: {script}")
        return scripts(render(tmp_path, text, RUN_TEST | {script: "x"}, subdir=subdir))

    assert part("mine.py") == ["mine.py"]
    assert part("mine.sh") == ["mine.sh"]
    assert part("mine.sh", "win-64") == []
    assert part("mine.bat") == []
    assert part("mine.bat", "win-64") == ["mine.bat"]


def test_an_output_runs_a_run_test_among_its_files(tmp_path: Path) -> None:
    own = "part\n    test:\n      imports:\n        - os\n      files:\n        - run_test.*"
    found = render(tmp_path, TOP + outputs(own), RUN_TEST)

    # Perl, Lua and R have no imports that would be appended to theirs.
    assert scripts(found) == ["run_test.py", "run_test.sh"]


def test_files_are_found_at_any_depth_and_folders_with_all_in_them(tmp_path: Path) -> None:
    text = HEAD + "test:\n  files:\n    - data\n    - '*.txt'\n    - nothing.here\n"
    files = {"data/a/b": "", "x/y.txt": "", "z.txt": "", "other": ""}

    found = render(tmp_path, text, files)

    assert [one.path for one in found[0].sections[0].files] == ["data/a/b", "x/y.txt", "z.txt"]


@pytest.mark.parametrize(
    ("name", "items", "says"),
    [
        ("odd", "- b\n    - a", [("python", "a"), ("python", "b")]),
        ("r-odd", "- a", [("r", "a")]),
        ("perl-odd", "- A::B", [("perl", "A::B")]),
        ("lua-odd", "- a", [("lua", "a")]),
        ("r-odd", "- a\n    - lang: python\n      imports:\n        - p",
         [("python", "p"), ("r", "a")]),
        ("odd", "- {lang: perl, imports: [A]}\n    - {lang: perl, imports: [B]}", [("perl", "A")]),
    ],
)  # fmt: skip
def test_imports_have_a_language(
    name: str, items: str, says: list[tuple[str, str]], tmp_path: Path
) -> None:
    text = HEAD.replace("odd", name) + f"test:\n  imports:\n    {items}\n"

    found = render(tmp_path, text)[0].sections[0].imports

    assert [(one.language, one.name) for one in found] == says


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("python 3.10", "python 3.10.*"),
        ("a 1", "a 1.*"),
        ("a 1.0 0", "a 1.0 0"),  # with a build string it is exact
        ("a 1.0|2.0", "a 1.0|2.0"),
        ("a >=1,<2", "a >=1,<2"),
        ("a 1.*", "a 1.*"),
        ("a=1", "a=1"),
        ("c::a[version='1']", "c::a[version='1']"),
        ("https://x/linux-64/a-1-0.conda", "https://x/linux-64/a-1-0.conda"),
    ],
)
def test_a_bare_version_that_tests_require_is_any_that_begins_so(
    spec: str, says: str, tmp_path: Path
) -> None:
    (found,) = render(tmp_path, HEAD + f'test:\n  requires:\n    - "{spec}"\n')[0].sections

    assert found.requires == (says,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "build:\n  noarch: none\n", "build/noarch"),
        (HEAD + "build: x\n", "build must be a mapping"),
        (HEAD + "build:\n  number: one\n", "build/number"),
        (HEAD + "requirements:\n  build:\n    - pip:\n        - x\n", "holds a mapping"),
        (HEAD + "requirements:\n  host:\n    - a  {b}\n", "not a version"),
        (HEAD + "requirements:\n  run:\n    - odd\n", "cannot depend on itself"),
        (HEAD + "test:\n  requires:\n    - greet@1\n", "test/requires: 'greet@1'"),
        (HEAD + "test:\n  commands:\n    - a\n    -\n", "item 1 of the list is empty"),
        ("package:\n  name: \u00f6d\n  version: '1'\n", "'\u00f6d' holds '\u00f6'"),
        (HEAD + "test:\n  requires:\n    - a {b}\n", "not a version"),
        (HEAD + "about:\n  license_family: Mine\n", "license_family"),
        (HEAD + "outputs:\n  name: x\n", "must be a list"),
        ("package:\n  name: odd\n", "package/version is missing"),
        ("", "package/name is missing"),
        (HEAD + "{% do [].append(1) %}\n", "unknown tag 'do'"),
        (HEAD + "outputs:\n  - name: x\n    script: no.sh\n", "'no.sh'"),
        (HEAD + "test:\n  imports:\n    - lang: ruby\n      imports: ['x' ]  # x\n", "'ruby'"),
        ("package:\n  version: 1\nbuild: {\n", "meta.yaml:4"),
    ],
)
def test_what_conda_build_refuses_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        render(tmp_path, text)

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "test:\n  commands: !!set {a, b}\n", "meta.yaml:5: YAML: could not"),
        (HEAD + "test:\n  commands:\n    - !!binary aGk=\n", "meta.yaml:6: YAML: could not"),
        (HEAD + "test:\n  commands:\n    - !!bool often\n", "meta.yaml:6: YAML: this is no bool"),
        (HEAD + "build:\n  number: !!int few\n", "meta.yaml:5: YAML: this is no int"),
        (HEAD + "test: *unknown\n", "meta.yaml:4: YAML: found undefined alias"),
        (HEAD + "test: &a\n  commands:\n    - *a\n", "too many values, aliases"),
        (HEAD + "requirements:\n  host:\n    - ' '\n", "meta.yaml: requirements/host: ' '"),
        (HEAD + "requirements:\n  run:\n    -\n", "meta.yaml: requirements/run: None"),
        (HEAD + "outputs:\n  - name: a\n    test: often\n", "test of the output 'a' must be"),
        (HEAD + "outputs:\n  - name: a\n    type:\n      - b\n", "type of the output 'a' must be"),
        (HEAD + "{% include 'none.txt' %}\n", "meta.yaml:4: jinja: there is no file 'none.txt'"),
        (HEAD + "about:\n  home: {{ compiler() }}\n", "meta.yaml:5: jinja: the function missing"),
        (HEAD + 'test:\n  commands:\n    - "tr\\0ue"\n', "a command holds a NUL"),
        ("package:\n  name: odd\n  version: {{ unset }}\n", "meta.yaml:3: jinja: 'unset' is undef"),
        ('package:\n  name: "o\\edd"\n  version: 1\n', r"package/name: 'o\x1bdd' holds"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        render(tmp_path, text)

    line = str(refused.value)
    assert says in line
    assert line.startswith(str(tmp_path / "recipe/meta.yaml"))
    assert "\n" not in line
    assert "Error" not in line


def test_outputs_that_are_many_read_their_common_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = document.load

    def counted(text: str, *more: Any, **named: Any) -> Any:
        read.append(text)
        return load(text, *more, **named)

    monkeypatch.setattr(document, "load", counted)
    (tmp_path / "meta.yaml").write_text(
        HEAD + "outputs:\n" + "".join(f"  - name: out{number}\n" for number in range(40))
    )

    assert len(engine.render(tmp_path, subdir="linux-64")) == 40
    assert len(read) < 10
