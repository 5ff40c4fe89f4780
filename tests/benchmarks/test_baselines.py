import numpy as np
import pandas as pd
import pytest

from benchmarks.baselines import judge, score_splits


@pytest.fixture(scope="module")
def splits():
    subset = np.repeat(["train", "val", "gate", "test"], [60, 20, 10, 40])
    row = np.arange(130)
    return pd.DataFrame(
        {
            "row": row,
            "case": [f"{name}{number % 4}" for name, number in zip(subset, row, strict=True)],
            "x": (50 * row).astype(np.int32),
            "y": np.int32(1),
            "label": (row // 4 % 2).astype(np.int8),
            "split": subset,
            "in_manifest": True,
        }
    )


@pytest.fixture(scope="module")
def pixels(splits):
    rng = np.random.default_rng(0)
    level = np.where(splits["label"] == 1, 90, 150)[:, None, None, None]
    return (level + rng.integers(0, 40, (len(splits), 50, 50, 3))).astype(np.uint8)


def test_score_splits_when_trained_then_every_patch_of_val_and_test_has_a_score(pixels, splits):
    scores = score_splits(pixels, splits, ["trees"], 17)
    held_out = splits[splits["split"].isin(["val", "test"])]
    assert list(scores) == ["case", "x", "y", "y_true", "split", "trees"]
    assert scores["x"].tolist() == held_out["x"].tolist()
    assert scores["trees"].between(0, 1).all()


def test_judge_when_val_and_test_scores_are_shifted_then_threshold_is_of_val(pixels, splits):
    scores = splits.rename(columns={"label": "y_true"})[["case", "split", "y_true"]]
    # ranks test perfectly, but the middle of val's scores lies above all of test's
    scores["model"] = np.where(scores["split"] == "val", 0.6, 0.1) + 0.2 * scores["y_true"]
    result = judge(scores, "model", 17)
    assert result["auroc"] == 1.0
    assert result["balanced_accuracy"] == 0.5
