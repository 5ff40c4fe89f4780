import numpy as np
import pandas as pd
import pytest
from scipy import stats

from idc.core.errors import InputError
from idc.evaluation.compare import compare_scorings
from idc.evaluation.statistics.bootstrap import Bootstrap, draw_counts
from idc.evaluation.statistics.metrics import auroc, balanced_accuracy

NUM_CASES = 8


def make_scoring(strength, threshold=0.3, num_patches=300):
    """Labels and places are always the same; the scores depend on the strength."""
    rng = np.random.default_rng(0)
    number = rng.integers(0, NUM_CASES, num_patches)
    y_true = (rng.random(num_patches) < 0.3 + 0.05 * number).astype(np.int8)
    noise = rng.normal(size=num_patches) + 0.4 * rng.normal(size=NUM_CASES)[number]
    y_score = strength * y_true + noise + 0.1 * rng.normal(size=num_patches) * strength
    return pd.DataFrame(
        {
            "case": [f"c{n}" for n in number],
            "x": 50 * np.arange(num_patches) + 1,
            "y": 1,
            "y_true": y_true,
            "y_score": y_score,
            "y_pred": (y_score >= threshold).astype(np.int8),
        }
    )


def compare(first, second):
    return compare_scorings(first, second, Bootstrap(60, 3))


def resampled(table, counts):
    cases = sorted(table["case"].unique())
    drawn = [
        table[table["case"] == c] for c, n in zip(cases, counts, strict=True) for _ in range(n)
    ]
    return pd.concat(drawn)


def test_compare_scorings_when_compared_with_a_slow_loop_then_value_and_interval_are_the_same():
    first, second = make_scoring(0.8), make_scoring(1.6, threshold=0.5)
    found = compare(first, second)
    metrics = {"auroc": (auroc, "y_score"), "balanced_accuracy": (balanced_accuracy, "y_pred")}
    sizes = first["case"].value_counts().to_numpy()
    quantile = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    w = sizes / sizes.sum()
    quantile /= np.sqrt(1 - 2 * (w**3).sum() / (w**2).sum() + (w**2).sum())
    assert found.keys() == metrics.keys()
    for name, (metric, column) in metrics.items():

        def difference(a, b, metric=metric, column=column):
            return metric(b["y_true"], b[column]) - metric(a["y_true"], a[column])

        slow = [
            difference(resampled(first, counts), resampled(second, counts))
            for counts in draw_counts(NUM_CASES, Bootstrap(60, 3))
        ]
        value, reach = difference(first, second), quantile * np.std(slow, ddof=1)
        assert found[name].value == pytest.approx(value, abs=1e-12)
        assert found[name].low == pytest.approx(value - reach, abs=1e-10)
        assert found[name].high == pytest.approx(value + reach, abs=1e-10)


def test_compare_scorings_when_they_are_the_same_then_every_difference_is_exactly_zero():
    scoring = make_scoring(1.0)
    for estimate in compare(scoring, scoring).values():
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_compare_scorings_when_swapped_then_the_sign_changes_and_nothing_else():
    first, second = make_scoring(0.8), make_scoring(1.6)
    there, back = compare(first, second), compare(second, first)
    for name, estimate in there.items():
        assert back[name].value == pytest.approx(-estimate.value)
        assert back[name].low == pytest.approx(-estimate.high)


def test_compare_scorings_when_rows_are_shuffled_then_they_are_matched_by_place():
    first, second = make_scoring(0.8), make_scoring(1.6)
    shuffled = second.sample(frac=1.0, random_state=1)
    assert compare(first, shuffled) == compare(first, second)


def test_compare_scorings_when_paired_then_the_interval_is_narrower_than_of_unrelated_scorings():
    first = make_scoring(1.0)
    near = first.assign(y_score=first["y_score"] + 0.05 * first["y_true"])
    unrelated = first.assign(y_score=np.random.default_rng(5).normal(first["y_true"], 1.0))
    paired, loose = compare(first, near)["auroc"], compare(first, unrelated)["auroc"]
    assert paired.high - paired.low < 0.3 * (loose.high - loose.low)


def test_compare_scorings_when_one_has_no_decisions_then_compares_the_ranking_alone():
    raw = make_scoring(1.0).drop(columns="y_pred")
    raw["y_score"] *= 1000  # no probability, and need not be one
    assert list(compare(raw, make_scoring(1.6))) == ["auroc"]


def test_compare_scorings_when_patches_differ_then_says_how_many():
    scoring = make_scoring(1.0)
    with pytest.raises(InputError, match="3 are in the first only, 0 in the second only"):
        compare(scoring, scoring.iloc[3:])


def test_compare_scorings_when_a_patch_comes_twice_then_names_it():
    scoring = make_scoring(1.0)
    twice = pd.concat([scoring, scoring.iloc[[7]]])
    with pytest.raises(InputError, match=rf"second scoring holds c\d x{50 * 7 + 1} y1 twice"):
        compare(scoring, twice)


def test_compare_scorings_when_labels_differ_then_names_the_first():
    scoring = make_scoring(1.0)
    other = scoring.assign(
        y_true=scoring["y_true"].where(scoring.index != 7, 1 - scoring["y_true"])
    )
    with pytest.raises(InputError, match=rf"label of 1 patches, the first at c\d x{50 * 7 + 1} y1"):
        compare(scoring, other)


def test_compare_scorings_when_there_are_two_cases_then_refuses():
    scoring = make_scoring(1.0)
    few = scoring[scoring["case"].isin(["c0", "c1"])]
    with pytest.raises(InputError, match="needs at least 3"):
        compare(few, few)
