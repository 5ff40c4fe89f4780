"""What the fusion adds: its scores against each member's and each baseline's, in pairs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from idc.evaluation.compare import PLACE, compare_scorings
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate
from idc.evaluation.threshold.calibration import choose_threshold, fit_calibration

_TITLES = {"cnn": "CNN without the texture member", "texture": "texture member"}

_SMALLEST = 1e-9  # a probability of 0 has no logit


@dataclass(frozen=True)
class OtherScores:
    """What one scoring says of the tested patches."""

    y_score: np.ndarray
    """Calibrated probability of IDC+, float64 (patches,)."""
    y_pred: np.ndarray
    """Decision, 0 or 1, (patches,)."""


def other_logits(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return, by name, the logits that a table of predictions holds beside the fusion's.

    Args:
        predictions: Columns `logit_<member>` of members (single backbones, and where there is a
            texture member, the CNN without it and itself), and `y_score_<baseline>`,
            probabilities, of baselines.

    Returns:
        float64 (patches,) each; members first.
    """
    logits = {
        name.removeprefix("logit_"): predictions[name].to_numpy(np.float64)
        for name in predictions.columns
        if name.startswith("logit_")
    }
    for name in predictions.columns:
        if name.startswith("y_score_"):
            share = predictions[name].clip(_SMALLEST, 1 - _SMALLEST).to_numpy(np.float64)
            logits[name.removeprefix("y_score_")] = np.log(share / (1 - share))
    return logits


def name_members(predictions: pd.DataFrame) -> dict[str, str]:
    """Return the titles of the members whose logits a table holds, by name, in its order."""
    names = [
        name.removeprefix("logit_") for name in predictions.columns if name.startswith("logit_")
    ]
    return {name: _TITLES.get(name, name) for name in names}


def score_other(
    val_logit: np.ndarray, val_y_true: np.ndarray, test_logit: np.ndarray, rule: str
) -> OtherScores:
    """Calibrate another scoring on val, choose its threshold there, apply both to test.

    Raises:
        InputError: If val lacks a class, or a logit is NaN or infinite.
    """
    calibration = fit_calibration(val_logit, val_y_true)
    threshold = choose_threshold(val_y_true, calibration.apply(val_logit), rule)
    y_score = calibration.apply(test_logit)
    return OtherScores(y_score, (y_score >= threshold).astype(np.int8))


def score_others(val: pd.DataFrame, test: pd.DataFrame, rule: str) -> dict[str, OtherScores]:
    """Return what each member alone and each baseline says of test, by name.

    Args:
        val: Predictions of val, as `other_logits` takes them, with `y_true`.
        test: Predictions of test likewise.
        rule: How thresholds are chosen on val.

    Raises:
        InputError: If val lacks a class, or a logit is NaN or infinite.
    """
    tested, y_true = other_logits(test), val["y_true"].to_numpy()
    return {
        name: score_other(logit, y_true, tested[name], rule)
        for name, logit in other_logits(val).items()
    }


def compare_with_others(
    test: pd.DataFrame,
    fusion: OtherScores,
    others: Mapping[str, OtherScores],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Estimate]]:
    """Return by how much the fusion is better than each other scoring, paired by case.

    Args:
        test: Columns `case`, `x`, `y`, `y_true`.
        fusion: The fusion's scores of these patches, at the frozen operating point.
        others: Other scorings of these patches.
        bootstrap: How cases are drawn.

    Returns:
        By name: `auroc` and `balanced_accuracy`, fusion minus other, with 95 % intervals.
    """
    places = test[[*PLACE, "y_true"]]

    def table(scored: OtherScores) -> pd.DataFrame:
        return places.assign(y_score=scored.y_score, y_pred=scored.y_pred)

    return {
        name: compare_scorings(table(other), table(fusion), bootstrap)
        for name, other in others.items()
    }


def describe_gain(
    differences: Mapping[str, Mapping[str, Estimate]], members: Mapping[str, str]
) -> str:
    """Say in one sentence whether the fusion beats its best single member.

    Args:
        differences: As `compare_with_others` returns them.
        members: Titles of the members among them, by name; the best is the one that the fusion
            beats by least.

    Returns:
        The sentence; empty without members.
    """
    known = [name for name in members if name in differences]
    if not known:
        return ""
    best = min(known, key=lambda name: differences[name]["auroc"].value)
    gain, title = differences[best]["auroc"], members[best]
    shown = f"AUROC {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if gain.low > 0:
        return f"The fusion beats its best single member, {title}: {shown}."
    if gain.high < 0:
        return f"The fusion is worse than its best single member, {title}: {shown}."
    return f"The fusion is not shown to beat its best single member, {title}: {shown}."
