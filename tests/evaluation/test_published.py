import pytest

from idc.evaluation.published import NO_ROW, NUM_PATCHES, benchmark_row
from idc.evaluation.statistics.bootstrap import Estimate

CASES = ["8863", "8865", "8867"]
FIGURE = Estimate(0.88, 0.85, 0.90)


def row(cases=CASES, num_patches=NUM_PATCHES, prevalence=0.2105):
    return benchmark_row(
        cases, CASES, num_patches=num_patches, prevalence=prevalence, balanced_accuracy=FIGURE
    )


@pytest.mark.parametrize("cases", [CASES[:2], [*CASES, "9"], ["9"], []])
def test_benchmark_row_when_cases_differ_then_there_is_none(cases):
    assert row(cases) == {"text": NO_ROW}


def test_benchmark_row_when_cases_are_the_same_then_this_run_stands_beside_the_published():
    found = row(CASES[::-1])
    assert [published["balanced_accuracy"] for published in found["rows"]] == [
        0.842, 0.847, 0.868, 0.890,
    ]  # fmt: skip
    assert found["balanced_accuracy"] == {"value": 0.88, "low": 0.85, "high": 0.90}
    assert "matches the published 50,963" in found["text"]
    assert "21.1% IDC+ (matches" in found["text"]


def test_benchmark_row_when_patches_or_prevalence_differ_then_says_so():
    text = row(num_patches=40_000, prevalence=0.30)["text"]
    assert "40,000 patches (differs from the published 50,963)" in text
    assert "30.0% IDC+ (differs from about 21%)" in text
