"""The calibrated burden, and whether a case has any IDC+ patch."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from idc.core.errors import InputError
from idc.evaluation.cases.any_idc import measure_any_idc, score_any_idc
from idc.evaluation.cases.burden import Absent, compare_burden, measure_burden
from idc.evaluation.cases.calibrated_burden import BurdenLine, fit_burden
from idc.evaluation.statistics.bootstrap import Bootstrap


def draw_cases(num_cases, seed, *, shrink=1.0, shift=0.0):
    """Cases whose burden is right on average at log-odds that a score shrinks and shifts."""
    rng = np.random.default_rng(seed)
    fair = rng.normal(-0.8, 1.2, num_cases)
    burden = rng.binomial(60, expit(fair + rng.normal(0, 0.3, num_cases))) / 60
    mean_score = expit(shrink * fair + shift)
    errors = {"score_error": mean_score - burden, "called_error": 0.0}
    return pd.DataFrame({"burden": burden, "mean_score": mean_score, **errors})


def test_fit_burden_when_burdens_lie_on_a_line_then_finds_it():
    mean_score = np.linspace(0.1, 0.9, 12)
    cases = pd.DataFrame({"mean_score": mean_score, "burden": expit(1.5 * logit(mean_score) - 0.4)})
    line = fit_burden(cases)
    assert (line.slope, line.intercept) == pytest.approx((1.5, -0.4), abs=1e-4)
    assert (line.num_cases, line.reason) == (12, "")
    found = line.add_to(cases)
    np.testing.assert_allclose(found["calibrated"], cases["burden"], atol=1e-4)
    np.testing.assert_allclose(found["calibrated_error"], 0, atol=1e-4)


def test_apply_when_the_line_is_known_then_the_odds_are_raised_and_multiplied():
    # odds 1/4 and 1 to the power of 2, times 4: odds 1/4 and 4
    line = BurdenLine(slope=2.0, intercept=np.log(4), num_cases=12, reason="")
    np.testing.assert_allclose(line.apply(np.array([0.2, 0.5])), [0.2, 0.8])


def test_fit_burden_when_scores_are_shrunk_then_calibration_lowers_the_error_on_other_cases():
    shrunk = {"shrink": 0.4, "shift": 0.5}
    test = fit_burden(draw_cases(40, 1, **shrunk)).add_to(draw_cases(200, 2, **shrunk))
    errors = compare_burden(test, 0.35, Bootstrap(500, 0))
    assert errors["mae_calibrated_minus_score"].high < -0.05
    assert errors["mae_calibrated_difference"].high < 0


def test_fit_burden_when_scores_are_fair_then_calibration_changes_little():
    test = fit_burden(draw_cases(200, 3)).add_to(draw_cases(200, 4))
    assert abs(compare_burden(test, 0.35, Bootstrap(50, 0))["mae_calibrated_minus_score"].value) < (
        0.005
    )


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (draw_cases(9, 0), "9 val cases: a line needs 10 or more"),
        (draw_cases(40, 0).assign(mean_score=0.3), "does not rise with the mean score"),
        (draw_cases(40, 0).assign(burden=0.3), "does not rise with the mean score"),
        (draw_cases(40, 0, shrink=-1.0), "does not rise with the mean score"),
    ],
)
def test_fit_burden_when_a_line_means_nothing_then_the_score_stays_and_the_reason_is_said(
    cases, said
):
    line = fit_burden(cases)
    assert said in line.reason
    np.testing.assert_array_equal(line.apply(np.array([0.0, 0.37, 1.0])), [0.0, 0.37, 1.0])


def test_fit_burden_when_cases_are_all_or_nothing_then_the_line_is_finite():
    burden = np.repeat([0.0, 1.0], 8)
    line = fit_burden(pd.DataFrame({"mean_score": 0.2 + 0.6 * burden, "burden": burden}))
    assert np.isfinite([line.slope, line.intercept]).all()
    np.testing.assert_allclose(line.apply(np.array([0.2, 0.8])), [0, 1], atol=0.01)


def test_compare_burden_when_calibrated_then_each_difference_is_of_plain_means():
    cases = measure_burden(
        np.array(["a", "b", "c"]), np.array([0, 1, 1]), np.array([0, 1, 0]), np.full(3, 0.5)
    )
    line = BurdenLine(slope=1.0, intercept=np.log(4), num_cases=12, reason="")  # .5 becomes .8
    values = {
        name: figure.value
        for name, figure in compare_burden(line.add_to(cases), 0.6, Bootstrap(50, 0)).items()
    }
    assert values == pytest.approx(
        {
            "mae_score": 0.5,
            "mae_calibrated": (0.8 + 0.2 + 0.2) / 3,
            "mae_called": 1 / 3,
            "mae_constant": (0.6 + 0.4 + 0.4) / 3,
            "mae_score_difference": 0.5 - 1.4 / 3,
            "mae_calibrated_difference": -0.2 / 3,
            "mae_called_difference": -0.4 / 3,
            "mae_calibrated_minus_score": -0.1,
        }
    )


def test_score_any_idc_when_cases_differ_in_size_then_is_the_mean_of_up_to_three_scores():
    case = np.array(["b", "a", "a", "a", "a", "b"])
    found = score_any_idc(case, np.array([0.2, 0.1, 0.9, 0.6, 0.3, 0.4]))
    assert found.index.tolist() == ["a", "b"]
    np.testing.assert_allclose(found, [0.6, 0.3])


def few_and_many(num_without, num_with=8):
    """Cases of four patches; one IDC+ patch scores high, all other patches low but one."""
    num_cases = num_without + num_with
    case, patch = np.divmod(np.arange(4 * num_cases), 4)
    y_true = (case >= num_without) & (patch == 0)
    y_score = np.where(y_true, 0.9, 0.1) + 0.001 * patch
    y_score[0] = 0.95  # a false alarm above all
    return case, y_true.astype(int), y_score


def test_measure_any_idc_when_one_case_without_scores_highest_then_auroc_counts_its_pairs():
    found = measure_any_idc(*few_and_many(5), Bootstrap(200, 0), min_idc_patches=1)
    assert (found.num_cases, found.num_without) == (13, 5)
    assert found.auroc.value == pytest.approx(4 / 5)
    assert 0.1 < found.auroc.low < 0.5 < 0.9 < found.auroc.high < 1
    assert found.auroc_of_size.value == 0.5, "all cases are of one size"


@pytest.mark.parametrize(
    ("num_without", "num_with", "least", "said"),
    [
        (4, 8, 1, "4 without IDC: an AUROC needs 5 or more of each"),
        (8, 4, 1, "4 with IDC: an AUROC needs 5 or more of each"),
        (0, 8, 1, "0 without IDC"),
        (8, 8, 2, "0 with IDC"),
    ],
)
def test_measure_any_idc_when_a_kind_of_case_is_rare_then_it_is_absent_with_a_reason(
    num_without, num_with, least, said
):
    cases = few_and_many(num_without, num_with)
    found = measure_any_idc(*cases, Bootstrap(50, 0), min_idc_patches=least)
    for figure in (found.auroc, found.auroc_of_size):
        assert isinstance(figure, Absent)
        assert said in figure.reason


def test_score_any_idc_when_a_score_is_missing_then_says_so():
    with pytest.raises(InputError, match="3 case ids but 2 scores"):
        score_any_idc(np.array(["a", "a", "b"]), np.array([0.1, 0.2]))
