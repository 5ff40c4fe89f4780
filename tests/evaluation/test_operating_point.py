import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from idc.core.errors import InputError
from idc.evaluation.cases.context import Kernel
from idc.evaluation.threshold.calibration import Calibration
from idc.evaluation.threshold.operating_point import OperatingPoint

POINT = OperatingPoint(
    slope=0.7,
    intercept=-0.2,
    threshold=0.45,
    threshold_low=0.3,
    threshold_high=0.6,
    threshold_rule="sensitivity >= 0.9",
    prior_shift=-0.25,
    model_digest="abc123",
    d4_average=True,
    context="gaussian",
    context_width=1.8,
    context_slope=1.2,
    context_intercept=-0.3,
    context_threshold=0.4,
    context_threshold_low=0.35,
    context_threshold_high=0.5,
)


def load(path):
    return OperatingPoint.load(path, model_digest="abc123")


def test_operating_point_when_applied_then_scores_and_calls():
    logit = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    np.testing.assert_array_equal(POINT.score(logit), Calibration(0.7, -0.2).apply(logit))
    np.testing.assert_allclose(POINT.score(logit), special.expit(0.7 * logit - 0.2), rtol=1e-6)
    calls = POINT.predict(logit)
    assert calls.dtype == np.int8
    assert calls.tolist() == [0, 1, 1]


ALONE = OperatingPoint(
    **{key: value for key, value in vars(POINT).items() if not key.startswith("context")}
)
MEAN9 = replace(POINT, context="mean9", context_width=None)


@pytest.mark.parametrize("point", [POINT, MEAN9, ALONE], ids=["gaussian", "mean9", "none"])
def test_load_when_saved_then_is_the_same(tmp_path, point):
    point.save(tmp_path / "point.json")
    assert load(tmp_path / "point.json") == point


def test_load_when_it_is_of_a_time_before_widths_then_its_means_stay_as_they_were(tmp_path):
    path = tmp_path / "point.json"
    MEAN9.save(path)
    new = {"context_width", "context_slope", "context_intercept"}
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in new})
    )
    point = load(path)
    assert point.kernel == Kernel("mean9")
    log_odds = np.array([-1.0, 0.5])
    np.testing.assert_array_equal(point.score_context(log_odds), special.expit(log_odds))


def test_load_when_the_model_is_another_then_names_both(tmp_path):
    POINT.save(tmp_path / "point.json")
    with pytest.raises(InputError, match=r"fitted to the model abc123.*to the model def456: run"):
        OperatingPoint.load(tmp_path / "point.json", model_digest="def456")


REMOVED = object()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": REMOVED}, "lacks threshold"),
        ({"color": "red"}, "unknown color"),
        ({"slope": "1"}, "slope = '1' is not a number"),
        ({"slope": True}, "slope = True is not a number"),
        ({"threshold_low": None}, "threshold_low = None is not a number"),
        ({"prior_shift": []}, r"prior_shift = \[\] is not a number"),
        ({"threshold_rule": "best"}, "threshold_rule = 'best'"),
        ({"threshold_rule": 3}, "threshold_rule = 3"),
        ({"model_digest": 5}, "model_digest is not text"),
        ({"d4_average": 1}, "d4_average is neither true nor false"),
        ({"context": "mean25"}, "context = 'mean25' is none of none, mean9, gaussian"),
        ({"context_threshold": None}, "context_threshold = None is not a number"),
        ({"context_width": None}, "context_width = None is no width of gaussian"),
        ({"context_width": 40.0}, "context_width = 40.0 is no width of gaussian"),
        ({"context_width": True}, "context_width = True is no width of gaussian"),
        ({"context": "mean9"}, "context_width = 1.8 is no width of mean9"),
        (
            {"context": "none", "context_width": None, "context_threshold": "x"},
            "context_threshold = 'x' is not a number",
        ),
    ],
)
def test_load_when_damaged_then_names_the_fault(tmp_path, change, message):
    path = tmp_path / "point.json"
    POINT.save(path)
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: each for key, each in content.items() if each is not REMOVED}))
    with pytest.raises(InputError, match=message):
        load(path)


def test_load_when_it_is_no_object_then_says_so(tmp_path):
    (tmp_path / "point.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="holds no operating point"):
        load(tmp_path / "point.json")
