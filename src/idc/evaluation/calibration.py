"""From a logit to a decision: calibrate on val, choose the threshold on val, keep both in one file.

Training on a balanced manifest shifts the logits; at natural prevalence a straight line through
them gives honest probabilities again, and leaves the ranking as it is.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.special import logit as to_logit
from sklearn.linear_model import LogisticRegression

from idc.errors import InputError
from idc.evaluation.metrics import require_both_classes, require_probabilities
from idc.files import load_json, save_json

ThresholdRule = Literal["youden", "f1"]


@dataclass(frozen=True)
class Calibration:
    """A line through the logits; `slope` is above 0, so the ranking stays."""

    slope: float
    intercept: float

    def apply(self, logit: np.ndarray) -> np.ndarray:
        """Return the probability of IDC+ for each logit, float64 in [0, 1]."""
        y_score: np.ndarray = expit(self.slope * np.asarray(logit, np.float64) + self.intercept)
        return y_score


def fit_calibration(logit: np.ndarray, y_true: np.ndarray) -> Calibration:
    """Fit the labels' probability as a logistic function of the logit, without penalty.

    This is Platt's scaling (1999), or Cox's recalibration (1958). It departs from the plain
    maximum of the likelihood in two cases:

    - The mean logit of IDC+ is not above that of IDC-, so that the slope would not be above 0:
      the slope stays 1 and only the intercept is fitted.
    - The logits separate the classes, so that the slope would be infinite: the labels give way to
      Platt's smoothed targets, (N+ + 1) / (N+ + 2) and 1 / (N- + 2).

    Args:
        logit: Logits of all pool patches of the val cases, (patches,).
        y_true: Labels, 0 or 1, (patches,).

    Raises:
        InputError: If there is no patch or only one class, or a logit is NaN or infinite.
    """
    require_both_classes(y_true, logit)
    logit, idc = np.asarray(logit, np.float64), np.asarray(y_true, bool)
    if logit[idc].mean() <= logit[~idc].mean():
        return Calibration(slope=1.0, intercept=_fit_intercept(logit, idc))
    separated = logit[idc].min() >= logit[~idc].max()
    slope, intercept = _fit_line(logit, _smooth(idc) if separated else idc.astype(np.float64))
    return Calibration(slope, intercept)


def choose_threshold(y_true: np.ndarray, y_score: np.ndarray, rule: ThresholdRule) -> float:
    """Return the threshold that maximises the rule on these patches.

    Candidates lie midway between neighbouring distinct scores, so that rounding on another
    machine moves no patch across; one more, half the lowest score, calls every patch IDC+. Of
    equally good candidates the lowest is taken: it misses the fewest IDC+ patches.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        rule: `youden`: sensitivity + specificity - 1; `f1`: F1 of the IDC+ class.

    Raises:
        InputError: If there is no patch or only one class, or a score is NaN or outside [0, 1].
    """
    require_probabilities(y_true, y_score)
    scores, rank = np.unique(np.asarray(y_score, np.float64), return_inverse=True)
    num_idc = _count_from(rank, y_true, len(scores))
    num_other = _count_from(rank, 1 - y_true, len(scores))
    if rule == "youden":
        # J times both class sizes: whole numbers, so that equal candidates compare equal.
        gain = num_idc * num_other[0] - num_other * num_idc[0]
    else:
        gain = 2 * num_idc / (num_idc + num_other + num_idc[0])
    return float(_midpoints(scores)[np.argmax(gain)])


@dataclass(frozen=True)
class OperatingPoint:
    """All that turns a model's logit into a decision, and how that logit is made."""

    slope: float
    intercept: float
    threshold: float
    threshold_rule: ThresholdRule
    model_digest: str
    """Digest of the model these numbers were fitted to; they mean nothing for another."""
    d4_average: bool
    """Whether they were fitted to logits averaged over the eight symmetries of the square. It is
    `predict.d4_average`, kept here because whoever applies the point, as the served model does,
    has no params.yaml and must score the same way."""

    def score(self, logit: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of IDC+ for each logit, float64 in [0, 1]."""
        return Calibration(self.slope, self.intercept).apply(logit)

    def predict(self, logit: np.ndarray) -> np.ndarray:
        """Return the decision for each logit: int8, 1 where the score reaches the threshold."""
        return (self.score(logit) >= self.threshold).astype(np.int8)

    def save(self, path: Path) -> None:
        """Write as JSON; every number is read back bit for bit."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "OperatingPoint":
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, is not JSON, or has a missing, unknown or wrong key.
        """
        content = load_json(path)
        _require_operating_point(content, path)
        return cls(**content)


def _fit_intercept(logit: np.ndarray, idc: np.ndarray) -> float:
    """Find the shift at which the mean score equals the prevalence."""
    prevalence = idc.mean()
    level = to_logit(prevalence)
    return float(
        brentq(
            lambda shift: expit(logit + shift).mean() - prevalence,
            level - logit.max() - 1,
            level - logit.min() + 1,
        )
    )


def _fit_line(logit: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Fit to targets in [0, 1]: each patch counts as IDC+ by its target and as IDC- by the rest."""
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=1000).fit(
        np.tile(logit, 2)[:, np.newaxis],
        np.repeat([1, 0], len(logit)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def _smooth(idc: np.ndarray) -> np.ndarray:
    num_idc = int(np.count_nonzero(idc))
    num_other = len(idc) - num_idc
    return np.where(idc, (num_idc + 1) / (num_idc + 2), 1 / (num_other + 2))


def _count_from(rank: np.ndarray, which: np.ndarray, num_ranks: int) -> np.ndarray:
    """Count the chosen patches at or above each rank, int64 (ranks,)."""
    at_rank = np.bincount(rank[np.asarray(which, bool)], minlength=num_ranks)
    return np.cumsum(at_rank[::-1])[::-1]


def _midpoints(scores: np.ndarray) -> np.ndarray:
    """Return, for each of the ascending scores, the threshold that lets in it and those above."""
    below = np.concatenate([[0.0], scores[:-1]])
    middle = (below + scores) / 2
    # Between neighbouring floats there is no middle, and rounding may fall on the lower one.
    return np.where(middle > below, middle, scores)


def _require_operating_point(content: Any, path: Path) -> None:  # noqa: ANN401  (any JSON value)
    remedy = f"delete {path} and run `dvc repro`"
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no operating point: {remedy}")
    known = {field.name for field in fields(OperatingPoint)}
    for keys, fault in ((known - content.keys(), "lacks"), (content.keys() - known, "has unknown")):
        if keys:
            raise InputError(f"{path} {fault} {', '.join(sorted(keys))}: {remedy}")
    for key in ("slope", "intercept", "threshold"):
        if type(content[key]) not in (int, float):
            raise InputError(f"{path}: {key} = {content[key]!r} is not a number: {remedy}")
    if content["threshold_rule"] not in ("youden", "f1"):
        raise InputError(f"{path}: threshold_rule = {content['threshold_rule']!r}: {remedy}")
    if not isinstance(content["model_digest"], str):
        raise InputError(f"{path}: model_digest is not text: {remedy}")
    if not isinstance(content["d4_average"], bool):
        raise InputError(f"{path}: d4_average is neither true nor false: {remedy}")
