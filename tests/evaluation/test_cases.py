import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from idc.core.errors import InputError
from idc.data.ingest.archive import list_members
from idc.evaluation.cases.burden import (
    Absent,
    compare_burden,
    describe_completeness,
    dice,
    find_complete_cases,
    find_worst_cases,
    measure_agreement,
    measure_burden,
    measure_dice,
    slide_map,
)
from idc.evaluation.statistics.bootstrap import Bootstrap
from idc.evaluation.statistics.metrics import balanced_accuracy, f1_idc

CASE = np.array(["b", "a", "a", "a", "a", "b", "c"])
Y_TRUE = np.array([0, 1, 0, 0, 1, 0, 1])
Y_PRED = np.array([1, 1, 1, 0, 0, 0, 1])
Y_SCORE = np.array([0.6, 0.9, 0.5, 0.1, 0.3, 0.2, 0.8])


def measured():
    return measure_burden(CASE, Y_TRUE, Y_PRED, Y_SCORE)


def full_grid(case, rows, columns):
    row, column = np.indices((rows, columns)).reshape(2, -1)
    return pd.DataFrame({"case": case, "x": 50 * column + 1, "y": 50 * row + 1})


def test_measure_burden_when_cases_differ_then_gives_shares_and_errors_of_each():
    cases = measured()
    assert cases["case"].tolist() == ["a", "b", "c"]
    assert cases["num_patches"].tolist() == [4, 2, 1]
    assert cases["burden"].tolist() == [0.5, 0.0, 1.0]
    assert cases["called_share"].tolist() == [0.5, 0.5, 1.0]
    np.testing.assert_allclose(cases["mean_score"], [0.45, 0.4, 0.8])
    np.testing.assert_allclose(cases["called_error"], [0.0, 0.5, 0.0])
    np.testing.assert_allclose(cases["score_error"], [-0.05, 0.4, -0.2], atol=1e-15)


def test_measure_burden_when_a_case_has_one_class_then_its_balanced_accuracy_is_absent():
    found = measured()["balanced_accuracy"]
    assert found.iloc[0] == balanced_accuracy(Y_TRUE[CASE == "a"], Y_PRED[CASE == "a"])
    assert found.isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y_score": np.full(7, np.nan)}, "NaN or outside"),
        ({"y_score": np.full(7, 1.5)}, "NaN or outside"),
        ({"y_pred": Y_PRED[:6]}, r"arrays of \[6, 7\] patches"),
        (dict.fromkeys(("case", "y_true", "y_pred", "y_score"), np.array([])), "no patches"),
    ],
)
def test_measure_burden_when_the_input_is_unusable_then_says_so(change, said):
    values = {"case": CASE, "y_true": Y_TRUE, "y_pred": Y_PRED, "y_score": Y_SCORE} | change
    with pytest.raises(InputError, match=said):
        measure_burden(**values)


def test_compare_burden_when_cases_are_many_then_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    burden = rng.uniform(0, 0.6, 40)
    cases = pd.DataFrame(
        {
            "burden": burden,
            "score_error": rng.normal(0, 0.1, 40),
            "called_error": rng.normal(0, 0.15, 40),
            "calibrated_error": 0.0,
        }
    )
    found = compare_burden(cases, 0.3, Bootstrap(20_000, 1))["mae_score_difference"]
    difference = np.abs(cases["score_error"]) - np.abs(0.3 - burden)
    test = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    # the bootstrap's SD of a mean is sqrt((n - 1) / n) times the standard error
    shrink = np.sqrt(39 / 40)
    assert found.value == pytest.approx(difference.mean())
    assert found.high - found.value == pytest.approx(shrink * (test.high - found.value), rel=0.02)
    assert found.value - found.low == pytest.approx(shrink * (found.value - test.low), rel=0.02)


@pytest.mark.parametrize(("num_cases", "constant"), [(2, 0.3), (3, 1.5), (3, np.nan)])
def test_compare_burden_when_cases_or_constant_are_unusable_then_says_so(num_cases, constant):
    with pytest.raises(InputError):
        compare_burden(
            measured().assign(calibrated_error=0.0).head(num_cases), constant, Bootstrap(10, 0)
        )


def test_measure_agreement_when_differences_are_known_then_follows_bland_and_altman():
    # 25 cases whose differences have mean 0.04 and SD 0.1
    shape = stats.zscore(np.arange(25.0), ddof=1)
    burden = np.linspace(0.1, 0.5, 25)
    agreement = measure_agreement(burden + 0.04 + 0.1 * shape, burden)
    t = 2.0638986  # 97.5 % of t with 24 degrees of freedom, from a table
    assert agreement.num_cases == 25
    assert agreement.bias.value == pytest.approx(0.04)
    assert agreement.bias.high == pytest.approx(0.04 + t * 0.1 / 5)
    assert agreement.lower_limit.value == pytest.approx(0.04 - 0.196)
    assert agreement.upper_limit.value == pytest.approx(0.04 + 0.196)
    reach = t * 0.1 * np.sqrt(1 / 25 + 1.96**2 / 48)
    assert agreement.upper_limit.low == pytest.approx(0.236 - reach)
    assert agreement.lower_limit.high == pytest.approx(-0.156 + reach)


def test_measure_agreement_when_there_are_under_20_cases_then_is_absent_with_a_reason():
    found = measure_agreement(np.linspace(0, 1, 19), np.linspace(0, 1, 19))
    assert found == Absent("19 cases: limits of agreement need 20 or more")


def test_find_worst_cases_when_ranked_by_error_then_the_farthest_from_0_comes_first():
    assert find_worst_cases(measured(), "score_error", num_cases=2)["case"].tolist() == ["b", "c"]
    ties = find_worst_cases(measured(), "called_error", num_cases=10)
    assert ties["case"].tolist() == ["b", "a", "c"]


def test_find_worst_cases_when_ranked_by_balanced_accuracy_then_leaves_out_the_undefined():
    cases = measured().assign(
        balanced_accuracy=pd.array([0.9, None, 0.4], dtype="Float64"),
    )
    worst = find_worst_cases(cases, "balanced_accuracy", num_cases=10)
    assert worst["case"].tolist() == ["c", "a"]


def test_describe_completeness_when_cases_are_sampled_or_small_then_only_whole_ones_are_complete():
    whole, small = full_grid("whole", 20, 20), full_grid("small", 19, 21)
    sampled = full_grid("sampled", 60, 60).sample(frac=0.15, random_state=0)
    table = pd.concat([sampled, small, whole])
    found = describe_completeness(*(table[name].to_numpy() for name in ("case", "x", "y")))
    assert found["case"].tolist() == ["sampled", "small", "whole"]
    assert found["num_patches"].tolist() == [540, 399, 400]
    assert found["is_complete"].tolist() == [False, False, True]
    # of a full 20 x 20 grid: 18^2 patches touch 8, 4 x 18 touch 5, 4 touch 3
    touching = (18**2 * 8 + 4 * 18 * 5 + 4 * 3) / 400
    assert found["hole_share"].iloc[2] == pytest.approx(1 - touching / 8)
    assert found["hole_share"].iloc[0] == pytest.approx(0.85, abs=0.02)


@pytest.mark.real_data
@pytest.mark.skipif("IDC_REAL_DATA" not in os.environ, reason="IDC_REAL_DATA names no folder")
def test_find_complete_cases_when_the_archive_is_real_then_finds_the_ten_known_ones():
    archive = Path(os.environ["IDC_REAL_DATA"]) / "idc_patches.zip"
    patches = list_members([archive]).members
    known = ["8865", "8913", "8914", "8951", "8955", "8980", "9022", "9023", "9083", "9124"]
    assert find_complete_cases(*(patches[name].to_numpy() for name in ("case", "x", "y"))) == known


def test_dice_when_areas_overlap_then_is_the_f1_of_idc():
    assert dice(Y_TRUE, Y_PRED) == 2 * 2 / (3 + 4)
    assert dice(Y_TRUE, Y_PRED) == pytest.approx(f1_idc(Y_TRUE, Y_PRED))


def test_dice_when_nothing_is_idc_or_called_so_then_is_undefined():
    assert dice(np.zeros(3), np.zeros(3)) is None
    assert dice(np.zeros(3), np.array([0, 1, 0])) == 0.0


def test_measure_dice_when_some_cases_are_complete_then_gives_each_kind_of_decision():
    context = np.array([0, 1, 0, 0, 1, 0, 0])
    found = measure_dice(CASE, Y_TRUE, {"patch": Y_PRED, "context": context}, ["a", "b"])
    assert found[["case", "num_patches", "burden"]].to_numpy().tolist() == [
        ["a", 4, 0.5],
        ["b", 2, 0.0],
    ]
    assert found["dice_patch"].tolist() == [0.5, 0.0]
    assert found["dice_context"].iloc[0] == 1.0
    assert found["dice_context"].isna().tolist() == [False, True]


def test_measure_dice_when_no_case_is_complete_then_is_an_empty_table():
    found = measure_dice(CASE, Y_TRUE, {"patch": Y_PRED}, [])
    assert found.columns.tolist() == ["case", "num_patches", "burden", "dice_patch"]
    assert found.empty


def test_slide_map_when_laid_back_then_rows_are_y_and_gaps_are_nan():
    patches = pd.DataFrame({"case": "a", "x": [151, 51, 101], "y": [1, 1, 101]})
    np.testing.assert_array_equal(
        slide_map(patches, np.array([3, 1, 2])),
        [[1, np.nan, 3], [np.nan] * 3, [np.nan, 2, np.nan]],
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"case": ["a", "b"]}, "of one case, not 2"),
        ({"x": [1, 31]}, "off its grid"),
        ({"x": [1, 1]}, "two patches at one place"),
    ],
)
def test_slide_map_when_patches_do_not_fit_a_grid_then_says_so(change, said):
    patches = pd.DataFrame({"case": ["a", "a"], "x": [1, 51], "y": [1, 1]} | change)
    with pytest.raises(InputError, match=said):
        slide_map(patches, np.zeros(2))


def test_slide_map_when_values_are_missing_then_says_so():
    with pytest.raises(InputError, match="4 patches but 3 values"):
        slide_map(full_grid("a", 2, 2), np.zeros(3))
