import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from idc.core.errors import InputError
from idc.evaluation.statistics.metrics import (
    MAX_PATCHES_PER_CASE,
    METRICS,
    PRIMARY,
    auroc,
    auroc_capped,
    bin_scores,
    cap_cases,
    case_macro_auroc,
    compute_metrics,
    ece,
)


@pytest.fixture
def scored():
    rng = np.random.default_rng(3)
    y_true = (rng.random(500) < 0.3).astype(np.int8)
    y_score = np.round(np.clip(rng.normal(0.35 + 0.2 * y_true, 0.2), 0, 1), 2)
    return y_true, y_score


def test_compute_metrics_when_all_are_defined_then_follow_their_definitions(scored):
    y_true, y_score = scored
    y_pred = y_score >= 0.4
    case = np.arange(500) % 7
    measured = compute_metrics(y_true, y_score, case, 0.4, seed=0)
    found = measured.values
    tn, fp, fn, tp = sk.confusion_matrix(y_true, y_pred).ravel()
    assert tuple(found) == METRICS
    assert measured.undefined == {}
    assert set(PRIMARY) <= set(METRICS)
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["ppv"] == pytest.approx(tp / (tp + fp))
    assert found["npv"] == pytest.approx(tn / (tn + fn))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))
    assert found["f1_idc"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    f1_other = 2 * tn / (2 * tn + fp + fn)
    assert found["f1_weighted"] == pytest.approx(
        ((tp + fn) * found["f1_idc"] + (tn + fp) * f1_other) / 500
    )
    assert found["mcc"] == pytest.approx(np.corrcoef(y_true, y_pred)[0, 1])
    assert found["brier"] == pytest.approx(np.mean((y_score - y_true) ** 2))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y_true, y_score))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(y_true, y_score))
    assert found["case_macro_auroc"] == pytest.approx(
        np.mean([sk.roc_auc_score(y_true[case == i], y_score[case == i]) for i in range(7)])
    )
    # no case is above the cap
    assert found["auroc_capped"] == pytest.approx(found["auroc"])


def test_ece_when_there_are_no_ties_then_equals_that_of_scikit_learns_quantile_bins():
    rng = np.random.default_rng(1)
    y_score = rng.random(15 * 40)
    y_true = (rng.random(600) < y_score**2).astype(np.int8)
    share, mean_score = calibration_curve(y_true, y_score, n_bins=15, strategy="quantile")
    # bins of equal mass
    assert ece(y_true, y_score) == pytest.approx(np.mean(np.abs(share - mean_score)))


def test_bin_scores_when_scores_are_distinct_then_sizes_differ_by_one_at_most():
    sizes = np.bincount(bin_scores(np.random.default_rng(0).random(1003)))
    assert len(sizes) == 15
    assert set(sizes) == {66, 67}


@pytest.mark.parametrize(
    ("y_score", "bins"),
    [
        ([0.3] * 40, [0] * 40),
        ([0.0] * 20 + [1.0] * 10, [0] * 20 + [1] * 10),
        # with as few scores as these every score has a bin of its own
        ([0.2, 0.1, 0.2, 0.7], [1, 0, 1, 2]),
    ],
)
def test_bin_scores_when_scores_tie_then_keeps_them_together(y_score, bins):
    assert bin_scores(np.array(y_score)).tolist() == bins


def test_log_loss_when_a_score_is_wrong_and_certain_then_is_finite_as_in_scikit_learn():
    y_true, y_score = np.array([0, 1, 1]), np.array([0.0, 0.0, 1.0])
    found = compute_metrics(y_true, y_score, np.arange(3), 0.5, seed=0, names=("log_loss",))
    assert found.values == {"log_loss": pytest.approx(sk.log_loss(y_true, y_score))}


def test_cap_cases_when_a_case_is_large_then_draws_as_many_of_it_as_the_cap_allows():
    rng = np.random.default_rng(0)
    case = np.array(["b"] * 1000 + ["a"] * 30 + ["c"] * MAX_PATCHES_PER_CASE)
    y_true, y_score = rng.integers(0, 2, len(case)), rng.random(len(case))
    rows = cap_cases(y_true, y_score, case, seed=3)
    assert len(np.unique(rows)) == len(rows)
    names, sizes = np.unique(case[rows], return_counts=True)
    assert dict(zip(names, sizes, strict=True)) == {"a": 30, "b": 160, "c": 160}
    # over the whole of the case, not the lowest scores only
    assert abs(y_score[rows][case[rows] == "b"].mean() - y_score[:1000].mean()) < 0.08
    assert set(rows) != set(cap_cases(y_true, y_score, case, seed=4))


def test_auroc_capped_when_rows_are_shuffled_then_stays_the_same():
    rng = np.random.default_rng(0)
    case, y_true = np.repeat([3, 5], 400), np.tile([0, 1, 0], 267)[:800]
    y_score = np.round(rng.random(800), 2)
    order = rng.permutation(800)
    first = auroc_capped(y_true, y_score, case, seed=1)
    assert auroc_capped(y_true[order], y_score[order], case[order], seed=1) == first
    assert first != auroc(y_true, y_score)


def test_case_macro_auroc_when_cases_differ_in_size_then_each_counts_once():
    case = np.array([0, 0, 1, 1, 1, 1, 2, 2, 3, 3])
    y_true = np.array([0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    y_score = np.array([0.1, 0.2, 0.6, 0.2, 0.3, 0.9, 0.8, 0.3, 0.5, 0.6])
    assert case_macro_auroc(y_true, y_score, case) == pytest.approx((1 + 0.75 + 0) / 3)


def test_auroc_is_the_mann_whitney_statistic(scored):
    y_true, y_score = scored
    pairs = stats.mannwhitneyu(y_score[y_true == 1], y_score[y_true == 0]).statistic
    expected = pairs / ((y_true == 1).sum() * (y_true == 0).sum())
    assert auroc(y_true, y_score) == pytest.approx(expected)
    assert auroc(y_true, 10 * y_score - 3) == pytest.approx(expected)


def test_compute_metrics_when_a_score_is_at_the_threshold_then_it_is_called_idc():
    y_score = np.array([0.1, 0.3], dtype=np.float32)
    found = compute_metrics(
        np.array([0, 1]), y_score, np.arange(2), float(y_score[1]), seed=0
    ).values
    assert found["sensitivity"] == found["specificity"] == 1.0


@pytest.mark.parametrize(
    ("threshold", "lacking", "reason"),
    [(0.9, "ppv", "no patch is predicted IDC+"), (0.1, "npv", "no patch is predicted IDC-")],
)
def test_compute_metrics_when_all_are_called_alike_then_leaves_out_what_is_undefined(
    threshold, lacking, reason
):
    found = compute_metrics(
        np.array([0, 1, 1]), np.array([0.2, 0.3, 0.4]), np.arange(3), threshold, seed=0
    )
    assert found.undefined == {
        lacking: reason,
        "mcc": "all patches are called alike",
        "case_macro_auroc": "0 cases hold both classes, at least 3 are needed",
    }
    assert set(found.values) == set(METRICS) - set(found.undefined)


def test_compute_metrics_when_the_cap_leaves_one_class_then_says_so():
    y_true = np.zeros(50_000, np.int8)
    y_true[0] = 1
    found = compute_metrics(
        y_true, np.linspace(0, 1, 50_000), np.zeros(50_000), 0.5, seed=0, names=("auroc_capped",)
    )
    assert found.values == {}
    assert "160 patches drawn" in found.undefined["auroc_capped"]


@pytest.mark.parametrize(
    ("y_true", "y_score", "message"),
    [
        ([], [], "no patches"),
        ([1, 1], [0.2, 0.3], r"all 2 patches are IDC\+"),
        ([0, 0], [0.2, 0.3], "all 2 patches are IDC-"),
        ([0, 1], [0.2, np.nan], "1 of 2 scores are NaN"),
        ([0, 1], [0.2, 1.5], "scores run from 0.2 to 1.5"),
        ([0, 1], [0.2], "2 labels but 1 scores"),
    ],
)
def test_wrong_input_is_named(y_true, y_score, message):
    with pytest.raises(InputError, match=message):
        compute_metrics(np.array(y_true), np.array(y_score), np.arange(len(y_true)), 0.5, seed=0)
