"""Points of curves, few enough to plot and to keep."""

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

_MAX_POINTS = 500
_NAMES = np.array(["IDC-", "IDC+"])


def roc_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return at most 500 points `fpr`, `tpr`, `threshold` of the ROC curve, both ends kept."""
    fpr, tpr, threshold = roc_curve(y_true, y_score)
    threshold[0] = 1.0  # scikit-learn starts at infinity, which JSON and plots cannot show
    return _thin(pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold}))


def pr_points(y_true: np.ndarray, y_score: np.ndarray) -> pd.DataFrame:
    """Return at most 500 points `recall`, `precision`, `threshold`, both ends kept."""
    precision, recall, threshold = precision_recall_curve(y_true, y_score)
    return _thin(
        pd.DataFrame(
            {"recall": recall, "precision": precision, "threshold": np.append(threshold, 1.0)}
        )
    )


def confusion_rows(y_true: np.ndarray, y_pred: np.ndarray) -> pd.DataFrame:
    """Return `actual` and `predicted` (IDC- or IDC+) per patch, as DVC's template counts them."""
    return pd.DataFrame({"actual": _NAMES[y_true], "predicted": _NAMES[y_pred]})


def _thin(points: pd.DataFrame) -> pd.DataFrame:
    kept = np.linspace(0, len(points) - 1, min(_MAX_POINTS, len(points))).round().astype(int)
    return points.iloc[kept].round(6).reset_index(drop=True)
