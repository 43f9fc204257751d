"""Whatever a script says, and in whatever order, no check passes that did not end."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pytest_manualbuild import checks, model, records
from pytest_manualbuild.execution.marks import Marks, Said
from pytest_manualbuild.execution.results import Place, Results

SECTION = model.TestSection(commands=("a", "b", "c", "d"))
CHECKS = checks.checks((SECTION,))
PLANNED = model.PlannedPackage(
    artifact=model.Artifact(
        path="", subdir="noarch", filename="a-1-0.conda", sha256="0" * 64, size=0, name="a",
        version="1", build="0", build_number=0, noarch="generic", depends=(), constrains=(),
    ),
    label="a", sections=(SECTION,), checks=CHECKS,
)  # fmt: skip
NUMBERS = range(1, len(CHECKS))
WORDS = [
    (Said.ACTIVATED, 0),
    *((said, number) for said in (Said.BEGUN, Said.WENT_ON, Said.ENDED) for number in NUMBERS),
    (Said.SHELL_ENDED, 0),
    (Said.TEST_FAILED, 0),
    (Said.COMPLETE, 0),
]
SAYS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(["0", "3", "", "x"])), max_size=25
)


@given(SAYS, st.sampled_from([0, 1, 137]))
def test_no_check_passes_that_did_not_end(
    says: list[tuple[tuple[Said, int], str]], status: int
) -> None:
    given_results: list[records.CheckResult] = []
    marks = Marks()
    words = {one: marks.new(one[0], one[1]) for one in WORDS}
    place = Place(host="h", folder="/f", logs=Path("/nowhere"), evidence=Path("/"))
    results = Results(PLANNED, place, given_results.append)
    said = set()
    for one, with_status in says:
        if (heard := marks.heard(f"{words[one]} {with_status}")) is not None:
            results.heard(heard)
            said.add((*one, with_status))
    results.over(status)
    results.finish()

    assert sorted(one.check for one in given_results) == sorted(check.name for check in CHECKS)
    passed = {one.check for one in given_results if one.outcome is records.Outcome.PASSED}
    for number in NUMBERS:
        if CHECKS[number].name in passed:
            ended = {(Said.WENT_ON, number), (Said.ENDED, number)} & {one[:2] for one in said}
            shell = (Said.SHELL_ENDED, 0, "0") in said and (Said.BEGUN, number) in {
                one[:2] for one in said
            }
            assert ended or shell
            assert (Said.BEGUN, number) in {one[:2] for one in said}
    if len(passed) == len(CHECKS):
        assert status == 0
        assert (Said.COMPLETE, 0) in {one[:2] for one in said}
        assert not {one for one in said if one[0] is Said.SHELL_ENDED and one[2] != "0"}
        assert (Said.TEST_FAILED, 0) not in {one[:2] for one in said}


def test_a_word_counts_once_and_an_unknown_one_never() -> None:
    marks = Marks()
    word = marks.new(Said.ENDED, 3)

    assert marks.heard(f"{word} 0") is not None
    assert marks.heard(f"{word} 0") is None
    assert marks.heard("0123456789abcdef 0") is None
    assert marks.heard("") is None
