"""Point metrics of a scored set of patches: checked input, then scikit-learn's definitions."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

from idc.errors import InputError

METRIC_NAMES = (
    "auroc",
    "auprc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1_idc",
    "mcc",
    "brier",
)


def auroc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Return the area under the ROC curve, ties counted half.

    Args:
        y_true: Labels 0 (IDC-) and 1 (IDC+), shape (patches,).
        y_score: Any finite score that rises with IDC+, shape (patches,).

    Returns:
        A number in [0, 1].

    Raises:
        InputError: On empty input, unequal lengths, one class only, or non-finite scores.
    """
    labels, scores = check_scored(y_true, y_score)
    return float(sk.roc_auc_score(labels, scores))


def compute_metrics(y_true: ArrayLike, y_score: ArrayLike, threshold: float) -> dict[str, float]:
    """Return every metric of `METRIC_NAMES`, with `y_pred = y_score >= threshold`.

    Args:
        y_true: Labels 0 (IDC-) and 1 (IDC+), shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).
        threshold: Score from which on a patch is called IDC+.

    Returns:
        Metric by name; `mcc` lies in [-1, 1], all others in [0, 1]. `auprc` is the step-wise
        average precision; `mcc` is 0 where all patches are called alike.

    Raises:
        InputError: On empty input, unequal lengths, one class only, or scores that are not
            finite or lie outside [0, 1].
    """
    labels, scores = check_probabilities(y_true, y_score)
    y_pred = (scores >= threshold).astype(np.int8)
    sensitivity = float(sk.recall_score(labels, y_pred, pos_label=1))
    specificity = float(sk.recall_score(labels, y_pred, pos_label=0))
    return {
        "auroc": float(sk.roc_auc_score(labels, scores)),
        "auprc": float(sk.average_precision_score(labels, scores)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_idc": float(sk.f1_score(labels, y_pred, pos_label=1)),
        "mcc": float(sk.matthews_corrcoef(labels, y_pred)),
        "brier": float(sk.brier_score_loss(labels, scores)),
    }


def check_scored(
    y_true: ArrayLike, y_score: ArrayLike, what: str = "score"
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Return labels as int8 and scores (or logits) as float64, both of shape (patches,).

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Scores or logits, shape (patches,).
        what: What messages call one value of `y_score`.

    Raises:
        InputError: On empty input, unequal lengths, other labels than 0 and 1, one class only,
            or non-finite values.
    """
    labels = check_labels(y_true)
    # float64 throughout: a float32 score against a Python float would be compared in float32
    scores = np.asarray(y_score, dtype=np.float64)
    if scores.shape != labels.shape:
        raise InputError(f"labels have shape {labels.shape} but {what}s have {scores.shape}")
    num_bad = int((~np.isfinite(scores)).sum())
    if num_bad:
        raise InputError(f"{num_bad} of {scores.size} {what}s are NaN or infinite")
    num_idc = int(labels.sum())
    if num_idc in (0, labels.size):
        only = "IDC+" if num_idc else "IDC-"
        raise InputError(f"all {labels.size} patches are {only}: metrics need both classes")
    return labels, scores


def check_probabilities(
    y_true: ArrayLike, y_score: ArrayLike
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Do as `check_scored` does, and hold the scores to [0, 1].

    Raises:
        InputError: As `check_scored`, or on scores outside [0, 1].
    """
    labels, scores = check_scored(y_true, y_score)
    num_outside = int(((scores < 0.0) | (scores > 1.0)).sum())
    if num_outside:
        raise InputError(f"{num_outside} of {scores.size} scores lie outside [0, 1]")
    return labels, scores


def check_labels(y_true: ArrayLike) -> NDArray[np.int8]:
    """Return labels as int8 of shape (patches,).

    Raises:
        InputError: On empty input, more than one dimension, or other labels than 0 and 1.
    """
    given: NDArray[Any] = np.asarray(y_true)
    if given.ndim != 1:
        raise InputError(f"labels must have one dimension, not shape {given.shape}")
    if given.size == 0:
        raise InputError("there are no patches to evaluate")
    num_other = int((~np.isin(given, (0, 1))).sum())
    if num_other:
        raise InputError(f"{num_other} of {given.size} labels are neither 0 (IDC-) nor 1 (IDC+)")
    return given.astype(np.int8)
