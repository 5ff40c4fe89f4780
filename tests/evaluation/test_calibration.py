import json

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from idc.errors import InputError
from idc.evaluation.calibration import (
    Calibration,
    OperatingPoint,
    choose_threshold,
    fit_calibration,
)


def draw_side(slope, intercept, num_patches=3000, seed=0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(1.0, 3.0, num_patches)
    y_true = (rng.random(num_patches) < special.expit(slope * logit + intercept)).astype(np.int8)
    return logit, y_true


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -1.5), (3.0, 2.0)])
def test_fit_equals_unpenalised_logistic_regression(slope, intercept):
    logit, y_true = draw_side(slope, intercept)
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
    logit, y_true = draw_side(0.8, 0.2)
    plain, scaled = fit_calibration(logit, y_true), fit_calibration(1000 * logit + 5e4, y_true)
    np.testing.assert_allclose(scaled.apply(1000 * logit + 5e4), plain.apply(logit), atol=1e-7)


@pytest.mark.parametrize("slope", [-0.8, -50.0])
def test_inverted_logits_keep_slope_one(slope):
    logit, y_true = draw_side(slope, 0.5)
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


def test_cut_lies_midway_and_ties_take_the_lowest():
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


POINT = OperatingPoint(0.7, -0.2, 0.45, "youden", "abc123", True)


def test_operating_point_scores_and_calls():
    logit = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    np.testing.assert_array_equal(POINT.score(logit), Calibration(0.7, -0.2).apply(logit))
    np.testing.assert_allclose(POINT.score(logit), special.expit(0.7 * logit - 0.2), rtol=1e-6)
    calls = POINT.predict(logit)
    assert calls.dtype == np.int8
    assert calls.tolist() == [0, 1, 1]


def test_operating_point_survives_its_file(tmp_path):
    POINT.save(tmp_path / "point.json")
    assert OperatingPoint.load(tmp_path / "point.json") == POINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "lacks threshold"),
        ({"color": "red"}, "unknown color"),
        ({"slope": "1"}, "slope = '1' is not a number"),
        ({"slope": True}, "slope = True is not a number"),
        ({"threshold_rule": "best"}, "threshold_rule = 'best'"),
        ({"model_digest": 5}, "model_digest is not text"),
        ({"d4_average": 1}, "d4_average is neither true nor false"),
    ],
)
def test_damaged_operating_point_is_named(tmp_path, change, message):
    path = tmp_path / "point.json"
    POINT.save(path)
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: each for key, each in content.items() if each is not None}))
    with pytest.raises(InputError, match=message):
        OperatingPoint.load(path)


def test_operating_point_must_be_an_object(tmp_path):
    (tmp_path / "point.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="holds no operating point"):
        OperatingPoint.load(tmp_path / "point.json")
