"""Every replicate against scikit-learn on the patches it stands for, really copied."""

import numpy as np
import pytest
from sklearn import metrics as sk

from idc.evaluation.statistics.bootstrap import Bootstrap, draw_counts
from idc.evaluation.statistics.metrics import METRICS, bin_scores, cap_cases
from idc.evaluation.statistics.replicates import CaseDraws, map_rows, replicate_metrics

THRESHOLD = 0.42
NUM_CASES = 9
SEED = 5


def make_subset(decimals=None, num_patches=400, seed=0):
    rng = np.random.default_rng(seed)
    case_index = rng.integers(0, NUM_CASES, num_patches)
    lean = rng.normal(0, 0.8, NUM_CASES)[case_index]
    y_true = (rng.random(num_patches) < 1 / (1 + np.exp(1 - lean))).astype(np.int8)
    y_score = 1 / (1 + np.exp(-rng.normal(1.5 * y_true - 1 + 0.3 * lean, 1.0)))
    return y_true, y_score if decimals is None else np.round(y_score, decimals), case_index


def resample(case_index, row):
    return np.concatenate(
        [np.flatnonzero(case_index == i) for i, count in enumerate(row) for _ in range(count)]
    )


def ece_in_bins(y_true, y_score, bins):
    """Weighted differences, bin by bin."""
    return sum(
        (bins == number).mean() * abs((y_score - y_true)[bins == number].mean())
        for number in np.unique(bins)
    )


def measure(y_true, y_score, case_index, row):
    rows = resample(case_index, row)
    labels, scores = y_true[rows], y_score[rows]
    calls = (scores >= THRESHOLD).astype(int)
    capped = cap_cases(y_true, y_score, case_index, seed=SEED)
    kept = capped[resample(case_index[capped], row)]
    both = [i for i in range(NUM_CASES) if len(np.unique(y_true[case_index == i])) == 2]
    of_cases = [
        sk.roc_auc_score(y_true[case_index == i], y_score[case_index == i])
        for i in both
        for _ in range(row[i])
    ]
    called = np.unique(calls)
    return {
        "auroc": sk.roc_auc_score(labels, scores),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, calls),
        "auprc": sk.average_precision_score(labels, scores),
        "sensitivity": sk.recall_score(labels, calls),
        "specificity": sk.recall_score(labels, calls, pos_label=0),
        "ppv": sk.precision_score(labels, calls) if 1 in called else np.nan,
        "npv": sk.precision_score(labels, calls, pos_label=0) if 0 in called else np.nan,
        "f1_idc": sk.f1_score(labels, calls),
        "f1_weighted": sk.f1_score(labels, calls, average="weighted"),
        "mcc": sk.matthews_corrcoef(labels, calls) if len(called) == 2 else np.nan,
        "brier": sk.brier_score_loss(labels, scores),
        "log_loss": sk.log_loss(labels, scores),
        "ece": ece_in_bins(labels, scores, bin_scores(y_score)[rows]),
        "case_macro_auroc": np.mean(of_cases) if of_cases else np.nan,
        "auroc_capped": sk.roc_auc_score(y_true[kept], y_score[kept]),
    }


def assert_equals_resampled(subset, counts):
    y_true, y_score, case_index = subset
    fast = replicate_metrics(y_true, y_score, THRESHOLD, CaseDraws(case_index, counts), seed=SEED)
    slow = [measure(*subset, row) for row in counts]
    assert tuple(fast) == METRICS
    for name in METRICS:
        np.testing.assert_allclose(
            fast[name], [each[name] for each in slow], rtol=1e-10, atol=1e-13, err_msg=name
        )


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_replicate_metrics_when_patches_are_resampled_then_equal_scikit_learn(decimals):
    assert_equals_resampled(make_subset(decimals), draw_counts(NUM_CASES, Bootstrap(10, 5)))


def test_replicate_metrics_when_cases_exceed_the_cap_then_equal_scikit_learn():
    subset = make_subset(num_patches=2500)
    assert np.bincount(subset[2]).max() > 160
    assert_equals_resampled(subset, draw_counts(NUM_CASES, Bootstrap(8, 6)))


def test_replicate_metrics_when_a_replicate_calls_all_alike_then_marks_what_is_undefined():
    y_true, y_score, case_index = make_subset()
    y_score = np.where(case_index == 0, y_score / 2 + 0.5, y_score * 0.4)
    counts = np.zeros((2, NUM_CASES), np.int64)
    counts[0, 1:], counts[1, 0] = 1, 8
    assert_equals_resampled((y_true, y_score, case_index), counts)
    found = replicate_metrics(y_true, y_score, THRESHOLD, CaseDraws(case_index, counts), seed=SEED)
    assert np.isnan(found["ppv"]).tolist() == [True, False]
    assert np.isnan(found["npv"]).tolist() == [False, True]
    assert np.isnan(found["mcc"]).all()


def test_replicate_metrics_when_scores_are_logits_then_ranks_them_alike():
    y_true, y_score, case_index = make_subset()
    draws = CaseDraws(case_index, draw_counts(NUM_CASES, Bootstrap(20, 1)))
    names = ("auroc", "auprc", "case_macro_auroc", "auroc_capped")
    logits = np.log(y_score / (1 - y_score))
    first, second = (
        replicate_metrics(y_true, each, 0.5, draws, seed=SEED, names=names)
        for each in (y_score, logits)
    )
    for name in names:
        np.testing.assert_allclose(first[name], second[name])


def test_map_rows_when_there_are_many_rows_then_keeps_their_order():
    counts = np.arange(101)[:, np.newaxis]
    np.testing.assert_array_equal(map_rows(lambda row: float(row[0]), counts), np.arange(101))
