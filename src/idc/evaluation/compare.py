"""Is one scoring better than another on the same patches, when cases are the independent unit?

Both scorings meet the same replicates of the case bootstrap, so what makes a case hard for both
cancels out of the difference (the paired bootstrap: Efron & Tibshirani 1993, chapter 8; for AUROCs
of correlated scores the question of DeLong 1988, here with whole cases drawn):

    d = m(second) - m(first),   d +- t(df) * SD_b[m_b(second) - m_b(first)]

with m_b the metric on replicate b, SD_b the standard deviation over the replicates, and df =
effective cases - 1, as in `idc.evaluation.statistics.bootstrap`. A difference near 0 needs no other
scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    CaseSummary,
    Estimate,
    draw_two_class,
    summarise_cases,
    t_quantile,
)
from idc.evaluation.statistics.metrics import (
    auroc,
    balanced_accuracy,
    brier,
    sensitivity,
    specificity,
)
from idc.evaluation.statistics.replicates import replicate_metrics

PLACE = ["case", "x", "y"]

_HALF = 0.5  # between the decisions 0 and 1
_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": auroc,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "brier": brier,
}


def compare_scorings(
    first: pd.DataFrame, second: pd.DataFrame, bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """Return by how much the second scoring is better, with a 95 % interval, per metric.

    Rows are matched by `case`, `x` and `y`, whatever their order.

    Args:
        first: Columns `case`, `x`, `y`, `y_true` (0 or 1), `y_score` (any finite number, larger is
            more like IDC+) and, if decisions are to be compared, `y_pred` (0 or 1: the score
            reaches the threshold, which may differ between the scorings and between folds).
        second: Likewise, of the same patches.
        bootstrap: How cases are drawn.

    Returns:
        `auroc`, and `balanced_accuracy` where both have `y_pred`: second minus first, in [-1, 1].

    Raises:
        InputError: If the patches or their labels differ, a patch comes twice, there are fewer
            than three cases or only one class, or a score is NaN or infinite.
    """
    first, second = _matched(first, second)
    pairs = {"auroc": (first["y_score"].to_numpy(), second["y_score"].to_numpy())}
    if "y_pred" in first and "y_pred" in second:
        pairs["balanced_accuracy"] = (first["y_pred"].to_numpy(), second["y_pred"].to_numpy())
    differences = paired_differences(
        first["y_true"].to_numpy(),
        first["case"].to_numpy(),
        pairs,
        bootstrap,
    )
    return {name: difference.estimate() for name, difference in differences.items()}


@dataclass(frozen=True)
class Difference:
    """A metric of the second scoring minus that of the first, on the same patches."""

    value: float
    standard_error: float
    """Standard deviation over the replicates of the case bootstrap."""
    cases: CaseSummary

    def estimate(self) -> Estimate:
        """Return it with its 95 % interval."""
        reach = t_quantile(self.cases) * self.standard_error
        return Estimate(value=self.value, low=self.value - reach, high=self.value + reach)

    def lower_bound(self, error: float) -> float:
        """Return what the truth is above, but for a probability of `error` in (0, 0.5)."""
        return self.value - t_quantile(self.cases, error) * self.standard_error

    def upper_bound(self, error: float) -> float:
        """Return what the truth is below, but for a probability of `error` in (0, 0.5)."""
        return self.value + t_quantile(self.cases, error) * self.standard_error


def paired_differences(
    y_true: np.ndarray,
    case: np.ndarray,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Return second minus first of each metric; both meet the same replicates.

    Args:
        y_true: Labels, 0 or 1, (patches,).
        case: Case id of each patch, any sortable type, (patches,).
        pairs: By metric, of `auroc`, `balanced_accuracy`, `sensitivity`, `specificity` and `brier`,
            what it is worked out from in the first and in the second scoring, (patches,) each:
            scores, or decisions (0 or 1) where the metric looks at those.
        bootstrap: How cases are drawn.

    Raises:
        InputError: If there are fewer than three cases or only one class, or a score is NaN or
            infinite.
    """
    points = {
        name: [_METRICS[name](y_true, scores) for scores in scorings]
        for name, scorings in pairs.items()
    }
    summary = summarise_cases(y_true, case)
    draws = draw_two_class(y_true, case, bootstrap)
    differences = {}
    for name, scorings in pairs.items():
        before, after = (
            replicate_metrics(
                y_true,
                scores.astype(np.float64),
                _HALF,
                draws,
                seed=bootstrap.seed,
                names=(name,),
            )[name]
            for scores in scorings
        )
        value = points[name][1] - points[name][0]
        spread = float(np.std(after - before, ddof=1))
        differences[name] = Difference(value, spread, summary)
    return differences


def _matched(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring both into the order of their places.

    Raises:
        InputError: If they are not of the same patches and labels.
    """
    ordered = [_by_place(table, name) for table, name in ((first, "first"), (second, "second"))]
    one, other = (pd.MultiIndex.from_frame(table[PLACE]) for table in ordered)
    if not one.equals(other):
        raise InputError(
            f"the two scorings are of different patches: {len(one.difference(other))} are in the "
            f"first only, {len(other.difference(one))} in the second only; score the same ones"
        )
    wrong = ordered[0]["y_true"].to_numpy() != ordered[1]["y_true"].to_numpy()
    if wrong.any():
        where = _name(ordered[0].iloc[int(wrong.argmax())])
        raise InputError(
            f"the two scorings disagree on the label of {int(wrong.sum())} patches, the first at "
            f"{where}: they are of different archives"
        )
    return ordered[0], ordered[1]


def _by_place(table: pd.DataFrame, name: str) -> pd.DataFrame:
    ordered = table.sort_values(PLACE, kind="stable", ignore_index=True)
    twice = ordered.duplicated(PLACE)
    if twice.any():
        where = _name(ordered.iloc[int(twice.to_numpy().argmax())])
        raise InputError(f"the {name} scoring holds {where} twice: score each patch once")
    return ordered


def _name(patch: pd.Series) -> str:
    return f"{patch['case']} x{patch['x']} y{patch['y']}"
