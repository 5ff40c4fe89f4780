import numpy as np
import pytest
from scipy import stats

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    CaseSummary,
    Estimate,
    bootstrap_metrics,
    bootstrap_share,
    draw_counts,
    flatten_estimates,
    lay_interval,
    summarise_cases,
)
from idc.evaluation.statistics.metrics import METRICS, compute_metrics
from idc.evaluation.statistics.replicates import CaseDraws, replicate_metrics

THRESHOLD = 0.42


def make_subset(num_patches=400, num_cases=9, decimals=None, seed=0):
    rng = np.random.default_rng(seed)
    number = rng.integers(0, num_cases, num_patches)
    case = np.array([f"{i:05d}" for i in number])
    lean = rng.normal(0, 0.8, num_cases)[number]
    y_true = (rng.random(num_patches) < 1 / (1 + np.exp(1 - lean))).astype(np.int8)
    y_score = 1 / (1 + np.exp(-rng.normal(1.5 * y_true - 1 + 0.3 * lean, 1.0)))
    return y_true, y_score if decimals is None else np.round(y_score, decimals), case


def test_replicates_without_a_class_are_left_out(monkeypatch):
    case = np.repeat(["a", "b", "c"], 4)
    y_true = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0])
    y_score = np.linspace(0.1, 0.9, 12)
    whole = np.array([[1, 1, 1], [0, 2, 1], [1, 2, 0]])
    lacking = np.array([[3, 0, 0], [2, 0, 1]])

    def bootstrap(counts):
        monkeypatch.setattr("idc.evaluation.statistics.bootstrap.draw_counts", lambda *_: counts)
        return bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(5, 0))

    assert bootstrap(np.concatenate([lacking, whole])) == bootstrap(whole)


SCALES = {
    "mcc": (np.arctanh, np.tanh),
    "log_loss": (np.log, np.exp),
    "auroc": (lambda p: np.log(p / (1 - p)), lambda x: 1 / (1 + np.exp(-x))),
}


def test_bootstrap_metrics_when_laid_then_intervals_follow_the_formula():
    y_true, y_score, case = make_subset()
    found = bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(100, 2))
    index = np.unique(case, return_inverse=True)[1]
    counts = draw_counts(9, Bootstrap(100, 2))
    replicates = replicate_metrics(y_true, y_score, THRESHOLD, CaseDraws(index, counts), seed=2)
    point = compute_metrics(y_true, y_score, case, THRESHOLD, seed=2).values
    sizes = np.unique(case, return_counts=True)[1]
    quantile = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    w = sizes / sizes.sum()
    quantile /= np.sqrt(1 - 2 * (w**3).sum() / (w**2).sum() + (w**2).sum())
    assert tuple(found) == METRICS
    for name in METRICS:
        there, back = SCALES.get(name, SCALES["auroc"])
        reach = quantile * np.std(there(replicates[name]), ddof=1)
        assert found[name].value == point[name]
        assert found[name].low == pytest.approx(back(there(point[name]) - reach))
        assert found[name].high == pytest.approx(back(there(point[name]) + reach))


def test_bootstrap_metrics_when_some_are_named_then_equal_those_of_all():
    subset = make_subset()
    names = ("mcc", "auroc")
    few = bootstrap_metrics(*subset, THRESHOLD, Bootstrap(50, 2), names=names)
    full = bootstrap_metrics(*subset, THRESHOLD, Bootstrap(50, 2))
    assert tuple(few) == names
    assert dict(few) == {name: full[name] for name in names}


def test_bootstrap_metrics_when_nothing_is_called_idc_then_ppv_is_absent_with_a_reason():
    found = bootstrap_metrics(*make_subset(), 1.0, Bootstrap(50, 2))
    assert found.undefined == {
        "ppv": "no patch is predicted IDC+",
        "mcc": "all patches are called alike",
    }
    assert "ppv" not in found
    assert "test/ppv" not in flatten_estimates("test", found)
    with pytest.raises(KeyError, match=r"ppv is undefined: no patch is predicted IDC\+"):
        found["ppv"]


def test_bootstrap_metrics_when_replicates_leave_one_undefined_then_passes_over_them(monkeypatch):
    y_true, y_score, case = make_subset()
    first_two = np.isin(case, ["00000", "00001"])
    y_score = np.where(first_two, y_score / 2 + 0.5, y_score * 0.4)
    drawing = np.array([[2, 1, 1, 1, 1, 1, 1, 1, 0], [1, 3, 1, 1, 1, 1, 1, 0, 0]])
    without = np.array([[0, 0, 3, 1, 1, 1, 1, 1, 1]] * 3)

    def bootstrap(counts):
        monkeypatch.setattr("idc.evaluation.statistics.bootstrap.draw_counts", lambda *_: counts)
        return bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(5, 0))

    whole, mixed = bootstrap(drawing), bootstrap(np.concatenate([without, drawing]))
    assert mixed["ppv"] == whole["ppv"]
    assert mixed["npv"] != whole["npv"]
    rare = bootstrap(np.concatenate([without, drawing[:1]]))
    assert rare.undefined["ppv"] == "only 1 of 4 replicates define it"


def test_lay_interval_when_log_loss_exceeds_one_then_so_may_its_interval():
    found = lay_interval("log_loss", 1.5, np.array([1.2, 1.5, 1.9]), 2.0, margin=0.01)
    reach = 2.0 * np.std(np.log([1.2, 1.5, 1.9]), ddof=1)
    assert found == Estimate(
        1.5, pytest.approx(1.5 * np.exp(-reach)), pytest.approx(1.5 * np.exp(reach))
    )


def test_same_seed_same_numbers_and_row_order_is_irrelevant():
    subset = make_subset(decimals=2)
    first = bootstrap_metrics(*subset, THRESHOLD, Bootstrap(200, 7))
    assert bootstrap_metrics(*subset, THRESHOLD, Bootstrap(200, 7)) == first
    assert bootstrap_metrics(*subset, THRESHOLD, Bootstrap(200, 8)) != first
    order = np.random.default_rng(0).permutation(len(subset[0]))
    shuffled = bootstrap_metrics(
        *(column[order] for column in subset), THRESHOLD, Bootstrap(200, 7)
    )
    for name in METRICS:
        assert shuffled[name].low == pytest.approx(first[name].low, rel=1e-10)


def test_perfect_and_hopeless_scores_still_give_finite_intervals():
    y_true, _, case = make_subset()
    for y_score in (y_true * 0.9 + 0.05, 0.95 - y_true * 0.9, np.full(y_true.size, 0.5), y_true):
        found = bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(100, 0))
        for name, each in found.items():
            assert (-1 if name == "mcc" else 0) <= each.low <= each.value <= each.high
            assert each.high <= (np.inf if name == "log_loss" else 1)


def test_few_cases_are_refused_or_widen_the_interval():
    y_true, y_score, case = make_subset(num_cases=2)
    with pytest.raises(InputError, match=r"2 case\(s\).*at least 3"):
        bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(100, 0))
    # one giant case: fewer than two effective cases, held at one degree of freedom
    giant = np.array(["a"] * 396 + ["b", "b", "c", "c"])
    found = bootstrap_metrics(y_true, y_score, giant, THRESHOLD, Bootstrap(100, 0))
    assert all(np.isfinite([each.low, each.high]).all() for each in found.values())


def test_too_few_usable_replicates_are_named():
    y_true, y_score, case = make_subset()
    with pytest.raises(InputError, match="1 of 1 replicates hold both"):
        bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(1, 0))


def test_cases_are_summarised():
    found = summarise_cases(np.array([1, 0, 0, 1, 1]), np.array(["a", "a", "a", "b", "c"]))
    assert found == CaseSummary(
        5, 3, 0.6, 3, pytest.approx(25 / 11), 0.6, pytest.approx(_factor(0.6, 0.2, 0.2))
    )
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
        found = bootstrap_metrics(
            y_true, y_score, case, 0.5, Bootstrap(100, seed), names=("auroc",)
        )
        hits += found["auroc"].low <= 0.5 <= found["auroc"].high
    assert 0.90 <= hits / 100 <= 1.0


def test_bootstrap_share_when_cases_differ_then_the_interval_equals_that_of_specificity():
    y_true, y_score, case = make_subset()
    negative = y_true == 0
    share = bootstrap_share((y_score < THRESHOLD)[negative], case[negative], Bootstrap(4000, 1))
    whole = bootstrap_metrics(y_true, y_score, case, THRESHOLD, Bootstrap(4000, 1))
    assert share.value == pytest.approx(whole["specificity"].value)
    assert share.low == pytest.approx(whole["specificity"].low, abs=0.02)
    assert share.high == pytest.approx(whole["specificity"].high, abs=0.02)


@pytest.mark.parametrize("mirrored", [False, True])
def test_bootstrap_share_when_all_shares_are_near_a_bound_then_the_interval_has_two_sides(mirrored):
    case = np.repeat(np.arange(6), 2)
    shares = np.linspace(0.005, 0.02, 12)
    value = 1 - shares if mirrored else shares
    found = bootstrap_share(value, case, Bootstrap(200, 1))
    assert found.value == pytest.approx(value.mean())
    # twelve patches: half a patch is .04, farther from the bound than any share
    low, high = (1 - found.high, 1 - found.low) if mirrored else (found.low, found.high)
    assert 0.005 < low < shares.mean() - 0.002
    assert shares.mean() + 0.002 < high < 0.025


def test_bootstrap_share_when_there_are_two_cases_then_refuses():
    with pytest.raises(InputError, match="needs at least 3"):
        bootstrap_share(np.array([True, False]), np.array(["a", "b"]), Bootstrap(10, 1))


def test_standard_error_factor_when_cases_are_unequal_then_the_bootstrap_is_unbiased_with_it():
    """Means of cases of known spread: the corrected squared error is the true one on average."""
    sizes = np.array([60, 20, 10, 5, 5])
    case, w = np.repeat(np.arange(5), sizes), sizes / sizes.sum()
    factor = summarise_cases(np.zeros(100), case).standard_error_factor
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(20_000, 5))
    estimates = effects @ w
    # the linearised bootstrap variance of a weighted mean
    found = ((effects - estimates[:, None]) ** 2 @ w**2).mean() * factor**2
    assert found == pytest.approx(np.var(estimates), rel=0.03)


def test_standard_error_factor_when_cases_are_equal_then_is_that_of_a_sample():
    case = np.repeat(np.arange(8), 10)
    factor = summarise_cases(np.zeros(80), case).standard_error_factor
    assert factor == pytest.approx(np.sqrt(8 / 7))


def _factor(*shares):
    w = np.array(shares)
    return (1 - 2 * (w**3).sum() / (w**2).sum() + (w**2).sum()) ** -0.5
