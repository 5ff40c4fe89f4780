"""The mean score of a case, mapped to its burden by a line that val cases alone have set.

A mean of calibrated scores may lean: calibration weighs patches, a burden weighs cases, and large
cases differ from small ones. A line through the log-odds, one pair of numbers per val case, takes
that out on average.

It cannot make predictions spread as the truth does. Of a fair prediction the truth is the
prediction plus an error, so its variance is larger by that of the error; predictions stretched to
the spread of the truth would err more.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from idc.evaluation.threshold.calibration import fit_line

MIN_VAL_CASES = 10

_MARGIN = 1e-3  # stands for a share of 0, whose log-odds would be infinite
_ROUNDING = 1e-12  # a covariance below it is none; the slope has its sign


@dataclass(frozen=True)
class BurdenLine:
    """Log-odds of the burden = slope x log-odds of the mean score + intercept."""

    slope: float
    """Above 0, so the ranking of cases stays."""
    intercept: float
    num_cases: int
    """Val cases that it was to be fitted on."""
    reason: str
    """Why nothing was fitted, so that the mean score stays as it is; "" where it was."""

    def apply(self, mean_score: np.ndarray) -> np.ndarray:
        """Return the calibrated burden for each mean score, float64 in [0, 1]."""
        score = np.asarray(mean_score, np.float64)
        if self.reason:
            return score
        burden: np.ndarray = expit(self.slope * _log_odds(score) + self.intercept)
        return burden

    def add_to(self, cases: pd.DataFrame) -> pd.DataFrame:
        """Return the cases with `calibrated` and `calibrated_error` (it minus `burden`), float64.

        Args:
            cases: As `idc.evaluation.cases.burden.measure_burden` returns it.
        """
        calibrated = self.apply(cases["mean_score"].to_numpy())
        return cases.assign(calibrated=calibrated, calibrated_error=calibrated - cases["burden"])


def fit_burden(cases: pd.DataFrame) -> BurdenLine:
    """Fit burden to mean score over the val cases, all with the same weight.

    A logistic line through shares, by the likelihood of Bernoulli (fractional logit: Papke &
    Wooldridge 1996, J. Appl. Econom. 11:619). With fewer than ten cases, or where the burden does
    not rise with the mean score, nothing is fitted, and `reason` says so.

    Args:
        cases: Those of val, as `idc.evaluation.cases.burden.measure_burden` returns them.
    """
    num_cases = len(cases)
    if num_cases < MIN_VAL_CASES:
        return _identity(num_cases, f"{num_cases} val cases: a line needs {MIN_VAL_CASES} or more")
    log_odds = _log_odds(cases["mean_score"].to_numpy())
    burden = np.clip(cases["burden"].to_numpy(), _MARGIN, 1 - _MARGIN)
    if np.cov(log_odds, burden)[0, 1] < _ROUNDING:
        return _identity(num_cases, "on val the burden does not rise with the mean score")
    slope, intercept = fit_line(log_odds, burden)
    return BurdenLine(slope, intercept, num_cases, "")


def _identity(num_cases: int, reason: str) -> BurdenLine:
    return BurdenLine(slope=1.0, intercept=0.0, num_cases=num_cases, reason=reason)


def _log_odds(share: np.ndarray) -> np.ndarray:
    log_odds: np.ndarray = logit(np.clip(np.asarray(share, np.float64), _MARGIN, 1 - _MARGIN))
    return log_odds
