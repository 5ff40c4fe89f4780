import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from idc.errors import InputError
from idc.evaluation.metrics import auroc, compute_metrics

METRIC_NAMES = (
    "auroc",
    "auprc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1_idc",
    "mcc",
    "brier",
)


@pytest.fixture
def scored():
    rng = np.random.default_rng(3)
    y_true = (rng.random(500) < 0.3).astype(np.int8)
    y_score = np.round(np.clip(rng.normal(0.35 + 0.2 * y_true, 0.2), 0, 1), 2)
    return y_true, y_score


def test_metrics_follow_their_definitions(scored):
    y_true, y_score = scored
    found = compute_metrics(y_true, y_score, 0.4)
    tn, fp, fn, tp = sk.confusion_matrix(y_true, y_score >= 0.4).ravel()
    assert tuple(found) == METRIC_NAMES
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(y_true, y_score >= 0.4)
    )
    assert found["f1_idc"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["mcc"] == pytest.approx(np.corrcoef(y_true, y_score >= 0.4)[0, 1])
    assert found["brier"] == pytest.approx(np.mean((y_score - y_true) ** 2))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(y_true, y_score))


def test_auroc_is_the_mann_whitney_statistic(scored):
    y_true, y_score = scored
    pairs = stats.mannwhitneyu(y_score[y_true == 1], y_score[y_true == 0]).statistic
    expected = pairs / ((y_true == 1).sum() * (y_true == 0).sum())
    assert auroc(y_true, y_score) == pytest.approx(expected)
    assert auroc(y_true, 10 * y_score - 3) == pytest.approx(expected)


def test_a_score_at_the_threshold_is_called_idc():
    y_score = np.array([0.1, 0.3], dtype=np.float32)
    found = compute_metrics(np.array([0, 1]), y_score, float(y_score[1]))
    assert found["sensitivity"] == found["specificity"] == 1.0


def test_all_called_alike_gives_mcc_zero():
    assert compute_metrics(np.array([0, 1, 1]), np.array([0.2, 0.3, 0.4]), 0.9)["mcc"] == 0.0


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
        compute_metrics(np.array(y_true), np.array(y_score), 0.5)
