import numpy as np
import pandas as pd
import pytest

from idc.core.errors import InputError
from idc.evaluation.decisions import column_thresholds, decide_patches
from idc.evaluation.threshold.operating_point import OperatingPoint

ALONE = OperatingPoint(
    slope=2.0, intercept=-1.0, threshold=0.6, threshold_low=0.5, threshold_high=0.7,
    threshold_rule="youden", prior_shift=0.0, model_digest="of-a-model", d4_average=False,
)  # fmt: skip
IN_CONTEXT = OperatingPoint(**vars(ALONE) | {"context": "mean9", "context_threshold": 0.4})


@pytest.fixture
def subset():
    """Two touching patches, one far away, and one of another case at the place of the first."""
    return pd.DataFrame(
        {
            "case": ["a", "a", "a", "b"],
            "x": [1, 51, 501, 1],
            "y": [1, 1, 1, 1],
            "logit": [1.5, -0.5, 0.25, 0.8],
        }
    )


def test_decide_patches_when_the_point_has_no_context_then_each_patch_is_decided_alone(subset):
    decided = decide_patches(subset, ALONE)
    assert set(decided) - set(subset) == {"log_odds", "y_score", "y_pred"}
    np.testing.assert_allclose(decided["log_odds"], [2.0, -2.0, -0.5, 0.6])
    np.testing.assert_allclose(decided["y_score"], [0.880797, 0.119203, 0.377541, 0.645656], 1e-5)
    assert decided["y_pred"].tolist() == [1, 0, 0, 1]
    assert column_thresholds(ALONE) == {"": 0.6}


def test_decide_patches_when_the_point_has_a_context_then_touching_patches_of_a_case_share_theirs(
    subset,
):
    decided = decide_patches(subset, IN_CONTEXT)
    # the two that touch: mean log-odds 0, so probability .5; the others have no neighbour
    np.testing.assert_allclose(decided["context_log_odds"], [0.0, 0.0, -0.5, 0.6], atol=1e-12)
    np.testing.assert_allclose(decided["context_y_score"], [0.5, 0.5, 0.377541, 0.645656], 1e-5)
    assert decided["context_y_pred"].tolist() == [1, 1, 0, 1]
    assert decided["y_pred"].tolist() == [1, 0, 0, 1]  # alone they stay what they were
    assert column_thresholds(IN_CONTEXT) == {"": 0.6, "context_": 0.4}


def test_decide_patches_when_a_patch_comes_twice_then_its_context_means_nothing(subset):
    with pytest.raises(InputError):
        decide_patches(pd.concat([subset, subset.iloc[:1]]), IN_CONTEXT)
