"""Whole cases: how much of each is IDC+, how much is called so, and where on the slide.

What is measured here is how well a model *measures* a case. A diagnosis of a case cannot be learnt
from this data: every case is a cancer, so there is nothing to tell it from; the IDC- patches come
from the same cancer cases, from beside the tumour, and no benign case is among them; nor are case
ids proven patients. A share of IDC+ patches near 0 means that a slide shows little tumour, not
that somebody is healthy.

The burden of a case is its share of IDC+ patches. Cases count equally here, whatever their size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX
from idc.evaluation.cases.context import count_touching_places
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    Estimate,
    draw_counts,
    summarise_cases,
    t_quantile,
)

MIN_COMPLETE_PATCHES = 400
MAX_HOLE_SHARE = 0.5
MIN_AGREEMENT_CASES = 20

_Z = 1.96  # limits of agreement hold 95 % of normally distributed differences
_COVERAGE = 0.95
_PREDICTORS = ("score", "calibrated", "called")


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be given, and why."""

    reason: str


@dataclass(frozen=True)
class Agreement:
    """Predicted minus true burden over cases: bias and limits of agreement (Bland & Altman 1999).

    Each comes with its 95 % interval.
    """

    num_cases: int
    bias: Estimate
    lower_limit: Estimate
    upper_limit: Estimate


def measure_burden(
    case: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, y_score: np.ndarray
) -> pd.DataFrame:
    """Return true and predicted burden per case.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        y_true: Labels, 0 or 1, (patches,).
        y_pred: Decisions, 0 or 1, (patches,).
        y_score: Calibrated probability of IDC+, in [0, 1], (patches,).

    Returns:
        One row per case, sorted by `case`: `num_patches` (int64), `burden` (share of IDC+),
        `called_share` (share predicted IDC+), `mean_score`, `called_error` and `score_error` (those
        two minus `burden`), float64; `balanced_accuracy`, Float64, empty where the case has one
        class only.

    Raises:
        InputError: If there is no patch, the lengths differ, or a score is not in [0, 1].
    """
    _require_scored(case, y_true, y_pred, y_score)
    idc, called = np.asarray(y_true, bool), np.asarray(y_pred, bool)
    table = pd.DataFrame(
        {
            "case": case,
            "idc": idc,
            "called": called,
            "score": np.asarray(y_score, np.float64),
            "found": idc & called,
            "spared": ~idc & ~called,
        }
    )
    groups = table.groupby("case", sort=True)
    size, sums = groups.size(), groups[["idc", "found", "spared"]].sum()
    cases = pd.DataFrame(
        {
            "num_patches": size,
            "burden": sums["idc"] / size,
            "called_share": groups["called"].mean(),
            "mean_score": groups["score"].mean(),
        }
    )
    cases["called_error"] = cases["called_share"] - cases["burden"]
    cases["score_error"] = cases["mean_score"] - cases["burden"]
    both = (sums["idc"] > 0) & (sums["idc"] < size)
    # Float64 keeps "not defined" apart from a number; divisors are 1 where it does not matter
    sensitivity = sums["found"] / sums["idc"].clip(lower=1)
    specificity = sums["spared"] / (size - sums["idc"]).clip(lower=1)
    mean = ((sensitivity + specificity) / 2).astype("Float64")
    cases["balanced_accuracy"] = mean.where(both)
    return cases.reset_index()


def compare_burden(
    cases: pd.DataFrame, constant: float, bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """Return mean absolute errors of the predicted burden, and by how much they beat a constant.

    Cases are drawn with replacement, all with the same weight and for all predictors at once; an
    interval is the value +- t(cases - 1) x SD over the replicates.

    Args:
        cases: As `measure_burden` returns it, with the `calibrated_error` of
            `idc.evaluation.cases.calibrated_burden`.
        constant: What predicts every burden alike: the mean burden of the val or training cases.
        bootstrap: How cases are drawn.

    Returns:
        `mae_score`, `mae_calibrated`, `mae_called`, `mae_constant`: in [0, 1], lower is better;
        `mae_score_difference` and so on: minus that of the constant, so below 0 where the model is
        better; `mae_calibrated_minus_score`: below 0 where calibration helps.

    Raises:
        InputError: If there are fewer than three cases, or the constant is not in [0, 1].
    """
    if not 0.0 <= constant <= 1.0:
        raise InputError(f"the constant burden is {constant:g}: a share in [0, 1] is needed")
    burden = cases["burden"].to_numpy()
    errors = {
        **{name: np.abs(cases[f"{name}_error"].to_numpy()) for name in _PREDICTORS},
        "constant": np.abs(constant - burden),
    }
    one_each = np.arange(len(cases))
    quantile = t_quantile(summarise_cases(np.zeros(len(cases)), one_each))
    counts = draw_counts(len(cases), bootstrap)
    figures = {
        f"mae_{name}": _mean_over_cases(error, counts, quantile, low=0.0, high=1.0)
        for name, error in errors.items()
    }
    differences = {f"{name}_difference": (name, "constant") for name in _PREDICTORS}
    differences["calibrated_minus_score"] = ("calibrated", "score")
    for name, (one, other) in differences.items():
        figures[f"mae_{name}"] = _mean_over_cases(
            errors[one] - errors[other], counts, quantile, low=-1.0, high=1.0
        )
    return figures


def measure_agreement(predicted: np.ndarray, burden: np.ndarray) -> Agreement | Absent:
    """Return bias and limits of agreement of predicted and true burden.

    Bland & Altman 1999 (Stat. Methods Med. Res. 8:135): with d = predicted - true over n cases and
    SD s, the bias is mean d and the limits are bias +- 1.96 s; their standard errors are
    s sqrt(1/n) and s sqrt(1/n + 1.96^2 / (2 (n - 1))), with t on n - 1 degrees of freedom.

    Args:
        predicted: Predicted burden, (cases,).
        burden: True burden, (cases,).

    Returns:
        The agreement, or why it is absent: fewer than 20 cases say nothing of limits.

    Raises:
        InputError: If the lengths differ.
    """
    if len(predicted) != len(burden):
        raise InputError(f"{len(predicted)} predicted but {len(burden)} true burdens: one per case")
    num_cases = len(burden)
    if num_cases < MIN_AGREEMENT_CASES:
        return Absent(f"{num_cases} cases: limits of agreement need {MIN_AGREEMENT_CASES} or more")
    difference = np.asarray(predicted, np.float64) - np.asarray(burden, np.float64)
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    quantile = float(stdtrit(num_cases - 1, (1 + _COVERAGE) / 2))
    reach_bias = quantile * spread * np.sqrt(1 / num_cases)
    reach_limit = quantile * spread * np.sqrt(1 / num_cases + _Z**2 / (2 * (num_cases - 1)))
    return Agreement(
        num_cases=num_cases,
        bias=_around(bias, reach_bias),
        lower_limit=_around(bias - _Z * spread, reach_limit),
        upper_limit=_around(bias + _Z * spread, reach_limit),
    )


def find_worst_cases(
    cases: pd.DataFrame,
    by: Literal["score_error", "called_error", "balanced_accuracy"],
    *,
    num_cases: int,
) -> pd.DataFrame:
    """Return the cases that fare worst, the worst first; among equals in the order of their ids.

    Args:
        cases: As `measure_burden` returns it.
        by: An error of the burden, by its absolute value, or the balanced accuracy, which leaves
            out the cases where it is not defined.
        num_cases: How many, or as many as there are.
    """
    if by == "balanced_accuracy":
        badness = -cases[by].dropna().astype(np.float64)
    else:
        badness = cases[by].abs()
    ranked = pd.DataFrame({"badness": badness, "case": cases["case"].loc[badness.index]})
    worst = ranked.sort_values(["badness", "case"], ascending=[False, True]).index[:num_cases]
    return cases.loc[worst].reset_index(drop=True)


def describe_completeness(case: np.ndarray, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Tell per case whether it looks like a whole slide or like a sample of one.

    A case is complete where it has at least 400 patches and a hole share of at most 0.5. The hole
    share is the share of empty places among the eight around each patch: it is small inside a
    tissue, where only the edge adds to it, and near 1 where patches were drawn at random. Of the
    212 public cases at hand, the ten known as whole have 465 patches or more and hole shares of
    0.15 to 0.36; the others have at most 257 patches, and all but five hole shares over 0.88.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).

    Returns:
        One row per case, sorted by `case`: `num_patches` (int64), `hole_share` (float64, in
        [0, 1]), `is_complete` (bool).

    Raises:
        InputError: If the lengths differ, there is no patch, or a patch comes twice.
    """
    holes = 1 - count_touching_places(case, x, y) / 8
    groups = pd.DataFrame({"case": case, "holes": holes}).groupby("case", sort=True)["holes"]
    table = pd.DataFrame({"num_patches": groups.size(), "hole_share": groups.mean()}).reset_index()
    many = table["num_patches"] >= MIN_COMPLETE_PATCHES
    table["is_complete"] = many & (table["hole_share"] <= MAX_HOLE_SHARE)
    return table


def find_complete_cases(case: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[str]:
    """Return the ids of the cases that are complete by `describe_completeness`, sorted."""
    table = describe_completeness(case, x, y)
    return list(table.loc[table["is_complete"], "case"])


def dice(y_true: np.ndarray, y_pred: np.ndarray) -> float | None:
    """Return how far the called area covers the IDC+ area: 2 TP / (2 TP + FP + FN), in [0, 1].

    None where no patch is IDC+ and none is called so (Dice 1945; on patches it is the F1 of IDC+).

    Args:
        y_true: Labels, 0 or 1, (patches,).
        y_pred: Decisions, 0 or 1, (patches,).

    Raises:
        InputError: If the lengths differ.
    """
    if len(y_true) != len(y_pred):
        raise InputError(f"{len(y_true)} labels but {len(y_pred)} decisions: one per patch")
    idc, called = np.asarray(y_true, bool), np.asarray(y_pred, bool)
    both = int(np.count_nonzero(idc)) + int(np.count_nonzero(called))
    return 2 * int(np.count_nonzero(idc & called)) / both if both else None


def measure_dice(
    case: np.ndarray,
    y_true: np.ndarray,
    decisions: Mapping[str, np.ndarray],
    complete_cases: list[str],
) -> pd.DataFrame:
    """Return Dice per complete case and kind of decision.

    Args:
        case: Case id of each patch, (patches,).
        y_true: Labels, 0 or 1, (patches,).
        decisions: y_pred (patches,) by kind, such as `patch` and `context`.
        complete_cases: As `find_complete_cases` returns them.

    Returns:
        One row per complete case: `case`, `num_patches`, `burden`, then `dice_<kind>`, Float64,
        empty where no patch is IDC+ and none is called so.
    """
    rows = []
    for name in complete_cases:
        at = np.asarray(case) == name
        row = {"case": name, "num_patches": int(at.sum()), "burden": float(y_true[at].mean())}
        row |= {f"dice_{kind}": dice(y_true[at], y_pred[at]) for kind, y_pred in decisions.items()}
        rows.append(row)
    kinds = {f"dice_{kind}": "Float64" for kind in decisions}
    columns = ["case", "num_patches", "burden", *kinds]
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def slide_map(patches: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Lay values back where their patches lie on the slide.

    Args:
        patches: Columns `case`, `x`, `y` (px), of one case.
        values: One number per patch.

    Returns:
        float64 (rows, columns), a place per 50 px, from the first patch to the last in either
        direction; NaN where there is no patch.

    Raises:
        InputError: If there is no patch or more than one case, a patch comes twice or off the
            grid, or the lengths differ.
    """
    if patches["case"].nunique() != 1:
        raise InputError(f"a slide map is of one case, not {patches['case'].nunique()}")
    if len(values) != len(patches):
        raise InputError(f"{len(patches)} patches but {len(values)} values: one per patch")
    case = patches["case"].iloc[0]
    row, row_rest = _grid_places(patches["y"])
    column, column_rest = _grid_places(patches["x"])
    if row_rest.any() or column_rest.any():
        raise InputError(f"case {case} has patches off its grid of {PATCH_SIZE_PX} px")
    if patches.duplicated(["x", "y"]).any():
        raise InputError(f"case {case} has two patches at one place: give each patch once")
    laid = np.full((row.max() + 1, column.max() + 1), np.nan)
    laid[row, column] = values
    return laid


def _grid_places(corner: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    from_first = corner.to_numpy(np.int64) - int(corner.min())
    return np.divmod(from_first, PATCH_SIZE_PX)


def _mean_over_cases(
    values: np.ndarray, counts: np.ndarray, quantile: float, *, low: float, high: float
) -> Estimate:
    value = float(values.mean())
    reach = quantile * float(np.std(counts @ values / len(values), ddof=1))
    return Estimate(value=value, low=max(value - reach, low), high=min(value + reach, high))


def _around(value: float, reach: float) -> Estimate:
    return Estimate(value=value, low=value - float(reach), high=value + float(reach))


def _require_scored(
    case: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, y_score: np.ndarray
) -> None:
    lengths = {len(case), len(y_true), len(y_pred), len(y_score)}
    if len(lengths) > 1:
        raise InputError(f"arrays of {sorted(lengths)} patches: one value each per patch is needed")
    if len(y_true) == 0:
        raise InputError("no patches to measure: the subset is empty")
    if not (np.min(y_score) >= 0.0 and np.max(y_score) <= 1.0):
        raise InputError("a score is NaN or outside [0, 1]: probabilities are needed")
