"""Tables behind the pictures, small enough for DVC and a browser to draw.

A curve over 60,000 patches has tens of thousands of corners; 500 spread evenly along its length
look the same.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from idc.evaluation.metrics import require_both_classes

MAX_POINTS = 500

_CLASS_NAMES = np.array(["IDC-", "IDC+"])


def roc_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return the ROC curve from (0, 0) to (1, 1).

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, (patches,).

    Returns:
        Columns `fpr`, `tpr`, `threshold`, at most 500 rows, all finite; patches that score at
        least `threshold` are called IDC+.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    fpr, tpr, threshold = roc_curve(y_true, y_score)
    threshold = np.append(_just_above(y_score), threshold[1:])
    return _thin(pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold}))


def pr_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return the precision-recall curve from recall 0 to recall 1.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, (patches,).

    Returns:
        Columns `recall`, `precision`, `threshold`, at most 500 rows, all finite; patches that
        score at least `threshold` are called IDC+. Precision at recall 0 is 1 by convention.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    precision, recall, threshold = precision_recall_curve(y_true, y_score, drop_intermediate=True)
    threshold = np.append(threshold, _just_above(y_score))
    points = pd.DataFrame({"recall": recall, "precision": precision, "threshold": threshold})
    return _thin(points[::-1])


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


def _thin(points: pd.DataFrame) -> pd.DataFrame:
    """Keep at most 500 rows, evenly spread along the curve of the first two columns."""
    if len(points) > MAX_POINTS:
        steps = points.iloc[:, :2].diff().abs().sum(axis=1)
        along = steps.cumsum().to_numpy()
        targets = np.linspace(0.0, along[-1], MAX_POINTS)
        kept = np.searchsorted(along, targets).clip(max=len(points) - 1)
        kept[-1] = len(points) - 1
        points = points.iloc[np.unique(kept)]
    return points.reset_index(drop=True)
