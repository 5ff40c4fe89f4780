"""The operating point: calibration and threshold, both from the val cases alone."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_curve

from idc.errors import InputError
from idc.evaluation.metrics import require_scores
from idc.files import load_json, save_json

ThresholdRule = Literal["youden", "f1"]


@dataclass(frozen=True)
class Calibration:
    """Logit -> probability: sigmoid(slope x logit + intercept), with slope > 0."""

    slope: float
    intercept: float

    def apply(self, logit: np.ndarray) -> np.ndarray:
        """Return the probability of IDC+ per logit, float64."""
        return np.asarray(expit(self.slope * logit.astype(np.float64) + self.intercept))


def fit_calibration(logit: np.ndarray, y_true: np.ndarray) -> Calibration:
    """Regress the label on the logit (Platt 1999; Cox 1958).

    A network trained on a balanced manifest speaks of balanced odds; the intercept takes it to
    the prevalence of the pool. Where the slope would not be positive (no better than chance) it
    stays 1 and only the intercept is fitted.

    Args:
        logit: Per pool patch of the val cases.
        y_true: 0 or 1 per patch.

    Raises:
        InputError: If a logit is NaN or a class is missing.
    """
    require_scores(y_true, logit)
    regression = LogisticRegression(C=np.inf).fit(logit.astype(np.float64)[:, None], y_true)
    slope = float(regression.coef_[0, 0])
    if slope > 0:
        return Calibration(slope, float(regression.intercept_[0]))
    return Calibration(1.0, _fit_intercept(logit.astype(np.float64), y_true))


def choose_threshold(y_true: np.ndarray, y_score: np.ndarray, rule: ThresholdRule) -> float:
    """Return the probability that maximises the rule, half-way to the next lower score.

    Args:
        y_true: 0 or 1 per pool patch of the val cases.
        y_score: Calibrated probability per patch.
        rule: `youden`: sensitivity + specificity - 1 (Youden 1950); `f1`: F1 of the IDC class.

    Raises:
        InputError: If a score is NaN or a class is missing.
    """
    require_scores(y_true, y_score)
    if rule == "youden":
        fpr, tpr, thresholds = roc_curve(y_true, y_score)
        best = float(thresholds[np.argmax(tpr - fpr)])
    else:
        precision, recall, thresholds = precision_recall_curve(y_true, y_score)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = float(thresholds[np.argmax(f1[:-1])])
    lower = y_score[y_score < best]
    return (best + float(lower.max())) / 2 if len(lower) else best


@dataclass(frozen=True)
class OperatingPoint:
    """How one model's logits become predictions; frozen before test is looked at."""

    slope: float
    intercept: float
    threshold: float
    """Probability from which a patch is called IDC+."""
    threshold_rule: str
    model_digest: str
    """The weights that this point belongs to."""

    def score(self, logit: np.ndarray) -> np.ndarray:
        """Return the probability of IDC+ per logit, float64."""
        return Calibration(self.slope, self.intercept).apply(logit)

    def predict(self, logit: np.ndarray) -> np.ndarray:
        """Return the label per logit, int8."""
        return (self.score(logit) >= self.threshold).astype(np.int8)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "OperatingPoint":
        """Read it.

        Raises:
            InputError: If it is missing or has other fields.
        """
        try:
            return cls(**load_json(path))
        except TypeError as error:
            raise InputError(f"{path} is of another version ({error}): run `dvc repro`") from None


def _fit_intercept(logit: np.ndarray, y_true: np.ndarray) -> float:
    def loss(intercept: float) -> float:
        shifted = logit + intercept
        return -float(np.mean(y_true * log_expit(shifted) + (1 - y_true) * log_expit(-shifted)))

    return float(minimize_scalar(loss).x)
