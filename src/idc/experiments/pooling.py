"""Out-of-fold predictions of a cross-validation, pooled into one scoring of every tested patch.

Each fold has a model of its own, so a logit of 1 does not mean the same in two folds: pooled as
they are, the logits would be ranked by fold as well as by tissue. So the logits of each fold are
first mapped by the line that `fit_calibration` fits on that fold's val set, which shares no case
with its test set; then a logit is a log-odds of IDC+ in every fold, and one ranking is valid for
all. The decision is made at the threshold that Youden's J chooses on the same val set.

With few cases in val the line is uncertain, and the differences that it adds between folds lower
the pooled AUROC; the mean of the folds' own AUROCs, which no line affects, is reported as well.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from idc.core.errors import InputError
from idc.evaluation.ablation import OtherScores, compare_with_others, other_logits
from idc.evaluation.cases.calibrated_burden import BurdenLine, fit_burden
from idc.evaluation.cases.context import average_context, choose_kernel
from idc.evaluation.compare import PLACE
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    bootstrap_metrics,
    flatten_estimates,
    summarise_cases,
)
from idc.evaluation.statistics.metrics import auroc
from idc.evaluation.summary import burden_table
from idc.evaluation.threshold.calibration import Calibration, choose_threshold, fit_calibration
from idc.evaluation.threshold.operating_point import Context

MAIN_LOGIT = "logit"
CONTEXT_LOGIT = "logit_context"
TestedOnce = Literal["case", "patch"]
"""What only one fold may test: a whole case or, if patches were assigned to folds, a patch."""

_HALF = 0.5  # between the decisions 0 and 1


@dataclass(frozen=True)
class FoldPoint:
    """What is fitted on the val set of a fold for one of its logits: the line and the threshold."""

    slope: float
    intercept: float
    threshold: float
    """On the calibrated probability, by Youden's J."""

    def calibrate(self, logit: np.ndarray) -> np.ndarray:
        """Return the log-odds of IDC+ for each logit, float64."""
        log_odds: np.ndarray = self.slope * np.asarray(logit, np.float64) + self.intercept
        return log_odds

    def decide(self, logit: np.ndarray) -> np.ndarray:
        """Return the decision for each logit, int8: 1 if the probability reaches the threshold."""
        y_score = Calibration(self.slope, self.intercept).apply(logit)
        return (y_score >= self.threshold).astype(np.int8)


@dataclass(frozen=True)
class Pooled:
    """The test sets of some folds as one table, and what was done to each fold's logits."""

    predictions: pd.DataFrame
    """Columns `case`, `x`, `y`, `y_true` (int8), `fold` (int16), `y_pred` (int8, of `logit`), then
    `logit` and any further `logit_*`, float64 log-odds after calibration; sorted by place."""
    points: dict[str, dict[int, FoldPoint]]
    """Per logit column and fold."""


def pool_folds(
    folds: Mapping[int, pd.DataFrame],
    *,
    tested_once: TestedOnce = "case",
    context: Context = "gaussian",
) -> Pooled:
    """Calibrate each fold's test logits on its own val set, and put all test sets together.

    Args:
        folds: Per fold what `idc.data.tables.load_scores` returns: columns `case`, `x`, `y`,
            `split`, `y_true`, `logit`, and optionally further `logit_*` and `y_score_*`
            (probabilities of baselines, which become `logit_*`), the same in all folds.
        tested_once: `case`, or `patch` for folds of `split.mode` patch, which leak.
        context: If whole cases are tested, `logit_context` is added: the mean of `logit` over a
            patch and those around it, as `evaluate.context` weighs them; `none` adds nothing.

    Raises:
        InputError: If a subset is empty or of one class, the folds' logit columns differ, or a case
            (or patch) is tested in two folds.
    """
    folds = {
        fold: _with_all_logits(table, context if tested_once == "case" else "none")
        for fold, table in folds.items()
    }
    columns = {fold: logit_columns(table) for fold, table in folds.items()}
    names = next(iter(columns.values()))
    differing = [fold for fold in folds if columns[fold] != names]
    if differing:
        raise InputError(
            f"fold {differing[0]} has the logits {', '.join(columns[differing[0]])}, the first has "
            f"{', '.join(names)}: predict all folds with the same parameters"
        )
    points: dict[str, dict[int, FoldPoint]] = {name: {} for name in names}
    parts = []
    for fold, table in folds.items():
        test = table[table["split"] == "test"]
        part = test[[*PLACE, "y_true"]].assign(fold=np.int16(fold))
        for name in names:
            point = points[name][fold] = _fit_point(table[table["split"] == "val"], name)
            if name == MAIN_LOGIT:
                part["y_pred"] = point.decide(test[name].to_numpy())
            part[name] = point.calibrate(test[name].to_numpy())
        parts.append(part)
    pooled = pd.concat(parts).sort_values(PLACE, kind="stable", ignore_index=True)
    _reject_tested_twice(pooled, tested_once)
    return Pooled(pooled, points)


def _with_all_logits(table: pd.DataFrame, context: Context) -> pd.DataFrame:
    """Give every scoring a column `logit_<name>`; a mean of logits is calibrated as one logit."""
    logits = {f"{MAIN_LOGIT}_{name}": values for name, values in other_logits(table).items()}
    table = table.assign(**logits)
    if context == "none":
        return table
    case, x, y, logit, y_true = (table[name].to_numpy() for name in (*PLACE, MAIN_LOGIT, "y_true"))
    val = (table["split"] == "val").to_numpy()
    kernel = choose_kernel(context, case[val], x[val], y[val], logit[val], y_true[val])
    table[CONTEXT_LOGIT] = np.nan
    for subset in table["split"].unique():
        at = (table["split"] == subset).to_numpy()
        table.loc[at, CONTEXT_LOGIT] = average_context(case[at], x[at], y[at], logit[at], kernel)
    return table


def logit_columns(table: pd.DataFrame) -> list[str]:
    """Return `logit`, then the names of further `logit_*` columns in their order."""
    further = [name for name in table.columns if name.startswith(f"{MAIN_LOGIT}_")]
    return [MAIN_LOGIT, *further]


def measure_pooled(pooled: Pooled, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the figures of a cross-validation.

    Args:
        pooled: As `pool_folds` returns it.
        bootstrap: How cases are drawn.

    Returns:
        Per logit column `<column>/auroc` and `<column>/balanced_accuracy`, each with `_low` and
        `_high` of its 95 % interval over all tested cases (it covers the variation of cases, not
        that of training); `mean_fold_auroc` of `logit`, weighted by patches;
        `num_cases` and so on; `differences`: per other column, by how much `logit` is better in
        `auroc` and `balanced_accuracy`, paired by case (value, low, high); `folds`: per fold its
        AUROC without an interval, its numbers of patches and cases, and its calibration and
        threshold per logit column.

    Raises:
        InputError: If there are fewer than three cases.
    """
    table = pooled.predictions
    y_true, case = table["y_true"].to_numpy(), table["case"].to_numpy()
    figures: dict[str, Any] = asdict(summarise_cases(y_true, case))
    for name, points in pooled.points.items():
        scores = {
            "auroc": expit(table[name].to_numpy()),
            "balanced_accuracy": _decisions(table, name, points).astype(np.float64),
        }
        for metric, score in scores.items():
            estimates = bootstrap_metrics(
                y_true,
                score,
                case,
                _HALF,
                bootstrap,
                names=(metric,),
            )
            figures |= flatten_estimates(name, estimates)
    figures["differences"] = _compare_logits(pooled, bootstrap)
    folds = _describe_folds(pooled)
    weights = [fold["num_patches"] for fold in folds.values()]
    mean = np.average([fold["auroc"] for fold in folds.values()], weights=weights)
    return figures | {"mean_fold_auroc": float(mean), "folds": folds}


def decide_pooled(pooled: Pooled) -> pd.DataFrame:
    """Return the pooled patches in the form of a decided subset for `idc.evaluation.summary`.

    Columns `case`, `x`, `y`, `y_true`, `y_score`, `y_pred` and, if whole cases were tested,
    `context_y_score` and `context_y_pred`.
    """
    table = pooled.predictions
    decided = table[[*PLACE, "y_true", "y_pred"]].assign(y_score=expit(table[MAIN_LOGIT]))
    if CONTEXT_LOGIT in table:
        points = pooled.points[CONTEXT_LOGIT]
        decided["context_y_score"] = expit(table[CONTEXT_LOGIT])
        decided["context_y_pred"] = _decisions(table, CONTEXT_LOGIT, points)
    return decided


def calibrate_cases(
    folds: Mapping[int, pd.DataFrame], pooled: Pooled
) -> tuple[pd.DataFrame, dict[int, BurdenLine]]:
    """Return the tested cases with a calibrated burden, and the line of each fold.

    As with logits, a fold's line is fitted on its own val cases.

    Args:
        folds: As `pool_folds` takes them.
        pooled: What it made of them, whole cases being tested.

    Returns:
        `idc.evaluation.summary.burden_table` of all cases with `calibrated` and
        `calibrated_error`; the lines by fold.
    """
    lines = {}
    for fold, table in folds.items():
        val, point = table[table["split"] == "val"], pooled.points[MAIN_LOGIT][fold]
        logit = val[MAIN_LOGIT].to_numpy()
        decided = val.assign(y_score=expit(point.calibrate(logit)), y_pred=point.decide(logit))
        lines[fold] = fit_burden(burden_table(decided))
    cases = burden_table(decide_pooled(pooled))
    fold_of = pooled.predictions.groupby("case")["fold"].first()
    parts = cases.groupby(cases["case"].map(fold_of))
    calibrated = [lines[int(str(fold))].add_to(part) for fold, part in parts]
    return pd.concat(calibrated).sort_index(), lines


def _fit_point(val: pd.DataFrame, name: str) -> FoldPoint:
    y_true, logit = val["y_true"].to_numpy(), val[name].to_numpy()
    line = fit_calibration(logit, y_true)
    threshold = choose_threshold(y_true, line.apply(logit), "youden")
    return FoldPoint(line.slope, line.intercept, threshold)


def _decisions(table: pd.DataFrame, name: str, points: Mapping[int, FoldPoint]) -> np.ndarray:
    if name == MAIN_LOGIT:
        return np.asarray(table["y_pred"])
    threshold = table["fold"].map({fold: point.threshold for fold, point in points.items()})
    return np.asarray(expit(table[name]) >= threshold, np.int8)


def _compare_logits(pooled: Pooled, bootstrap: Bootstrap) -> dict[str, Any]:
    table = pooled.predictions
    scored = {
        name: OtherScores(expit(table[name].to_numpy()), _decisions(table, name, points))
        for name, points in pooled.points.items()
    }
    differences = compare_with_others(
        table,
        scored.pop(MAIN_LOGIT),
        scored,
        bootstrap,
    )
    return {
        name: {metric: vars(estimate) for metric, estimate in metrics.items()}
        for name, metrics in differences.items()
    }


def _describe_folds(pooled: Pooled) -> dict[str, Any]:
    described = {}
    for fold, part in pooled.predictions.groupby("fold"):
        y_true = part["y_true"].to_numpy()
        described[str(fold)] = {
            "num_patches": len(part),
            "num_cases": int(part["case"].nunique()),
            "auroc": auroc(y_true, part[MAIN_LOGIT].to_numpy()),
            "calibration": {
                name: asdict(points[int(str(fold))]) for name, points in pooled.points.items()
            },
        }
    return described


def _reject_tested_twice(pooled: pd.DataFrame, tested_once: TestedOnce) -> None:
    unit = ["case"] if tested_once == "case" else PLACE
    folds = pooled.groupby(unit)["fold"].nunique()
    twice = folds[folds > 1]
    if len(twice):
        first = twice.index[0]
        name = first if tested_once == "case" else f"{first[0]} x{first[1]} y{first[2]}"
        raise InputError(
            f"{tested_once} {name} is tested in {twice.iloc[0]} folds: run all folds with the same "
            "archive, seeds.data and number of folds"
        )
