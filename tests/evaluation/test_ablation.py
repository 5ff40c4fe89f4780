import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from idc.evaluation.ablation import compare_with_others, describe_gain, other_logits, score_other
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate
from idc.evaluation.statistics.metrics import auroc, balanced_accuracy

NUM_PATCHES = 1200


@pytest.fixture
def subsets():
    """Val and test, each of 12 cases, with a good, a poor and a mirrored logit."""
    rng = np.random.default_rng(1)

    def subset(name):
        y_true = (rng.random(NUM_PATCHES) < 0.3).astype(np.int8)
        return pd.DataFrame(
            {
                "case": [f"{name}{i % 12}" for i in range(NUM_PATCHES)],
                "x": 50 * np.arange(NUM_PATCHES) + 1,
                "y": 1,
                "y_true": y_true,
                "good": 3.0 * y_true + rng.normal(size=NUM_PATCHES),
                "poor": 0.8 * y_true + rng.normal(size=NUM_PATCHES),
            }
        )

    return subset("val"), subset("test")


def scored(subsets, name):
    val, test = subsets
    y_val = val["y_true"].to_numpy()
    return score_other(val[name].to_numpy(), y_val, test[name].to_numpy(), "youden")


def test_other_logits_when_there_are_backbones_and_baselines_then_all_are_logits():
    table = pd.DataFrame(
        {"logit": [9.0], "y_score_colour": [0.2], "logit_a": [np.float32(1.5)], "y_score_t": [1.0]}
    )
    found = other_logits(table)
    assert list(found) == ["a", "colour", "t"]
    assert found["a"][0] == 1.5
    assert found["colour"][0] == pytest.approx(logit(0.2))
    assert np.isfinite(found["t"][0])


def test_compare_when_the_fusion_is_better_then_the_differences_are_those_of_the_metrics(subsets):
    test = subsets[1]
    good, poor = scored(subsets, "good"), scored(subsets, "poor")
    found = compare_with_others(test, good, {"poor": poor}, Bootstrap(200, 1))["poor"]
    y_true = test["y_true"].to_numpy()
    gain = auroc(y_true, good.y_score) - auroc(y_true, poor.y_score)
    assert found["auroc"].value == pytest.approx(gain)
    assert 0 < found["auroc"].low < gain < found["auroc"].high
    expected = balanced_accuracy(y_true, good.y_pred) - balanced_accuracy(y_true, poor.y_pred)
    assert found["balanced_accuracy"].value == pytest.approx(expected)


def differences(**gains):
    return {name: {"auroc": Estimate(*gain)} for name, gain in gains.items()}


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.01, 0.002, 0.02), "The fusion beats its best single member, b: AUROC +0.010"),
        ((0.01, -0.002, 0.02), "not shown to beat its best single member, b"),
        ((-0.03, -0.04, -0.02), "is worse than its best single member, b"),
    ],
)
def test_describe_gain_when_the_interval_is_so_then_says_it(gain, words):
    text = describe_gain(
        differences(a=(0.2, 0.1, 0.3), b=gain, trees=(-1, -1, -1)), {"a": "a", "b": "b"}
    )
    assert words in text


def test_describe_gain_when_there_is_no_member_then_says_nothing():
    assert describe_gain(differences(trees=(0.1, 0.0, 0.2)), {"a": "a"}) == ""
