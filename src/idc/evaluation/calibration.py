"""The operating point: how a logit becomes a probability and a call, fitted on val alone."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from idc.errors import InputError
from idc.evaluation.metrics import check_probabilities, check_scored
from idc.files import load_json, save_json

FloatArray = NDArray[np.float64]
ThresholdRule = Literal["youden", "f1"]

RULES: tuple[ThresholdRule, ...] = ("youden", "f1")


@dataclass(frozen=True)
class Calibration:
    """`y_score = expit(slope * logit + intercept)`; slope > 0, so the ranking is kept."""

    slope: float
    intercept: float

    def apply(self, logit: ArrayLike) -> FloatArray:
        """Return probabilities of IDC+ in [0, 1], float64, in the shape of `logit`."""
        values = np.asarray(logit, dtype=np.float64)
        return np.asarray(special.expit(self.slope * values + self.intercept), dtype=np.float64)


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration and threshold of one model, as kept beside it."""

    slope: float
    intercept: float
    threshold: float
    threshold_rule: ThresholdRule
    model_digest: str

    def score(self, logit: ArrayLike) -> FloatArray:
        """Return probabilities of IDC+ in [0, 1], float64, in the shape of `logit`."""
        return Calibration(self.slope, self.intercept).apply(logit)

    def predict(self, logit: ArrayLike) -> NDArray[np.int8]:
        """Return calls 0 (IDC-) or 1 (IDC+), int8, in the shape of `logit`."""
        return (self.score(logit) >= self.threshold).astype(np.int8)

    def save(self, path: Path) -> None:
        """Write the fields as JSON."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "OperatingPoint":
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, not JSON, or lacks a key, has one too many or
                holds a value of the wrong kind.
        """
        content = load_json(path)
        fault = _find_fault(content, {field.name for field in fields(cls)})
        if fault:
            raise InputError(f"{path} is not an operating point: {fault}")
        return cls(
            slope=float(content["slope"]),
            intercept=float(content["intercept"]),
            threshold=float(content["threshold"]),
            threshold_rule=content["threshold_rule"],
            model_digest=content["model_digest"],
        )


def fit_calibration(logit: ArrayLike, y_true: ArrayLike) -> Calibration:
    """Fit slope and intercept by unpenalised logistic regression of the label on the logit.

    Where the fitted slope is not positive, or the logits are all equal, the slope stays 1 and
    only the intercept is fitted. Where a cut separates the classes, so that no finite fit exists,
    the labels are Platt's smoothed targets. Sources: Cox 1958 (recalibration); Platt 1999.

    Args:
        logit: Model output, shape (patches,), finite.
        y_true: Labels 0 and 1, shape (patches,).

    Raises:
        InputError: On empty input, unequal lengths, one class only, or non-finite logits.
    """
    labels, logits = check_scored(y_true, logit, what="logit")
    positive, negative = logits[labels == 1], logits[labels == 0]
    # these two also cover all-equal logits; in both the best slope is not a positive number
    if positive.max() <= negative.min():
        return _fit_intercept(logits, labels)
    if positive.min() >= negative.max():
        return _fit_slope(logits, _smooth_targets(labels))
    calibration = _fit_slope(logits, labels.astype(np.float64))
    return calibration if calibration.slope > 0 else _fit_intercept(logits, labels)


def choose_threshold(y_true: ArrayLike, y_score: ArrayLike, rule: ThresholdRule) -> float:
    """Return the score cut that maximises the rule, with `y_pred = y_score >= cut`.

    A cut lies midway between adjacent distinct scores, or midway between 0 and the lowest score,
    which calls all patches IDC+. Of equally good cuts the lowest is taken, since it misses the
    fewest IDC+ patches. Source: Youden 1950.

    Args:
        y_true: Labels 0 and 1, shape (patches,).
        y_score: Probabilities of IDC+ in [0, 1], shape (patches,).
        rule: `youden`: sensitivity + specificity - 1; `f1`: F1 of the IDC class.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: As `compute_metrics`, or on an unknown rule.
    """
    labels, scores = check_probabilities(y_true, y_score)
    if rule not in RULES:
        raise InputError(f"threshold rule {rule!r} is none of {', '.join(RULES)}")
    distinct, group = np.unique(scores, return_inverse=True)
    tp = _count_from(group[labels == 1], distinct.size)
    fp = _count_from(group[labels == 0], distinct.size)
    best = int(np.argmax(_objective(tp, fp, rule)))
    upper = float(distinct[best])
    lower = float(distinct[best - 1]) if best else 0.0
    middle = lower + (upper - lower) / 2
    # neighbouring floats have nothing between them, and a cut at the lower one would call it IDC+
    return middle if middle > lower else upper


def _objective(tp: NDArray[np.int64], fp: NDArray[np.int64], rule: ThresholdRule) -> FloatArray:
    num_positive, num_negative = int(tp[0]), int(fp[0])
    if rule == "youden":
        # whole numbers, so that equally good cuts compare as equal
        return (tp * num_negative - fp * num_positive).astype(np.float64)
    return 2 * tp / (tp + fp + num_positive)


def _count_from(group: NDArray[np.intp], num_groups: int) -> NDArray[np.int64]:
    """Return how many patches fall in each group or a higher one."""
    counts = np.bincount(group, minlength=num_groups).astype(np.int64)
    return counts[::-1].cumsum()[::-1]


def _smooth_targets(labels: NDArray[np.int8]) -> FloatArray:
    num_positive = int(labels.sum())
    num_negative = labels.size - num_positive
    high, low = (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2)
    return np.where(labels == 1, high, low)


def _fit_slope(logits: FloatArray, targets: FloatArray) -> Calibration:
    """Return the maximum-likelihood fit, found on standardised logits for its conditioning."""
    mean, spread = float(logits.mean()), float(logits.std())
    design = np.column_stack([(logits - mean) / spread, np.ones_like(logits)])

    def loss(weights: FloatArray) -> float:
        linear = design @ weights
        return float(np.mean(np.logaddexp(0.0, linear) - targets * linear))

    def gradient(weights: FloatArray) -> FloatArray:
        residual = special.expit(design @ weights) - targets
        return np.asarray(design.T @ residual / targets.size)

    def hessian(weights: FloatArray) -> FloatArray:
        probability = special.expit(design @ weights)
        spread_of_label = probability * (1.0 - probability)
        return np.asarray((design.T * spread_of_label) @ design / targets.size)

    found = optimize.minimize(
        loss, np.zeros(2), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10}
    )
    slope = float(found.x[0]) / spread
    return Calibration(slope, float(found.x[1]) - slope * mean)


def _fit_intercept(logits: FloatArray, labels: NDArray[np.int8]) -> Calibration:
    """Return slope 1 and the intercept at which the mean probability is the prevalence."""
    prevalence = float(labels.mean())
    target = float(special.logit(prevalence))

    def excess(intercept: float) -> float:
        return float(np.mean(special.expit(logits + intercept))) - prevalence

    low, high = target - float(logits.max()) - 1.0, target - float(logits.min()) + 1.0
    return Calibration(1.0, float(optimize.brentq(excess, low, high, xtol=1e-12)))


def _find_fault(content: Any, names: set[str]) -> str | None:  # noqa: ANN401  (any JSON value)
    if not isinstance(content, dict):
        return "the file must hold one object"
    missing, unknown = sorted(names - content.keys()), sorted(content.keys() - names)
    if missing:
        return f"missing {', '.join(missing)}"
    if unknown:
        return f"unknown {', '.join(unknown)}"
    for name in ("slope", "intercept", "threshold"):
        value = content[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{name} = {value!r} is not a number"
    if content["threshold_rule"] not in RULES:
        return f"threshold_rule = {content['threshold_rule']!r} is none of {', '.join(RULES)}"
    if not isinstance(content["model_digest"], str):
        return f"model_digest = {content['model_digest']!r} is not a string"
    return None
