"""The frozen operating point, applied to the patches of a subset."""

import numpy as np
import pandas as pd

from idc.evaluation.cases.context import average_context
from idc.evaluation.threshold.operating_point import OperatingPoint


def column_thresholds(point: OperatingPoint) -> dict[str, float]:
    """Return the threshold by what stands before `log_odds`, `y_score` and `y_pred`.

    "" for each patch alone and, where the point has a context, "context_".
    """
    thresholds = {"": point.threshold}
    if point.context_threshold is not None:
        thresholds["context_"] = point.context_threshold
    return thresholds


def decide_patches(subset: pd.DataFrame, point: OperatingPoint) -> pd.DataFrame:
    """Add what an operating point makes of each patch.

    Args:
        subset: All pool patches of one subset: columns `case`, `x`, `y`, `logit`. Never manifest
        rows
            alone: the context would tell how many neighbours were drawn.
        point: Fitted on val.

    Returns:
        The table with `log_odds` (calibrated), `y_score` (probability) and `y_pred` (0 or 1); where
        the point has a context also `context_log_odds`, `context_y_score` and `context_y_pred`.

    Raises:
        InputError: If a patch comes twice, or a logit is NaN or infinite.
    """
    logit = subset["logit"].to_numpy(np.float64)
    log_odds = point.slope * logit + point.intercept
    decided = subset.assign(
        log_odds=log_odds, y_score=point.score(logit), y_pred=point.predict(logit)
    )
    if point.kernel is None:
        return decided
    case, x, y = (subset[name].to_numpy() for name in ("case", "x", "y"))
    around = average_context(case, x, y, log_odds, point.kernel)
    y_score = point.score_context(around)
    return decided.assign(
        context_log_odds=point.context_slope * around + point.context_intercept,
        context_y_score=y_score,
        context_y_pred=(y_score >= column_thresholds(point)["context_"]).astype(np.int8),
    )
