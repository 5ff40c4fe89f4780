"""Point metrics of patch predictions, under the field's names."""

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)

from idc.errors import InputError


def auroc(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the area under the ROC curve, 0-1; any rising function of the probability will do.

    Args:
        y_true: 0 or 1 per patch.
        y_score: Score per patch.

    Raises:
        InputError: If there is no patch, a score is NaN, or one class is missing.
    """
    require_scores(y_true, y_score)
    return float(roc_auc_score(y_true, y_score))


def compute_metrics(
    y_true: np.ndarray, y_score: np.ndarray, threshold: float
) -> dict[str, float]:
    """Return all metrics; IDC+ is the positive class and `y_score >= threshold` predicts it.

    Args:
        y_true: 0 or 1 per patch.
        y_score: Probability of IDC+ per patch, 0-1.
        threshold: The operating point's.

    Raises:
        InputError: If there is no patch, a score is NaN, or one class is missing.
    """
    require_scores(y_true, y_score)
    y_pred = (y_score >= threshold).astype(np.int8)
    sensitivity = float(recall_score(y_true, y_pred))
    specificity = float(recall_score(y_true, y_pred, pos_label=0))
    return {
        "auroc": auroc(y_true, y_score),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1_idc": float(f1_score(y_true, y_pred)),
        "auprc": float(average_precision_score(y_true, y_score)),
        "mcc": float(matthews_corrcoef(y_true, y_pred)),
        "brier": float(brier_score_loss(y_true, y_score)),
    }


def require_scores(y_true: np.ndarray, y_score: np.ndarray) -> None:
    """Check that metrics are defined.

    Raises:
        InputError: If there is no patch, a score is NaN, or one class is missing.
    """
    if len(y_true) == 0:
        raise InputError("no patch to evaluate: the side is empty")
    if np.isnan(y_score).any():
        raise InputError(f"{int(np.isnan(y_score).sum())} scores are NaN: retrain the model")
    labels = np.unique(y_true)
    if len(labels) < 2:
        raise InputError(f"all {len(y_true)} patches have label {labels[0]}: metrics need both")
