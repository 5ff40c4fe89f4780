"""From a logit to a decision: calibrate on val, choose the threshold on val.

Training on a balanced manifest shifts the logits; at natural prevalence a straight line through
them gives honest probabilities again, and leaves the ranking as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.special import logit as to_logit
from sklearn.linear_model import LogisticRegression

from idc.core.config import required_sensitivity
from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    Estimate,
    draw_two_class,
    lay_interval,
    summarise_cases,
    t_quantile,
)
from idc.evaluation.statistics.metrics import require_both_classes, require_probabilities
from idc.evaluation.statistics.replicates import CaseDraws, map_rows

_MIN_SCORE = 1e-9  # stands for a threshold of 0, whose logit would be infinite


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
    slope, intercept = fit_line(logit, _smooth(idc) if separated else idc.astype(np.float64))
    return Calibration(slope, intercept)


def fit_line(logit: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Fit a logistic line to shares, without penalty: slope and intercept.

    Each counts as IDC+ by its target and as IDC- by the rest.

    Args:
        logit: Finite, (rows,).
        target: Shares in [0, 1] that no cut of the logits separates into 0 and 1, (rows,).
    """
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=1000).fit(
        np.tile(logit, 2)[:, np.newaxis],
        np.repeat([1, 0], len(logit)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def prior_shift(
    pool_prevalence: float, num_training_patches: Sequence[int], class_weights: Sequence[float]
) -> float:
    """Return by how much the prevalence alone shifts the logits: the intercept to be expected.

    A model trained on IDC+ at the share pi_train, weights counted in, learns log-odds that are too
    high by logit(pi_train) - logit(pi_pool) for a pool of the share pi_pool (Saerens et al. 2002,
    Neural Comput. 14:21; King & Zeng 2001):

        prior shift = logit(pi_pool) - logit(pi_train),  pi_train = n1 w1 / (n0 w0 + n1 w1)

    If the model is calibrated on its own training mix, the line fitted on val has slope 1 and this
    intercept. A fitted intercept far from it, at a slope near 1, says that val differs from train
    in more than prevalence.

    Args:
        pool_prevalence: Share of IDC+ among the pool patches, above 0 and below 1.
        num_training_patches: Training patches of IDC- and of IDC+.
        class_weights: Weight of IDC- and of IDC+ in the training loss.

    Raises:
        InputError: If a class is missing in the pool or has no weight in training.
    """
    weight_other, weight_idc = np.multiply(num_training_patches, class_weights).tolist()
    if not 0.0 < pool_prevalence < 1.0 or min(weight_other, weight_idc) <= 0.0:
        raise InputError(
            f"no prior shift from a training mix of {weight_other:g} IDC- and {weight_idc:g} IDC+ "
            f"to a pool with {pool_prevalence:g} IDC+: both need both classes"
        )
    return float(to_logit(pool_prevalence) - np.log(weight_idc / weight_other))


def choose_threshold(y_true: np.ndarray, y_score: np.ndarray, rule: str) -> float:
    """Return the threshold that a rule takes on these patches.

    Candidates lie midway between neighbouring distinct scores, so that rounding on another
    machine moves no patch across; one more, half the lowest score, calls every patch IDC+. Of
    candidates that maximise `youden` or `f1` alike the lowest is taken: it misses the fewest IDC+
    patches.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        rule: `youden`: sensitivity + specificity - 1 is largest; `f1`: F1 of the IDC+ class is;
            `sensitivity >= x`: the highest candidate at which sensitivity is at least x.

    Raises:
        InputError: If there is no patch or only one class, a score is NaN or outside [0, 1], or
            there is no such rule.
    """
    require_probabilities(y_true, y_score)
    ladder = _Ladder.build(y_true, y_score, np.zeros(len(y_true), np.int64), rule)
    return ladder.choose(np.ones(1, np.int64))


def bootstrap_threshold(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case: np.ndarray,
    rule: str,
    bootstrap: Bootstrap,
) -> Estimate:
    """Return the threshold that a rule takes, with its 95 % interval over the drawn cases.

    Each replicate of the case bootstrap chooses anew; the calibration behind the scores is held.
    The interval is laid as those of the metrics are, on the scale of the logit.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        rule: As for `choose_threshold`.
        bootstrap: How cases are drawn.

    Raises:
        InputError: As `choose_threshold` does, or if there are fewer than three cases.
    """
    value = choose_threshold(y_true, y_score, rule)
    summary = summarise_cases(y_true, case)
    quantile = t_quantile(summary)
    draws = draw_two_class(y_true, case, bootstrap)
    replicates = replicate_thresholds(y_true, y_score, rule, draws)
    return lay_interval("threshold", value, replicates, quantile, margin=_MIN_SCORE)


def replicate_thresholds(
    y_true: np.ndarray, y_score: np.ndarray, rule: str, draws: CaseDraws
) -> np.ndarray:
    """Return the threshold that the rule takes in every replicate, float64 (replicates,).

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_score: Probability of IDC+, in [0, 1], (patches,).
        rule: As for `choose_threshold`.
        draws: The replicates; each must draw both classes.
    """
    return map_rows(_Ladder.build(y_true, y_score, draws.case_index, rule).choose, draws.counts)


@dataclass(frozen=True)
class _Ladder:
    """The patches by rising score, from which weighted ones can be counted at every cut."""

    scores: np.ndarray
    """The distinct scores, float64 (ranks,)."""
    case_of_idc: np.ndarray
    case_of_other: np.ndarray
    idc_below: np.ndarray
    """How many IDC+ patches score below each rank, then all of them, int64 (ranks + 1,)."""
    other_below: np.ndarray
    rule: str
    required: float | None

    @classmethod
    def build(
        cls, y_true: np.ndarray, y_score: np.ndarray, case_index: np.ndarray, rule: str
    ) -> "_Ladder":
        required = _parse_rule(rule)
        scores, rank = np.unique(np.asarray(y_score, np.float64), return_inverse=True)
        idc = np.asarray(y_true, bool)
        order = np.argsort(rank, kind="stable")
        rank, idc, case_index = rank[order], idc[order], case_index[order]
        ranks = np.arange(len(scores) + 1)
        return cls(
            scores=scores,
            case_of_idc=case_index[idc],
            case_of_other=case_index[~idc],
            idc_below=np.searchsorted(rank[idc], ranks),
            other_below=np.searchsorted(rank[~idc], ranks),
            rule=rule.strip(),
            required=required,
        )

    def choose(self, drawn: np.ndarray) -> float:
        """Return the threshold where case c counts `drawn[c]` times."""
        idc_below = _running_sum(drawn.take(self.case_of_idc)).take(self.idc_below)
        other_below = _running_sum(drawn.take(self.case_of_other)).take(self.other_below)
        num_idc, num_other = idc_below[-1] - idc_below[:-1], other_below[-1] - other_below[:-1]
        if self.required is not None:
            # falls from 1 with the rank; a quotient of whole numbers meets 0.9 exactly
            rank = int(np.count_nonzero(num_idc / num_idc[0] >= self.required)) - 1
        elif self.rule == "youden":
            # J times both class sizes: whole numbers, so that equal candidates compare equal
            rank = int(np.argmax(num_idc * num_other[0] - num_other * num_idc[0]))
        else:
            rank = int(np.argmax(2 * num_idc / (num_idc + num_other + num_idc[0])))
        return self._cut_below(rank, (num_idc, num_other))

    def _cut_below(self, rank: int, num_from: tuple[np.ndarray, np.ndarray]) -> float:
        """Return the middle between the drawn scores on both sides of the cut below `rank`."""
        # at a rank that nothing was drawn from, as many are called as at the next one
        rising = -(num_from[0] + num_from[1])
        first, after = (
            np.searchsorted(rising, rising[rank], subset) for subset in ("left", "right")
        )
        above = float(self.scores[after - 1])
        below = float(self.scores[first - 1]) if first > 0 else 0.0
        middle = (below + above) / 2
        # between neighbouring floats there is no middle, and rounding may fall on the lower one
        return middle if middle > below else above


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


def _smooth(idc: np.ndarray) -> np.ndarray:
    num_idc = int(np.count_nonzero(idc))
    num_other = len(idc) - num_idc
    return np.where(idc, (num_idc + 1) / (num_idc + 2), 1 / (num_other + 2))


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Return the sum of the first 0, 1, ... values, int64."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def _parse_rule(rule: str) -> float | None:
    try:
        return required_sensitivity(rule)
    except ValueError as error:
        raise InputError(f"threshold rule {rule!r}: {error}") from None
