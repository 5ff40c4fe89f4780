import time

import numpy as np
import pytest
from scipy import stats

from idc.errors import InputError
from idc.evaluation.bootstrap import (
    CaseSummary,
    Estimate,
    bootstrap_metrics,
    bootstrap_share,
    draw_counts,
    flatten_estimates,
    replicate_metrics,
    summarise_cases,
)
from idc.evaluation.metrics import compute_metrics

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
THRESHOLD = 0.42


def make_side(num_patches=400, num_cases=9, decimals=None, seed=0):
    rng = np.random.default_rng(seed)
    number = rng.integers(0, num_cases, num_patches)
    case = np.array([f"{i:05d}" for i in number])
    lean = rng.normal(0, 0.8, num_cases)[number]
    y_true = (rng.random(num_patches) < 1 / (1 + np.exp(1 - lean))).astype(np.int8)
    y_score = 1 / (1 + np.exp(-rng.normal(1.5 * y_true - 1 + 0.3 * lean, 1.0)))
    return y_true, y_score if decimals is None else np.round(y_score, decimals), case


def resample(case, names, counts):
    return np.concatenate(
        [
            np.flatnonzero(case == name)
            for name, n in zip(names, counts, strict=True)
            for _ in range(n)
        ]
    )


def replicate(y_true, y_score, case, counts):
    index = np.unique(case, return_inverse=True)[1]
    return replicate_metrics(y_true, y_score, index, THRESHOLD, counts)


def brute_force(y_true, y_score, case, counts):
    names, found = np.unique(case), []
    for row in counts:
        rows = resample(case, names, row)
        if len(np.unique(y_true[rows])) == 2:
            found.append(compute_metrics(y_true[rows], y_score[rows], THRESHOLD))
    return {name: np.array([each[name] for each in found]) for name in METRIC_NAMES}


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_replicates_equal_resampled_patches(decimals):
    side = make_side(decimals=decimals)
    counts = draw_counts(9, 40, seed=5)
    fast = replicate(*side, counts)
    slow = brute_force(*side, counts)
    assert fast.keys() == slow.keys()
    for name in METRIC_NAMES:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-11, atol=1e-13, err_msg=name)


def test_replicates_without_a_class_are_left_out(monkeypatch):
    case = np.repeat(["a", "b", "c"], 4)
    y_true = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0])
    y_score = np.linspace(0.1, 0.9, 12)
    whole = np.array([[1, 1, 1], [0, 2, 1], [1, 2, 0]])
    lacking = np.array([[3, 0, 0], [2, 0, 1]])

    def bootstrap(counts):
        monkeypatch.setattr("idc.evaluation.bootstrap.draw_counts", lambda *_: counts)
        return bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=5, seed=0)

    assert bootstrap(np.concatenate([lacking, whole])) == bootstrap(whole)


def test_intervals_follow_the_formula():
    y_true, y_score, case = make_side()
    found = bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=100, seed=2)
    slow = brute_force(y_true, y_score, case, draw_counts(9, 100, seed=2))
    point = compute_metrics(y_true, y_score, THRESHOLD)
    sizes = np.unique(case, return_counts=True)[1]
    quantile = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    for name in METRIC_NAMES:
        there = np.arctanh if name == "mcc" else (lambda p: np.log(p / (1 - p)))
        back = np.tanh if name == "mcc" else (lambda x: 1 / (1 + np.exp(-x)))
        reach = quantile * np.std(there(slow[name]), ddof=1)
        assert found[name].value == point[name]
        assert found[name].low == pytest.approx(back(there(point[name]) - reach))
        assert found[name].high == pytest.approx(back(there(point[name]) + reach))


def test_same_seed_same_numbers_and_row_order_is_irrelevant():
    side = make_side(decimals=2)
    first = bootstrap_metrics(*side, THRESHOLD, num_replicates=200, seed=7)
    assert bootstrap_metrics(*side, THRESHOLD, num_replicates=200, seed=7) == first
    assert bootstrap_metrics(*side, THRESHOLD, num_replicates=200, seed=8) != first
    order = np.random.default_rng(0).permutation(len(side[0]))
    shuffled = bootstrap_metrics(
        *(column[order] for column in side), THRESHOLD, num_replicates=200, seed=7
    )
    for name in METRIC_NAMES:
        assert shuffled[name].low == pytest.approx(first[name].low, rel=1e-10)


def test_perfect_and_hopeless_scores_still_give_finite_intervals():
    y_true, _, case = make_side()
    for y_score in (y_true * 0.9 + 0.05, 0.95 - y_true * 0.9, np.full(y_true.size, 0.5), y_true):
        found = bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=100, seed=0)
        for name, each in found.items():
            assert (-1 if name == "mcc" else 0) <= each.low <= each.value <= each.high <= 1


def test_few_cases_are_refused_or_widen_the_interval():
    y_true, y_score, case = make_side(num_cases=2)
    with pytest.raises(InputError, match=r"2 case\(s\).*at least 3"):
        bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=100, seed=0)
    # one giant case: fewer than two effective cases, held at one degree of freedom
    giant = np.array(["a"] * 396 + ["b", "b", "c", "c"])
    found = bootstrap_metrics(y_true, y_score, giant, THRESHOLD, num_replicates=100, seed=0)
    assert all(np.isfinite([each.low, each.high]).all() for each in found.values())


def test_too_few_usable_replicates_are_named():
    y_true, y_score, case = make_side()
    with pytest.raises(InputError, match="1 of 1 replicates hold both"):
        bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=1, seed=0)


def test_cases_are_summarised():
    found = summarise_cases(np.array([1, 0, 0, 1, 1]), np.array(["a", "a", "a", "b", "c"]))
    assert found == CaseSummary(5, 3, 0.6, 3, pytest.approx(25 / 11), 0.6)
    assert summarise_cases(np.array([0, 0]), np.array([8, 9])).effective_cases == 2.0


def test_estimates_are_flattened():
    assert flatten_estimates("test", {"auroc": Estimate(0.9, 0.8, 0.95)}) == {
        "test/auroc": 0.9,
        "test/auroc_low": 0.8,
        "test/auroc_high": 0.95,
    }


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # 0.5 is the AUROC of scores that ignore the label, whatever the cases
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        case = rng.integers(0, 12, 240)
        y_true = np.arange(240) % 2
        y_score = 1 / (1 + np.exp(-rng.normal(0, 1, 240) - rng.normal(0, 1, 12)[case]))
        found = bootstrap_metrics(y_true, y_score, case, 0.5, num_replicates=100, seed=seed)
        hits += found["auroc"].low <= 0.5 <= found["auroc"].high
    assert 0.90 <= hits / 100 <= 1.0


def test_sixty_thousand_patches_take_seconds():
    side = make_side(num_patches=60_000, num_cases=50)
    start = time.perf_counter()
    bootstrap_metrics(*side, THRESHOLD, num_replicates=2_000, seed=0)
    assert time.perf_counter() - start < 10.0


def test_bootstrap_share_when_cases_differ_then_the_interval_equals_that_of_specificity():
    y_true, y_score, case = make_side()
    negative = y_true == 0
    share = bootstrap_share(
        (y_score < THRESHOLD)[negative], case[negative], num_replicates=4000, seed=1
    )
    whole = bootstrap_metrics(y_true, y_score, case, THRESHOLD, num_replicates=4000, seed=1)
    assert share.value == pytest.approx(whole["specificity"].value)
    assert share.low == pytest.approx(whole["specificity"].low, abs=0.02)
    assert share.high == pytest.approx(whole["specificity"].high, abs=0.02)


def test_bootstrap_share_when_there_are_two_cases_then_refuses():
    with pytest.raises(InputError, match="needs at least 3"):
        bootstrap_share(np.array([True, False]), np.array(["a", "b"]), num_replicates=10, seed=1)
