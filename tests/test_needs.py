"""What a recipe needs of a host: met, or the tests are not run and nothing is proven."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import manualbuild, results, run_local, run_pytest, write_package

COMMANDS = "test:\n  commands:\n    - 'true'\n"


def needing(*names: str) -> str:
    lines = "".join(f"      - {name}\n" for name in names)
    return f"extra:\n  manualbuild:\n    needs:\n{lines}"


@pytest.mark.parametrize("need", ["gpu", "display", "intrnet"])
def test_a_need_that_no_host_is_known_to_meet_is_not_tried(tmp_path: Path, need: str) -> None:
    write_package(tmp_path, COMMANDS + needing(need))

    ran = run_local(tmp_path, "-rs")

    assert ran.status == 8, ran.out
    assert f"needs '{need}'" in " ".join(ran.out.split())
    said = set(results(tmp_path / "manualbuild-report").values())
    assert said == {("skipped", "not-applicable")}


def test_a_need_is_met_by_a_host_that_provides_it(tmp_path: Path) -> None:
    write_package(tmp_path, COMMANDS + needing("gpu"))
    matrix = tmp_path / "local.toml"
    matrix.write_text(matrix.read_text() + 'provides = ["gpu"]\n')

    assert run_local(tmp_path).status == 0
    accepted = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
    assert accepted.status == 0, accepted.out
    path = tmp_path / "manualbuild-report/evidence.json"
    good = path.read_text()
    for old, new, says in (
        ('"needs": [\n      "gpu"', '"needs": [\n      "root"', "tests need root of a host"),
        ('"needs": [\n      "gpu"\n     ]', '"needs": []', "tests need nothing of a host"),
        ('"gpu"\n     ]', '"gpu", "internet"\n     ]', "tests need gpu, internet of a host"),
        ('"provides": [\n       "gpu"\n      ]', '"provides": []', "does not provide 'gpu'"),
    ):
        assert old in good, good
        path.write_text(good.replace(old, new, 1))
        ran = manualbuild("verify", "manualbuild-report", cwd=tmp_path)
        assert (ran.status, says in ran.out) == (1, True), ran.out


@pytest.mark.parametrize(
    "text", ["needs: internet", "needs: [internet]", "needs:\n      - Root!", "[]"]
)
def test_a_need_of_another_form_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    write_package(tmp_path, COMMANDS + f"extra:\n  manualbuild:\n    {text}\n")

    ran = run_local(tmp_path)

    assert (ran.status, "Traceback" in ran.out) == (4, False), ran.out
    assert "extra/manualbuild" in ran.out


@pytest.mark.docker
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("needs", [(), ("internet", "root")])
def test_the_network_is_there_for_those_who_need_it(tmp_path: Path, needs: tuple[str, ...]) -> None:
    there = "ls /sys/class/net | grep -v lo"
    command = there if needs else f"'! ({there})'\n    - test $(id -u) = 0"
    test = f"test:\n  commands:\n    - {command}\n"
    write_package(tmp_path, test + (needing(*needs) if needs else ""))
    (tmp_path / "one.toml").write_text(
        f'[hosts.needs-{os.getpid()}]\nkind = "docker"\nsubdir = "linux-64"\n'
        'image = "manualbuild/debian-12:test"\n'
    )

    ran = run_pytest("--recipe", "recipe", "--matrix", "one.toml", cwd=tmp_path)

    if "failed to create endpoint" in ran.out:
        pytest.skip("the engine cannot give its containers a network")
    assert ran.status == 0, ran.out
    assert ("had the network: the recipe needs it" in ran.out) == bool(needs)
