"""Where a model is weak: the primary metrics and the calibration in parts of a subset.

Only the primary metrics are told, ranking (AUROC) and decision (balanced accuracy at the frozen
threshold), because every further figure in every further subgroup is another chance to find a
difference that is none. For the same reason an interval that leaves out the overall value is no
proof of a weakness among so many.

Families made of labels (`case_burden`, `border`) move the calibration by being chosen: cases picked
for few IDC+ patches have fewer than a fair model expects of them. Compare such groups by AUROC and
balanced accuracy, and calibration over the other families.

| family | groups | of |
|---|---|---|
| `case_burden` | `low`, `middle`, `high` | thirds of the cases by their share of IDC+ |
| `stain` | `pale`, `middle`, `dark` | thirds of the patches by mean optical density of tissue |
| `white_share` | `up_to_10`, `10_to_50`, `over_50` | per cent of white pixels |
| `size` | `whole`, `sliver` | 50x50 px, or a slide-edge patch that is not |
| `border` | `border`, `interior`, `alone` | touching a patch of the other label, not, or no patch |
"""

import numpy as np
import pandas as pd
from scipy.special import expit

from idc.core.errors import InputError
from idc.evaluation.cases.burden import Absent
from idc.evaluation.cases.context import distance_to_border, label_regions
from idc.evaluation.statistics.bootstrap import (
    Bootstrap,
    Estimate,
    bootstrap_metrics,
    bootstrap_share,
    draw_counts,
    summarise_cases,
    t_quantile,
)
from idc.evaluation.statistics.metrics import MIN_CASES, PRIMARY
from idc.evaluation.threshold.calibration import fit_calibration

SMALL_REGION_PATCHES = 9
REGION_FIGURES = ("sensitivity_small_regions", "sensitivity_large_regions")

_COLUMNS = ("case", "x", "y", "y_true", "log_odds", "mean_optical_density", "white_share", "sliver")
_THIRDS = [1 / 3, 2 / 3]
_Figures = dict[str, Estimate | Absent]


def subgroup_table(patches: pd.DataFrame, threshold: float, bootstrap: Bootstrap) -> pd.DataFrame:
    """Measure every subgroup.

    Args:
        patches: All pool patches of a subset: `case`, `x`, `y`, `y_true` (0 or 1), `log_odds`
            (calibrated, finite), `mean_optical_density` and `white_share` (as
            `idc.data.quality.describe_pixels` returns them), `sliver` (bool).
        threshold: The frozen one: a patch is predicted IDC+ where its probability is at least this.
        bootstrap: How cases are drawn.

    Returns:
        One row per family, group and metric: `family`, `group`, `label` (in plain words, with
        limits), `num_patches`, `num_cases`, `num_idc`, `metric`, `value`, `low`, `high` (Float64)
        and `reason` (text). Where a metric cannot be given, its numbers are empty and `reason`
        says why; else `reason` is "". Metrics: `auroc`, `balanced_accuracy`; `calibration_gap`
        (mean score minus share of IDC+); `calibration_slope` and `calibration_intercept` (of
        Cox's logistic recalibration: 1 and 0 where log-odds mean what they say), point estimates
        without an interval.

    Raises:
        InputError: If a column is missing, there is no patch, a patch comes twice, or a value is
            NaN or infinite.
    """
    _require_patches(patches)
    rows: list[dict[str, object]] = []
    for family, groups in find_subgroups(patches).items():
        for group, (label, inside) in groups.items():
            part = patches[inside]
            counts = {
                "num_patches": len(part),
                "num_cases": int(part["case"].nunique()),
                "num_idc": int(part["y_true"].sum()),
            }
            figures = _measure(part, threshold, bootstrap)
            named = {"family": family, "group": group, "label": label} | counts
            rows += [named | {"metric": name} | _cells(figure) for name, figure in figures.items()]
    return pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), "Float64"))


def find_subgroups(patches: pd.DataFrame) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """Return per family and group its label in plain words and which patches are in it, bool.

    Args:
        patches: As `subgroup_table` takes them.
    """
    return {
        "case_burden": _burden_thirds(patches),
        "stain": _stain_thirds(patches["mean_optical_density"].to_numpy()),
        "white_share": _white_groups(patches["white_share"].to_numpy()),
        "size": {
            "whole": ("50x50 px", ~patches["sliver"].to_numpy(bool)),
            "sliver": ("slivers at the slide's edge", patches["sliver"].to_numpy(bool)),
        },
        "border": _border_groups(patches),
    }


def measure_regions(
    patches: pd.DataFrame, threshold: float, bootstrap: Bootstrap
) -> dict[str, Estimate | Absent]:
    """Return the sensitivity in small and in large regions of touching IDC+ patches.

    Give complete cases only: a sampled region is a small one.

    Args:
        patches: `case`, `x`, `y`, `y_true`, `log_odds`, as `subgroup_table` takes them.
        threshold: The frozen one.
        bootstrap: How cases are drawn.

    Returns:
        `sensitivity_small_regions` (under 9 patches) and `sensitivity_large_regions`: the share of
        their patches predicted IDC+, over all patches of such regions.

    Raises:
        InputError: If there is no patch or a patch comes twice.
    """
    regions = label_regions(*(patches[name].to_numpy() for name in ("case", "x", "y", "y_true")))
    size = regions["region_size"].to_numpy()
    hits = expit(patches["log_odds"].to_numpy(np.float64)) >= threshold
    figures: _Figures = {}
    parts = ((size > 0) & (size < SMALL_REGION_PATCHES), size >= SMALL_REGION_PATCHES)
    for name, inside in zip(REGION_FIGURES, parts, strict=True):
        case = patches["case"].to_numpy()[inside]
        missing = _too_few(case)
        figures[name] = missing or bootstrap_share(hits[inside], case, bootstrap)
    return figures


def measure_borders(
    patches: pd.DataFrame, threshold: float, bootstrap: Bootstrap
) -> dict[str, Estimate | Absent]:
    """Return the AUROC where labels change and where they do not.

    Args:
        patches: `case`, `x`, `y`, `y_true`, `log_odds`, as `subgroup_table` takes them.
        threshold: The frozen one; it does not change an AUROC.
        bootstrap: How cases are drawn.

    Returns:
        `auroc_border` (patches touching one of the other label) and `auroc_interior` (touching
        patches of their own label only).

    Raises:
        InputError: If there is no patch or a patch comes twice.
    """
    y_score = expit(patches["log_odds"].to_numpy(np.float64))
    figures: _Figures = {}
    groups = _border_groups(patches)
    for name in ("border", "interior"):
        inside = groups[name][1]
        y_true, case = (patches[column].to_numpy()[inside] for column in ("y_true", "case"))
        measured = _measure_primary(y_true, y_score[inside], case, threshold, bootstrap)
        figures[f"auroc_{name}"] = measured["auroc"]
    return figures


def _measure(part: pd.DataFrame, threshold: float, bootstrap: Bootstrap) -> _Figures:
    y_true, case = part["y_true"].to_numpy(), part["case"].to_numpy()
    log_odds = part["log_odds"].to_numpy(np.float64)
    y_score = expit(log_odds)
    primary = _measure_primary(y_true, y_score, case, threshold, bootstrap)
    gap = _too_few(case) or _bootstrap_gap(y_true, y_score, case, bootstrap)
    return primary | {"calibration_gap": gap} | _calibration_line(y_true, log_odds)


def _measure_primary(
    y_true: np.ndarray,
    y_score: np.ndarray,
    case: np.ndarray,
    threshold: float,
    bootstrap: Bootstrap,
) -> _Figures:
    missing = _too_few(case) or _one_class(y_true)
    if missing is not None:
        return dict.fromkeys(PRIMARY, missing)
    try:
        figures = bootstrap_metrics(
            y_true,
            y_score,
            case,
            threshold,
            bootstrap,
            names=PRIMARY,
        )
    except InputError as error:  # such as a class that next to no replicate draws
        return dict.fromkeys(PRIMARY, Absent(str(error)))
    return {name: figures[name] for name in PRIMARY}


def _bootstrap_gap(
    y_true: np.ndarray, y_score: np.ndarray, case: np.ndarray, bootstrap: Bootstrap
) -> Estimate:
    """Mean score minus share of IDC+, with t x SD over drawn cases; a difference needs no scale."""
    summary = summarise_cases(y_true, case)
    case_index = np.unique(case, return_inverse=True)[1]
    counts = draw_counts(summary.num_cases, bootstrap)
    gaps = counts @ np.bincount(case_index, weights=y_score - y_true)
    reach = t_quantile(summary) * float(np.std(gaps / (counts @ np.bincount(case_index)), ddof=1))
    value = float(np.mean(y_score - y_true))
    return Estimate(value=value, low=value - reach, high=value + reach)


def _calibration_line(y_true: np.ndarray, log_odds: np.ndarray) -> _Figures:
    idc = np.asarray(y_true, bool)
    missing = _one_class(y_true) if len(idc) else Absent("no patches")
    if missing is None and log_odds[idc].mean() <= log_odds[~idc].mean():
        missing = Absent("IDC+ scores no higher than IDC-")
    if missing is None and log_odds[idc].min() >= log_odds[~idc].max():
        missing = Absent("scores separate the classes")
    if missing is not None:
        return {"calibration_slope": missing, "calibration_intercept": missing}
    line = fit_calibration(log_odds, y_true)
    return {
        f"calibration_{name}": Estimate(value=value, low=np.nan, high=np.nan)
        for name, value in (("slope", line.slope), ("intercept", line.intercept))
    }


def _burden_thirds(patches: pd.DataFrame) -> dict[str, tuple[str, np.ndarray]]:
    by_case = patches.groupby("case")["y_true"]
    low, high = np.quantile(by_case.mean(), _THIRDS)
    burden = by_case.transform("mean").to_numpy(np.float64)
    return {
        "low": (f"up to {low:.2f} IDC+", burden <= low),
        "middle": (f"{low:.2f} to {high:.2f} IDC+", (burden > low) & (burden <= high)),
        "high": (f"over {high:.2f} IDC+", burden > high),
    }


def _stain_thirds(density: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    low, high = np.quantile(density, _THIRDS)
    return {
        "pale": (f"density up to {low:.2f}", density <= low),
        "middle": (f"density {low:.2f} to {high:.2f}", (density > low) & (density <= high)),
        "dark": (f"density over {high:.2f}", density > high),
    }


def _white_groups(white: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    return {
        "up_to_10": ("up to 10 % white", white <= 0.1),
        "10_to_50": ("10 to 50 % white", (white > 0.1) & (white <= 0.5)),
        "over_50": ("over 50 % white", white > 0.5),
    }


def _border_groups(patches: pd.DataFrame) -> dict[str, tuple[str, np.ndarray]]:
    place = (patches[name].to_numpy() for name in ("case", "x", "y", "y_true"))
    distance = distance_to_border(*place, max_distance=1)
    border, interior = distance["is_border"].to_numpy(), distance["is_interior"].to_numpy()
    return {
        "border": ("touching the other label", border),
        "interior": ("touching their own label only", interior),
        "alone": ("touching no patch at hand", ~border & ~interior),
    }


def _too_few(case: np.ndarray) -> Absent | None:
    num_cases = len(np.unique(case))
    if num_cases == 0:
        return Absent("no patches")
    return Absent(f"{num_cases} of {MIN_CASES} cases needed") if num_cases < MIN_CASES else None


def _one_class(y_true: np.ndarray) -> Absent | None:
    num_idc = int(np.count_nonzero(y_true))
    if num_idc in (0, len(y_true)):
        return Absent(f"all {len(y_true)} patches are {'IDC+' if num_idc else 'IDC-'}")
    return None


def _cells(figure: Estimate | Absent) -> dict[str, object]:
    if isinstance(figure, Absent):
        return {"value": None, "low": None, "high": None, "reason": figure.reason}
    ends = {"low": figure.low, "high": figure.high}
    known = {end: value if np.isfinite(value) else None for end, value in ends.items()}
    return {"value": figure.value, **known, "reason": ""}


def _require_patches(patches: pd.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in patches]
    if missing:
        raise InputError(f"the patches lack {', '.join(missing)}: subgroups are made of them")
    if patches.empty:
        raise InputError("no patches to measure: the subset is empty")
    for name in ("log_odds", "mean_optical_density", "white_share"):
        unusable = int(np.count_nonzero(~np.isfinite(patches[name].to_numpy(np.float64))))
        if unusable:
            raise InputError(f"{unusable} of {len(patches)} values of {name} are NaN or infinite")
