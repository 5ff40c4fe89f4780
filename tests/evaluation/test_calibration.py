import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import Bootstrap, draw_counts, summarise_cases, t_quantile
from idc.evaluation.statistics.replicates import CaseDraws
from idc.evaluation.threshold.calibration import (
    bootstrap_threshold,
    choose_threshold,
    fit_calibration,
    prior_shift,
    replicate_thresholds,
)


def draw_subset(slope, intercept, num_patches=3000, seed=0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(1.0, 3.0, num_patches)
    y_true = (rng.random(num_patches) < special.expit(slope * logit + intercept)).astype(np.int8)
    return logit, y_true


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -1.5), (3.0, 2.0)])
def test_fit_equals_unpenalised_logistic_regression(slope, intercept):
    logit, y_true = draw_subset(slope, intercept)
    found = fit_calibration(logit, y_true)
    reference = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(logit[:, None], y_true)
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.intercept == pytest.approx(reference.intercept_[0], rel=1e-3, abs=1e-4)
    assert found.slope == pytest.approx(slope, rel=0.2)
    # the score equations of maximum likelihood
    residual = found.apply(logit) - y_true
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * logit).mean()) < 1e-7


def test_wide_and_shifted_logits_fit_alike():
    logit, y_true = draw_subset(0.8, 0.2)
    plain, scaled = fit_calibration(logit, y_true), fit_calibration(1000 * logit + 5e4, y_true)
    np.testing.assert_allclose(scaled.apply(1000 * logit + 5e4), plain.apply(logit), atol=1e-7)


@pytest.mark.parametrize("slope", [-0.8, -50.0])
def test_inverted_logits_keep_slope_one(slope):
    logit, y_true = draw_subset(slope, 0.5)
    found = fit_calibration(logit, y_true)
    assert found.slope == 1.0
    assert found.apply(logit).mean() == pytest.approx(y_true.mean(), abs=1e-9)


def test_equal_logits_give_the_prevalence():
    found = fit_calibration(np.full(8, 2.5), [1, 1, 0, 0, 0, 0, 0, 0])
    assert found.slope == 1.0
    np.testing.assert_allclose(found.apply([2.5]), [0.25])


def test_separated_classes_reach_platts_targets():
    found = fit_calibration([-3.0, -3.0, -3.0, 4.0, 4.0], [0, 0, 0, 1, 1])
    np.testing.assert_allclose(found.apply([-3.0, 4.0]), [1 / 5, 3 / 4], atol=1e-8)


def test_wrong_logits_are_named():
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        fit_calibration([0.0, np.inf], [0, 1])
    with pytest.raises(InputError, match="all 2 patches are IDC-"):
        fit_calibration([0.0, 1.0], [0, 0])


def reward(y_true, y_pred, rule):
    if rule == "f1":
        return sk.f1_score(y_true, y_pred)
    return sk.recall_score(y_true, y_pred) + sk.recall_score(y_true, y_pred, pos_label=0) - 1


@pytest.mark.parametrize("rule", ["youden", "f1"])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_does_better(rule, seed):
    rng = np.random.default_rng(seed)
    y_true = np.r_[0, 1, rng.integers(0, 2, 60)]
    y_score = np.round(np.clip(rng.normal(0.4 + 0.2 * y_true, 0.2), 0, 1), 2)
    found = choose_threshold(y_true, y_score, rule)
    best = max(reward(y_true, y_score >= cut, rule) for cut in np.r_[np.unique(y_score), 1.1])
    assert reward(y_true, y_score >= found, rule) == pytest.approx(best)
    below, above = y_score[y_score < found], y_score[y_score >= found]
    assert found == pytest.approx((below.max(initial=0.0) + above.min()) / 2)


def test_cut_is_midway_and_ties_take_the_lowest():
    assert choose_threshold(np.array([0, 1]), np.array([0.2, 0.6]), "youden") == pytest.approx(0.4)
    # cuts at 0.3 and at 0.7 are equally good
    assert choose_threshold(
        np.array([0, 1, 0, 1]), np.array([0.2, 0.4, 0.6, 0.8]), "youden"
    ) == pytest.approx(0.3)
    assert choose_threshold(np.array([1, 0]), np.array([0.5, 0.5]), "f1") == pytest.approx(0.25)


def test_neighbouring_floats_stay_apart():
    low = 0.5
    high = np.nextafter(low, 1.0)
    found = choose_threshold(np.array([0, 1]), np.array([low, high]), "youden")
    assert low < found <= high


@pytest.mark.parametrize("required", [0.05, 0.28, 0.9, 1.0])
@pytest.mark.parametrize("decimals", [1, 3])
def test_choose_threshold_when_a_sensitivity_is_required_then_no_higher_cut_reaches_it(
    required, decimals
):
    rng = np.random.default_rng(decimals)
    y_true = np.r_[np.ones(25, int), np.zeros(40, int)]
    y_score = np.round(np.clip(rng.normal(0.4 + 0.2 * y_true, 0.2), 0, 1), decimals)
    found = choose_threshold(y_true, y_score, f"sensitivity >= {required}")
    assert sk.recall_score(y_true, y_score >= found) >= required
    for higher in np.unique(y_score[y_score > found])[1:]:
        assert sk.recall_score(y_true, y_score >= higher) < required


def test_choose_threshold_when_the_sensitivity_is_met_exactly_then_takes_it():
    # 7 / 25 = 0.28, but 0.28 * 25 is a little above 7 in floating point
    y_true, y_score = np.r_[np.ones(25, int), 0], np.r_[np.arange(1, 26) / 100, 0.5]
    assert choose_threshold(y_true, y_score, "sensitivity >= 0.28") == pytest.approx(0.185)


@pytest.mark.parametrize("rule", ["best", "sensitivity > 0.9", "sensitivity >= 0", ""])
def test_choose_threshold_when_there_is_no_such_rule_then_names_it(rule):
    with pytest.raises(InputError, match=f"threshold rule '{rule}'"):
        choose_threshold(np.array([0, 1]), np.array([0.2, 0.6]), rule)


def draw_cases(decimals, num_patches=300, num_cases=7):
    rng = np.random.default_rng(2)
    case = rng.integers(0, num_cases, num_patches)
    y_true = rng.integers(0, 2, num_patches)
    lean = rng.normal(0, 0.1, num_cases)[case]
    y_score = np.clip(rng.normal(0.4 + 0.2 * y_true + lean, 0.2), 0, 1)
    return y_true, np.round(y_score, decimals), case


@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity >= 0.8"])
@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_replicate_thresholds_when_patches_are_resampled_then_equal_a_new_choice(rule, decimals):
    y_true, y_score, case = draw_cases(decimals)
    counts = draw_counts(7, Bootstrap(40, 1))
    found = replicate_thresholds(y_true, y_score, rule, CaseDraws(case, counts))
    for row, threshold in zip(counts, found, strict=True):
        rows = np.concatenate(
            [np.flatnonzero(case == i) for i, count in enumerate(row) for _ in range(count)]
        )
        assert threshold == choose_threshold(y_true[rows], y_score[rows], rule)


def test_bootstrap_threshold_when_laid_then_follows_the_formula_on_the_logit_scale():
    y_true, y_score, case = draw_cases(9)
    found = bootstrap_threshold(y_true, y_score, case, "youden", Bootstrap(80, 4))
    counts = draw_counts(7, Bootstrap(80, 4))
    replicates = replicate_thresholds(y_true, y_score, "youden", CaseDraws(case, counts))
    reach = t_quantile(summarise_cases(y_true, case)) * special.logit(replicates).std(ddof=1)
    assert found.value == choose_threshold(y_true, y_score, "youden")
    assert found.low == pytest.approx(special.expit(special.logit(found.value) - reach))
    assert found.high == pytest.approx(special.expit(special.logit(found.value) + reach))


def test_bootstrap_threshold_when_there_are_two_cases_then_refuses():
    with pytest.raises(InputError, match="needs at least 3"):
        bootstrap_threshold(
            np.array([0, 1]), np.array([0.2, 0.6]), np.arange(2), "f1", Bootstrap(9, 1)
        )


def test_prior_shift_when_a_model_is_calibrated_on_its_training_mix_then_is_the_fitted_intercept():
    # logits that are true log-odds where IDC+ and IDC- weigh alike: log of the density ratio
    rng = np.random.default_rng(0)
    y_true = (rng.random(200_000) < 0.2).astype(np.int8)
    logit = 2.0 * rng.normal(2.0 * y_true - 1, 1.0)
    expected = prior_shift(y_true.mean(), [3000, 1000], [2 / 3, 2.0])
    found = fit_calibration(logit, y_true)
    assert found.slope == pytest.approx(1.0, abs=0.02)
    assert found.intercept == pytest.approx(expected, abs=0.03)
    assert expected == pytest.approx(np.log(0.2 / 0.8), abs=0.02)


def test_prior_shift_when_training_is_unweighted_then_its_own_share_counts():
    assert prior_shift(0.5, [300, 100], [1.0, 1.0]) == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("share", "patches", "weights"),
    [(0.0, [1, 1], [1, 1]), (1.0, [1, 1], [1, 1]), (0.5, [0, 1], [1, 1]), (0.5, [1, 1], [1, 0])],
)
def test_prior_shift_when_a_class_is_missing_then_refuses(share, patches, weights):
    with pytest.raises(InputError, match="both need both classes"):
        prior_shift(share, patches, weights)
