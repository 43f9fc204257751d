"""How long a host may take, as its matrix says."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import results, run_pytest, write_package
from pytest_manualbuild import matrix
from pytest_manualbuild.errors import MatrixError


def test_a_slow_host_gets_longer_and_its_neighbours_do_not(tmp_path: Path) -> None:
    write_package(tmp_path, "test:\n  commands:\n    - sleep 2\n")
    (tmp_path / "two.toml").write_text(
        "[hosts.quick]\nkind = 'local'\n[hosts.slow]\nkind = 'local'\ntimeout_factor = 30\n"
    )

    ran = run_pytest(
        "--recipe", "recipe", "--matrix", "two.toml", "--check-timeout", "1", cwd=tmp_path
    )

    assert ran.status == 1, ran.out
    found = results(tmp_path / "manualbuild-report")
    assert {key[0]: outcome for key, (outcome, _) in found.items() if "sleep" in key[1]} == {
        "quick": "failed",
        "slow": "passed",
    }
    assert "It ran longer than 1 s and was killed" in ran.out


@pytest.mark.parametrize("text", ["0.5", "101", "nan", "inf", "true", "'3'", "-1"])
def test_a_factor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MatrixError, match=r"hosts\.a\.timeout_factor is .*from 1 to 100"):
        matrix.parse(f"[hosts.a]\nkind = 'local'\ntimeout_factor = {text}\n", "m.toml")
