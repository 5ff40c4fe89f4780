import numpy as np
import pytest
from sklearn import metrics as sk

from idc.evaluation.curves import (
    MAX_POINTS,
    confusion_rows,
    pr_points,
    reliability_points,
    roc_points,
    threshold_points,
)
from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_share
from idc.evaluation.statistics.metrics import ece


def draw_subset(num_patches):
    rng = np.random.default_rng(1)
    y_true = np.arange(num_patches) % 3 == 0
    return y_true.astype(np.int8), 1 / (1 + np.exp(-rng.normal(1.5 * y_true, 1.0)))


@pytest.mark.parametrize("num_patches", [9, 20_000])
def test_roc_keeps_ends_and_area(num_patches):
    y_true, y_score = draw_subset(num_patches)
    points = roc_points(y_true, y_score)
    assert list(points.columns) == ["fpr", "tpr", "threshold"]
    assert len(points) <= MAX_POINTS
    assert points.iloc[0, :2].tolist() == [0.0, 0.0]
    assert (y_score < points["threshold"].iloc[0]).all()
    assert points.iloc[-1, :2].tolist() == [1.0, 1.0]
    assert np.isfinite(points.to_numpy()).all()
    assert (points["threshold"].diff().dropna() <= 0).all()
    area = sk.auc(points["fpr"], points["tpr"])
    assert area == pytest.approx(sk.roc_auc_score(y_true, y_score), abs=1e-3)


@pytest.mark.parametrize("num_patches", [9, 20_000])
def test_pr_keeps_ends_and_is_on_the_curve(num_patches):
    y_true, y_score = draw_subset(num_patches)
    points = pr_points(y_true, y_score)
    assert list(points.columns) == ["recall", "precision", "threshold"]
    assert len(points) <= MAX_POINTS
    assert points.iloc[0, :2].tolist() == [0.0, 1.0]
    assert points.iloc[-1, :2].tolist() == [1.0, pytest.approx(y_true.mean())]
    for row in points.iloc[1::50].itertuples():
        y_pred = y_score >= row.threshold
        assert row.recall == pytest.approx(sk.recall_score(y_true, y_pred))
        assert row.precision == pytest.approx(sk.precision_score(y_true, y_pred))


def test_confusion_rows_name_the_classes():
    rows = confusion_rows([0, 1, 1], [0, 0, 1])
    assert rows["actual"].tolist() == ["IDC-", "IDC+", "IDC+"]
    assert rows["predicted"].tolist() == ["IDC-", "IDC-", "IDC+"]


@pytest.mark.parametrize("num_patches", [9, 20_000])
def test_threshold_points_when_drawn_then_equal_scikit_learn_at_each_threshold(num_patches):
    y_true, y_score = draw_subset(num_patches)
    points = threshold_points(y_true, y_score)
    assert 8 <= len(points) <= MAX_POINTS
    assert np.isfinite(points.to_numpy()).all()
    assert points["threshold"].is_monotonic_increasing
    # at the lowest score itself all patches are predicted IDC+
    assert points["threshold"].iloc[0] == np.unique(y_score)[1]
    assert points["threshold"].iloc[-1] == y_score.max()
    for row in points.iloc[::50].itertuples():
        y_pred = y_score >= row.threshold
        assert row.sensitivity == pytest.approx(sk.recall_score(y_true, y_pred))
        assert row.specificity == pytest.approx(sk.recall_score(y_true, y_pred, pos_label=0))
        assert row.ppv == pytest.approx(sk.precision_score(y_true, y_pred))
        assert row.npv == pytest.approx(sk.precision_score(y_true, y_pred, pos_label=0))
        assert row.f1_idc == pytest.approx(sk.f1_score(y_true, y_pred))
        assert row.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))


def test_threshold_points_when_all_scores_are_equal_then_no_threshold_is_left():
    points = threshold_points(np.array([0, 1]), np.array([0.5, 0.5]))
    assert points.empty
    assert "threshold" in points


def test_reliability_points_when_weighted_by_patches_then_their_gaps_are_the_ece():
    y_true, y_score = draw_subset(3000)
    case = np.arange(3000) % 11
    points = reliability_points(y_true, y_score, case, Bootstrap(100, 0))
    assert len(points) == 15
    assert points["num_patches"].tolist() == [200] * 15
    assert points["num_cases"].tolist() == [11] * 15
    assert points["mean_score"].is_monotonic_increasing
    gaps = (points["mean_score"] - points["idc_share"]).abs()
    assert np.average(gaps, weights=points["num_patches"]) == pytest.approx(ece(y_true, y_score))
    lowest = y_score <= np.sort(y_score)[199]
    expected = bootstrap_share(y_true[lowest] == 1, case[lowest], Bootstrap(100, 0))
    first = points.iloc[0]
    assert (first["idc_share"], first["idc_share_low"], first["idc_share_high"]) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip
    assert expected.low < expected.value < expected.high


def test_reliability_points_when_a_bin_is_of_two_cases_then_it_has_no_interval():
    y_score = np.r_[np.full(40, 0.2), np.full(40, 0.8)]
    y_true = np.arange(80) % 2
    case = np.r_[np.arange(40) % 4, np.arange(40) % 2]
    points = reliability_points(y_true, y_score, case, Bootstrap(100, 0))
    assert points["num_cases"].tolist() == [4, 2]
    assert points["idc_share_low"].isna().tolist() == [False, True]
    assert points["idc_share_high"].isna().tolist() == [False, True]
