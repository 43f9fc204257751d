"""The recipe is one that was reviewed: its commit is on a branch of a clone, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import LOCAL, META, build, command, run_pytest
from pytest_manualbuild import commits
from pytest_manualbuild.errors import PolicyError
from pytest_manualbuild.gate import explain, verify
from pytest_manualbuild.gate import policy as policies
from pytest_manualbuild.gate.verdict import Decision

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is missing")
POLICY = '[gate]\nreviewed_branch = "main"\n[[enabled]]\npackage = "odd"\nclone = "clone"\n'


def git(folder: Path, *words: str) -> str:
    """Run the real git, with nobody's settings."""
    who = (
        "-c",
        "user.name=jane",
        "-c",
        "user.email=jane@example.org",
        "-c",
        "init.defaultBranch=main",
    )
    ran = command("git", *who, *words, cwd=folder, GIT_CONFIG_GLOBAL=os.devnull)
    assert ran.status == 0, ran.out
    return ran.out.strip()


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feedstock under git, a package of its recipe, and a report of a run there."""
    folder = tmp_path_factory.mktemp("tested")
    recipe = folder / "feedstock/recipe"
    recipe.mkdir(parents=True)
    (recipe / "meta.yaml").write_text(META)
    (recipe / "build.sh").write_text("echo é\n")
    (recipe / "run.sh").symlink_to("build.sh")
    (recipe / "bld.bat").write_text("echo odd\n")
    # As conda-smithy writes it; and what `git archive` would heed.
    attributes = "* text=auto\nbld.bat text eol=crlf\nbuild.sh export-ignore\n"
    (folder / "feedstock/.gitattributes").write_text(attributes)
    git(folder / "feedstock", "init", "-q")
    git(folder / "feedstock", "add", ".")
    git(folder / "feedstock", "commit", "-qm", "Start")
    # As a fresh clone has it: with other line ends than were there.
    shutil.rmtree(recipe)
    git(folder / "feedstock", "checkout", "-q", ".")
    assert (recipe / "bld.bat").read_bytes() == b"echo odd\r\n"
    build(folder)
    (folder / "local.toml").write_text(LOCAL)
    ran = run_pytest(
        "--recipe", "feedstock/recipe", "--artifacts", "build_artifacts", "--matrix", "local.toml",
        "--evidence", "report", cwd=folder,
    )  # fmt: skip
    assert ran.status == 0, ran.out
    git(folder, "clone", "-q", "feedstock", "clone")
    (folder / "policy.toml").write_text(POLICY)
    return folder


@pytest.fixture
def place(tested: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(tested, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


def judged(place: Path) -> tuple[Decision, str]:
    policy = policies.load(place / "policy.toml")
    found = verify.verify(place / "report", place / "build_artifacts", policy).verdict
    return found.decision, found.text()


def say(place: Path, **values: object) -> None:
    """Have the evidence say something else of the recipe's commit."""
    path = place / "report/evidence.json"
    value = json.loads(path.read_text())
    value["predicate"]["sources"] |= values
    path.write_text(json.dumps(value))


def test_a_recipe_of_a_reviewed_commit_is_accepted_and_named(place: Path) -> None:
    commit = git(place / "feedstock", "rev-parse", "HEAD")
    said = json.loads((place / "report/evidence.json").read_text())["predicate"]["sources"]
    assert said == {"commit": commit, "dirty": False, "folder": "recipe"}

    decision, text = judged(place)

    assert decision is Decision.ACCEPT, text
    assert f"the recipe is that of commit {commit}, on the branch main" in text
    words = " ".join(explain.explain(policies.load(place / "policy.toml")))
    assert "The recipe is the one of a commit on the branch main." in words
    assert "its feedstock cloned to clone" in words


def later(place: Path) -> None:
    git(place / "clone", "commit", "-qm", "More", "--allow-empty")


def mirror(place: Path) -> None:
    shutil.rmtree(place / "clone")
    git(place, "clone", "-q", "--mirror", "feedstock", "clone")


def of_the_remote(place: Path) -> None:
    git(place / "clone", "checkout", "-q", "--detach")
    git(place / "clone", "branch", "-qD", "main")
    (place / "policy.toml").write_text(POLICY.replace('"main"', '"origin/main"'))


@pytest.mark.parametrize("change", [later, mirror, of_the_remote])
def test_any_clone_of_the_branch_will_do(place: Path, change: Callable[[Path], None]) -> None:
    change(place)

    decision, text = judged(place)

    assert decision is Decision.ACCEPT, text


def unreviewed(place: Path) -> str:
    """Return a commit of the very recipe, on a branch that nobody reviewed."""
    git(place / "clone", "checkout", "-qb", "work")
    git(place / "clone", "commit", "-qm", "Work", "--allow-empty")
    commit = git(place / "clone", "rev-parse", "HEAD")
    git(place / "clone", "checkout", "-q", "main")
    say(place, commit=commit)
    return commit


def tag(place: Path) -> None:
    git(place / "clone", "tag", "main", unreviewed(place))


def replaced(place: Path) -> None:
    """Have git show the unreviewed commit wherever the reviewed one is asked for."""
    reviewed = git(place / "clone", "rev-parse", "main")
    git(place / "clone", "replace", reviewed, unreviewed(place))


def before_its_last_commit(place: Path) -> None:
    """Merge a pull request whose first commit is the one that was run."""
    commit = unreviewed(place)
    git(place / "clone", "checkout", "-q", "work")
    git(place / "clone", "commit", "-qm", "Better", "--allow-empty")
    git(place / "clone", "checkout", "-q", "main")
    git(place / "clone", "merge", "-q", "--no-ff", "-m", "Merge", "work")
    say(place, commit=commit)


def lacking(place: Path) -> None:
    blob = git(place / "clone", "rev-parse", "main:recipe/build.sh")
    shutil.rmtree(place / "clone")
    git(place, "clone", "-q", "--no-local", "feedstock", "clone")
    for pack in (place / "clone/.git/objects/pack").glob("*.pack"):
        data = pack.read_bytes()
        for one in pack.parent.glob(f"{pack.stem}.*"):
            one.unlink()
        (place / "pack").write_bytes(data)
        with (place / "pack").open("rb") as packed:
            subprocess.run(
                ["git", "unpack-objects", "-q"], cwd=place / "clone", stdin=packed, check=True
            )
    (place / "clone/.git/objects" / blob[:2] / blob[2:]).unlink()


def other_recipe(place: Path) -> None:
    (place / "clone/recipe/build.sh").write_text("echo other\n")
    git(place / "clone", "commit", "-qam", "Other")
    say(place, commit=git(place / "clone", "rev-parse", "HEAD"))


def no_git(place: Path) -> None:
    path = place / "report/evidence.json"
    value = json.loads(path.read_text())
    value["predicate"]["sources"] = None
    path.write_text(json.dumps(value))


def inside_another(place: Path) -> None:
    (place / "clone/deep").mkdir()
    (place / "policy.toml").write_text(POLICY.replace('"clone"', '"clone/deep"'))


def two_of_a_name(place: Path) -> None:
    git(place / "clone", "update-ref", "refs/remotes/main", "HEAD")


@pytest.mark.parametrize(
    ("change", "decision", "says"),
    [
        (unreviewed, Decision.REJECT, "is not on the branch main"),
        (tag, Decision.REJECT, "is not on the branch main"),
        (before_its_last_commit, Decision.REJECT, "is not on the branch main"),
        (lacking, Decision.INCONCLUSIVE, "it lacks files of that commit"),
        (replaced, Decision.REJECT, "is not on the branch main"),
        (other_recipe, Decision.REJECT, ": build.sh, run.sh."),
        (lambda place: say(place, dirty=True), Decision.REJECT, "changes that are in no commit"),
        (lambda place: say(place, folder=""), Decision.REJECT, ".gitattributes, bld.bat, build.sh"),
        (lambda place: say(place, folder="../.."), Decision.REJECT, "is not the one of commit"),
        (lambda place: say(place, commit="main"), Decision.REJECT, "is not on the branch"),
        (lambda place: say(place, commit="--help"), Decision.REJECT, "is not on the branch"),
        (lambda place: say(place, commit="0" * 40), Decision.REJECT, "is not on the branch"),
        (no_git, Decision.INCONCLUSIVE, "does not say of which commit"),
        (inside_another, Decision.INCONCLUSIVE, "and not its top"),
        (two_of_a_name, Decision.INCONCLUSIVE, "it has 2 branches named main"),
        (lambda place: shutil.rmtree(place / "clone"), Decision.INCONCLUSIVE, "no such folder"),
        (lambda place: shutil.rmtree(place / "clone/.git"), Decision.INCONCLUSIVE, "not a git"),
    ],
)  # fmt: skip
def test_each_other_history_is_refused(
    place: Path, change: Callable[[Path], object], decision: Decision, says: str
) -> None:
    change(place)

    found, text = judged(place)

    assert (found, says in text) == (decision, True), text


def test_changes_are_seen_where_a_run_looks(place: Path) -> None:
    recipe = place / "feedstock/recipe"

    def seen() -> tuple[bool, bool]:
        said = commits.sources(recipe)
        assert said is not None
        there = commits.look_up(place / "clone", "main", said, recipe)
        assert there.contained
        return said.dirty, there.differing == ()

    assert seen() == (False, True)
    (recipe / "build_artifacts").mkdir()
    (recipe / "build_artifacts/odd.conda").write_text("")
    assert seen()[0] is False
    shutil.rmtree(recipe / "build_artifacts")
    (recipe / "more.patch").write_text("")
    assert seen() == (True, False)
    (place / "feedstock/.git/info/exclude").write_text("more.patch\n")
    assert seen() == (False, False)  # git was told to look away, and the bytes say it
    (recipe / "more.patch").unlink()
    (recipe / "meta.yaml").write_text(META + "# more\n")
    git(place / "feedstock", "update-index", "--assume-unchanged", "recipe/meta.yaml")
    assert seen() == (True, False)
    git(place / "feedstock", "update-index", "--no-assume-unchanged", "recipe/meta.yaml")
    git(place / "feedstock", "checkout", "-q", "recipe/meta.yaml")
    assert seen() == (False, True)
    (recipe / "staged.patch").write_text("")
    git(place / "feedstock", "add", "recipe/staged.patch")
    assert seen() == (True, False)
    assert commits.sources(place) is None


def test_no_program_of_the_recipe_s_repository_is_run(place: Path) -> None:
    ran = place / "ran"
    git(place / "feedstock", "config", "filter.x.clean", f"touch {ran}; cat")
    (place / "feedstock/.git/info/attributes").write_text("* filter=x\n")
    os.utime(place / "feedstock/recipe/meta.yaml", (1, 1))

    said = commits.sources(place / "feedstock/recipe")

    assert said is not None
    assert not said.dirty
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (POLICY.replace('clone = "clone"\n', ""), "odd has none"),
        (POLICY.replace('reviewed_branch = "main"\n', ""), "wants a gate.reviewed_branch"),
        (POLICY.replace('"main"', '"--all"'), "not the name of a branch"),
        (POLICY.replace('"main"', '"main..x"'), "not the name of a branch"),
        (POLICY + '[[enabled]]\npackage = "odd"\nclone = "b"\n', "odd has several"),
        ('[gate]\nreviewed_branch = "main"\n', r"it wants \[\[enabled\]\] tables"),
    ],
)
def test_a_policy_that_could_not_be_met_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(PolicyError, match=says):
        policies.load(tmp_path / "policy.toml")
