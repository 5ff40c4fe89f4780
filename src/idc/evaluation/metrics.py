"""The eight figures a model is judged by, on the patches as they come.

Ranking (`auroc`, `auprc`) and `brier` need scores only; the other five need a threshold. IDC+ is
the positive class throughout. How sure these figures are is `idc.evaluation.bootstrap`'s matter.
"""

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)

from idc.errors import InputError


def compute_metrics(y_true: np.ndarray, y_score: np.ndarray, threshold: float) -> dict[str, float]:
    """Return all eight metrics by name.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        threshold: A patch is called IDC+ where its score is at least this.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    y_pred = (y_score >= threshold).astype(np.int8)
    return {
        "auroc": auroc(y_true, y_score),
        "auprc": auprc(y_true, y_score),
        "balanced_accuracy": balanced_accuracy(y_true, y_pred),
        "sensitivity": sensitivity(y_true, y_pred),
        "specificity": specificity(y_true, y_pred),
        "f1_idc": f1_idc(y_true, y_pred),
        "mcc": mcc(y_true, y_pred),
        "brier": brier(y_true, y_score),
    }


def auroc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the share of (IDC+, IDC-) pairs ranked rightly, ties counting half.

    Any finite score will do, logits too.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    return float(roc_auc_score(y_true, y_score))


def auprc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the average precision: the area under the step-wise precision-recall curve.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or infinite.
    """
    require_both_classes(y_true, y_score)
    return float(average_precision_score(y_true, y_score))


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean of sensitivity and specificity.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(balanced_accuracy_score(y_true, y_pred))


def sensitivity(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the share of IDC+ patches that are called IDC+.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(recall_score(y_true, y_pred, pos_label=1))


def specificity(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the share of IDC- patches that are called IDC-.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(recall_score(y_true, y_pred, pos_label=0))


def f1_idc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the F1 score of the IDC+ class.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(f1_score(y_true, y_pred, pos_label=1))


def mcc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return Matthews' correlation coefficient, in [-1, 1]; 0 where all patches are called alike.

    Raises:
        InputError: If there is no patch or only one class.
    """
    require_both_classes(y_true, y_pred)
    return float(matthews_corrcoef(y_true, y_pred))


def brier(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the mean squared difference of score and label; lower is better.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    return float(brier_score_loss(y_true, y_score, pos_label=1))


def require_both_classes(y_true: np.ndarray, values: np.ndarray) -> None:
    """Check that there are patches of both classes, each with a finite score or prediction.

    Raises:
        InputError: Otherwise; the message names the fault.
    """
    num_patches, num_idc = len(y_true), int(np.count_nonzero(y_true))
    if num_patches == 0:
        raise InputError("no patches to evaluate: the side is empty")
    if len(values) != num_patches:
        raise InputError(f"{num_patches} labels but {len(values)} scores: one is needed per patch")
    num_unusable = num_patches - int(np.count_nonzero(np.isfinite(values)))
    if num_unusable:
        raise InputError(f"{num_unusable} of {num_patches} scores are NaN or infinite")
    if num_idc in (0, num_patches):
        only = "IDC+" if num_idc else "IDC-"
        raise InputError(f"all {num_patches} patches are {only}: metrics need both classes")


def require_probabilities(y_true: np.ndarray, y_score: np.ndarray) -> None:
    """Check as `require_both_classes` does, and that every score is in [0, 1].

    Raises:
        InputError: Otherwise; the message names the fault.
    """
    require_both_classes(y_true, y_score)
    low, high = float(np.min(y_score)), float(np.max(y_score))
    if low < 0.0 or high > 1.0:
        raise InputError(f"scores run from {low:g} to {high:g}: probabilities are needed")
