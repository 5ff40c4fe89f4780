"""Plot data as small tables, so that a curve over any number of patches stays a light file."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

from idc.errors import InputError
from idc.evaluation.metrics import check_labels, check_probabilities

MAX_POINTS = 500
CLASS_NAMES = np.array(["IDC-", "IDC+"], dtype=object)


def roc_points(y_true: ArrayLike, y_score: ArrayLike) -> pd.DataFrame:
    """Return the ROC curve from (0, 0) to (1, 1) in at most 500 points.

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).

    Returns:
        Columns fpr, tpr and threshold, all in [0, 1]; the threshold falls, and stands at 1 where
        nothing is called IDC+.

    Raises:
        InputError: As `compute_metrics`.
    """
    labels, scores = check_probabilities(y_true, y_score)
    fpr, tpr, threshold = sk.roc_curve(labels, scores, drop_intermediate=True)
    keep = _thin(fpr, tpr)
    finite = np.where(np.isfinite(threshold), threshold, 1.0)
    return pd.DataFrame({"fpr": fpr[keep], "tpr": tpr[keep], "threshold": finite[keep]})


def pr_points(y_true: ArrayLike, y_score: ArrayLike) -> pd.DataFrame:
    """Return the precision-recall curve from recall 1 to recall 0 in at most 500 points.

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).

    Returns:
        Columns recall, precision and threshold, all in [0, 1]. The first row calls all patches
        IDC+, so its precision is the prevalence; the last is scikit-learn's end point (0, 1).

    Raises:
        InputError: As `compute_metrics`.
    """
    labels, scores = check_probabilities(y_true, y_score)
    precision, recall, threshold = sk.precision_recall_curve(labels, scores, drop_intermediate=True)
    keep = _thin(recall, precision)
    closed = np.append(threshold, 1.0)
    return pd.DataFrame(
        {"recall": recall[keep], "precision": precision[keep], "threshold": closed[keep]}
    )


def confusion_rows(y_true: ArrayLike, y_pred: ArrayLike) -> pd.DataFrame:
    """Return columns actual and predicted, one row per patch, of "IDC-" and "IDC+".

    Raises:
        InputError: On empty input, unequal lengths or other values than 0 and 1.
    """
    actual, predicted = check_labels(y_true), check_labels(y_pred)
    if actual.size != predicted.size:
        raise InputError(f"{actual.size} labels but {predicted.size} predictions")
    return pd.DataFrame({"actual": CLASS_NAMES[actual], "predicted": CLASS_NAMES[predicted]})


def _thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return at most `MAX_POINTS` indices, both ends among them, evenly along the curve."""
    if x.size <= MAX_POINTS:
        return np.arange(x.size)
    # evenly by index would spend the points where scores crowd, not where the curve bends
    length = np.append(0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
    wanted = np.linspace(0.0, length[-1], MAX_POINTS)
    keep = np.searchsorted(length, wanted)
    keep[0], keep[-1] = 0, x.size - 1
    return np.unique(keep)
