"""The report's pictures, drawn from what the stages wrote; nothing is computed here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from idc.evaluation.cases.burden import slide_map
from idc.evaluation.statistics.bootstrap import Estimate
from idc.evaluation.statistics.metrics import PRIMARY
from idc.figures.cases import draw_bland_altman, draw_burden, draw_slide_maps
from idc.figures.curves import (
    draw_confusion,
    draw_pr,
    draw_reliability,
    draw_roc,
    draw_thresholds,
)
from idc.figures.intervals import METRIC_LABELS, draw_intervals, draw_subgroups
from idc.figures.training import draw_training

_NAME = "fusion CNN"


@dataclass(frozen=True)
class Curves:
    """The tables in `reports/plots` and `reports/cases`."""

    roc: pd.DataFrame
    pr: pd.DataFrame
    confusion: pd.DataFrame
    thresholds: pd.DataFrame
    reliability: pd.DataFrame
    burden: pd.DataFrame
    slides: pd.DataFrame

    @classmethod
    def load(cls, plots: Path, cases: Path) -> "Curves":
        """Read what the stage evaluate wrote into two folders."""
        curves = ("roc", "pr", "confusion", "thresholds", "reliability")
        return cls(
            **{name: pd.read_csv(plots / f"{name}.csv") for name in curves},
            **{
                name: pd.read_csv(cases / f"{name}.csv", dtype={"case": "str"})
                for name in ("burden", "slides")
            },
        )


def draw_figures(
    curves: Curves,
    metrics: Mapping[str, float],
    evaluation: Mapping[str, Any],
    point: Mapping[str, Any],
    history: pd.DataFrame,
) -> dict[str, Figure]:
    """Return the figures by name; `slide_<case>` for each complete case.

    Args:
        curves: Points of the curves.
        metrics: `reports/metrics.json`.
        evaluation: `reports/evaluation.json`.
        point: The operating point.
        history: One row per epoch.
    """
    threshold = Estimate(point["threshold"], point["threshold_low"], point["threshold_high"])
    bins = curves.reliability.rename(columns={"idc_share_low": "low", "idc_share_high": "high"})
    subgroups = pd.DataFrame(evaluation["subgroups"])
    figures = {
        "intervals": draw_intervals(select_estimates(metrics, "test")),
        "roc": draw_roc({_NAME: curves.roc}),
        "pr": draw_pr({_NAME: curves.pr}),
        "confusion": draw_confusion(_confusion_matrix(curves.confusion)),
        "training": draw_training(history),
        "reliability": draw_reliability({_NAME: bins}),
        "thresholds": draw_thresholds(curves.thresholds, threshold),
        **{
            f"subgroups_{name}": draw_subgroups(
                subgroups, name, select_estimates(metrics, "test")[name]
            )
            for name in PRIMARY
        },
        "subgroups_calibration": draw_subgroups(subgroups, "calibration_gap", None),
    }
    agreement = evaluation["burden"]["agreement"]
    return figures | draw_case_figures(curves.burden, agreement, curves.slides)


def draw_case_figures(
    burden: pd.DataFrame, agreement: Mapping[str, Any], slides: pd.DataFrame
) -> dict[str, Figure]:
    """Return the figures of whole cases: `burden`, `agreement` and `slide_<case>`.

    Args:
        burden: As `idc.evaluation.summary.burden_table` returns it.
        agreement: As `summarise_burden` returns it; with a `reason` in it, none is drawn.
        slides: As `complete_patches` returns them.
    """
    figures = {"burden": draw_burden(burden, "mean_score")}
    if "reason" not in agreement:
        figures["agreement"] = draw_bland_altman(
            burden["mean_score"].to_numpy(),
            burden["burden"].to_numpy(),
            **{
                name: Estimate(**agreement[name]) for name in ("bias", "lower_limit", "upper_limit")
            },
        )
    for case, patches in slides.groupby("case"):
        figures[f"slide_{case}"] = _draw_slide(str(case), patches)
    return figures


def select_estimates(metrics: Mapping[str, float], subset: str) -> dict[str, Estimate]:
    """Return the metrics of one subset with their intervals, in the order of reading.

    Those that are undefined there are left out.
    """
    return {
        name: Estimate(
            metrics[f"{subset}/{name}"],
            metrics[f"{subset}/{name}_low"],
            metrics[f"{subset}/{name}_high"],
        )
        for name in METRIC_LABELS
        if f"{subset}/{name}" in metrics
    }


def _draw_slide(case: str, patches: pd.DataFrame) -> Figure:
    y_true = patches["y_true"].to_numpy()
    error = patches["y_pred"].to_numpy() - y_true
    y_score = patches["y_score"].to_numpy()
    maps = (slide_map(patches, values) for values in (y_true, y_score, error))
    return draw_slide_maps(case, *maps)


def _confusion_matrix(rows: pd.DataFrame) -> np.ndarray:
    names = ["IDC-", "IDC+"]
    table = pd.crosstab(rows["actual"], rows["predicted"])
    return table.reindex(index=names, columns=names, fill_value=0).to_numpy()
