"""Tables behind the pictures, small enough for DVC and a browser to draw.

A curve over 60,000 patches has tens of thousands of corners; 500 spread evenly along its length
look the same.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from idc.evaluation.statistics.bootstrap import Bootstrap, bootstrap_share
from idc.evaluation.statistics.metrics import (
    MIN_CASES,
    bin_scores,
    require_both_classes,
    require_probabilities,
)

MAX_POINTS = 500

_CLASS_NAMES = np.array(["IDC-", "IDC+"])


def roc_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return the ROC curve from (0, 0) to (1, 1).

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, (patches,).

    Returns:
        Columns `fpr`, `tpr`, `threshold`, at most 500 rows, all finite; patches that score at
        least `threshold` are predicted IDC+.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    fpr, tpr, threshold = roc_curve(y_true, y_score)
    threshold = np.append(_just_above(y_score), threshold[1:])
    points = pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold})
    return _thin(points, ["fpr", "tpr"])


def pr_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return the precision-recall curve from recall 0 to recall 1.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, (patches,).

    Returns:
        Columns `recall`, `precision`, `threshold`, at most 500 rows, all finite; patches that
        score at least `threshold` are predicted IDC+. Precision at recall 0 is 1 by convention.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    precision, recall, threshold = precision_recall_curve(y_true, y_score, drop_intermediate=True)
    threshold = np.append(threshold, _just_above(y_score))
    points = pd.DataFrame({"recall": recall, "precision": precision, "threshold": threshold})
    return _thin(points[::-1], ["recall", "precision"])


def threshold_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return what each threshold gives, from the lowest score but one to the highest.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, (patches,).

    Returns:
        Columns `threshold` (rising), `sensitivity`, `specificity`, `ppv`, `npv`, `f1_idc` and
        `balanced_accuracy`, at most 500 rows; patches that score at least `threshold` are called
        IDC+. A threshold at which all patches are called alike has no row, as there `ppv` or `npv`
        is undefined: where all scores are equal, the table is empty.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    false_alarms, found, threshold = roc_curve(y_true, y_score, drop_intermediate=False)
    # its ends call none and all
    false_alarms, found, threshold = false_alarms[-2:0:-1], found[-2:0:-1], threshold[-2:0:-1]
    num_idc = np.count_nonzero(y_true)
    num_other = len(y_true) - num_idc
    tp, fp = found * num_idc, false_alarms * num_other
    fn, tn = num_idc - tp, num_other - fp
    points = pd.DataFrame(
        {
            "threshold": threshold,
            "sensitivity": found,
            "specificity": 1 - false_alarms,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1_idc": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (found + 1 - false_alarms) / 2,
        }
    )
    return _thin(points, ["threshold", "sensitivity", "specificity"])


def reliability_points(
    y_true: np.ndarray, y_score: np.ndarray, case: np.ndarray, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Return how scores and labels agree, by the bins of `bin_scores`.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        bootstrap: How cases are drawn.

    Returns:
        One row per bin, by rising score: `mean_score`, `idc_share` with its 95 % interval by case
        bootstrap `idc_share_low` and `idc_share_high`, `num_patches` and `num_cases`. A bin with
        patches of fewer than three cases has no interval: both its ends are missing.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    bins = bin_scores(y_score)
    rows = []
    for number in range(int(bins.max()) + 1):
        inside = bins == number
        hits, cases = np.asarray(y_true, bool)[inside], np.asarray(case)[inside]
        row: dict[str, float | None] = {
            "mean_score": float(np.mean(y_score[inside], dtype=np.float64)),
            "idc_share": float(hits.mean()),
            "idc_share_low": None,
            "idc_share_high": None,
            "num_patches": len(hits),
            "num_cases": len(np.unique(cases)),
        }
        if len(np.unique(cases)) >= MIN_CASES:
            share = bootstrap_share(hits, cases, bootstrap)
            row |= {"idc_share_low": share.low, "idc_share_high": share.high}
        rows.append(row)
    return pd.DataFrame(rows).astype({"idc_share_low": "float64", "idc_share_high": "float64"})


def confusion_rows(y_true: np.ndarray, y_pred: np.ndarray) -> pd.DataFrame:
    """Return one row per patch, columns `actual` and `predicted`, each `IDC-` or `IDC+`.

    DVC's `confusion` template counts the rows itself.
    """
    return pd.DataFrame(
        {
            "actual": _CLASS_NAMES[np.asarray(y_true, int)],
            "predicted": _CLASS_NAMES[np.asarray(y_pred, int)],
        }
    )


def _just_above(y_score: np.ndarray) -> float:
    """Return the least threshold that calls no patch IDC+; infinity would not fit into JSON."""
    return float(np.nextafter(np.float64(np.max(y_score)), np.inf))


def _thin(points: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Keep at most 500 rows, evenly spread along the curve of the columns `axes`."""
    if len(points) > MAX_POINTS:
        steps = points[list(axes)].diff().abs().sum(axis=1)
        along = steps.cumsum().to_numpy()
        targets = np.linspace(0.0, along[-1], MAX_POINTS)
        kept = np.searchsorted(along, targets).clip(max=len(points) - 1)
        kept[-1] = len(points) - 1
        points = points.iloc[np.unique(kept)]
    return points.reset_index(drop=True)
