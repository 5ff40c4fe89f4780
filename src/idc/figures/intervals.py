"""Estimates with their intervals: metrics of a subset, and of its subgroups."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import Estimate
from idc.figures.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    mark_above,
    new_figure,
    set_labels,
    style_axes,
)

METRIC_LABELS = {
    "auroc": "Area under ROC curve",
    "balanced_accuracy": "Balanced accuracy",
    "auprc": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "f1_idc": "F1 of IDC+",
    "f1_weighted": "F1 of both classes, weighted",
    "mcc": "Matthews correlation",
    "brier": "Brier score (lower is better)",
    "log_loss": "Log loss (lower is better)",
    "ece": "Calibration error (lower is better)",
    "case_macro_auroc": "Area under ROC curve within cases",
    "auroc_capped": "Area under ROC curve, cases capped",
}
"""How metrics read in pictures and tables."""

_FAMILIES = {
    "case_burden": "Burden of the case",
    "stain": "Stain of the patch",
    "white_share": "White in the patch",
    "size": "Size of the patch",
    "border": "Place in the tissue",
}
_SUBGROUP_LABELS = {
    "calibration_gap": "Mean score minus IDC+ share",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
_REFERENCES = {"calibration_gap": 0.0, "calibration_slope": 1.0, "calibration_intercept": 0.0}
_BESIDE_PT = (10, 140)  # where the two columns of text start beside a forest plot


def draw_intervals(estimates: Mapping[str, Estimate]) -> Figure:
    """Draw a dot and a 95 % whisker per metric, first metric on top.

    Args:
        estimates: Estimate by metric; names of `compute_metrics` are written in plain words.

    Raises:
        InputError: Without any estimate.
    """
    if not estimates:
        raise InputError("there are no estimates to draw")
    figure = new_figure(7.2, 1.2 + 0.42 * len(estimates))
    axes = figure.add_subplot()
    for row, estimate in enumerate(estimates.values()):
        axes.plot(
            [estimate.low, estimate.high],
            [row, row],
            color=PALETTE[0],
            linewidth=3,
            alpha=0.45,
            solid_capstyle="round",
            clip_on=False,
        )
        axes.plot([estimate.value], [row], "o", color=PALETTE[0], markersize=5.5, clip_on=False)
        text = f"{estimate.value:.3f}  ({estimate.low:.3f} to {estimate.high:.3f})"
        beside = axes.get_yaxis_transform()
        axes.text(1.03, row, text, fontsize=9, color=INK, va="center", transform=beside)
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(estimates)), [METRIC_LABELS.get(name, name) for name in estimates])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    lowest = min(estimate.low for estimate in estimates.values())
    highest = max(estimate.high for estimate in estimates.values())  # log loss has no bound
    axes.set_xlim(min(0.0, np.floor(lowest * 10) / 10), max(1.0, np.ceil(highest * 10) / 10))
    set_labels(axes, "Metrics with 95 % intervals over cases", "Value", "")
    return figure


def draw_subgroups(table: pd.DataFrame, metric: str, overall: Estimate | None) -> Figure:
    """Draw one metric of every subgroup with its interval, family by family.

    Args:
        table: As `idc.evaluation.subgroups.subgroup_table` returns it.
        metric: Which of its metrics.
        overall: The metric on all patches, drawn as a line; none is drawn for None.

    Raises:
        InputError: If the table has no such metric.
    """
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise InputError(f"the subgroups have no metric {metric}")
    families = list(dict.fromkeys(rows["family"]))
    figure = new_figure(8.8, 1.3 + 0.3 * (len(rows) + len(families)))
    axes = figure.add_subplot()
    heights, labels = _draw_families(axes, rows, families)
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(heights, labels)
    axes.set_ylim(max(heights) + 0.7, -0.7)
    axes.spines["left"].set_visible(False)
    label = METRIC_LABELS.get(metric) or _SUBGROUP_LABELS.get(metric, metric)
    set_labels(axes, f"{label} in subgroups", "Value", "", title_pad=22)
    for tick, text in zip(axes.get_yticklabels(), labels, strict=True):
        is_family = text in _FAMILIES.values()
        tick.set(color=INK, fontweight="bold" if is_family else "normal")
    if metric in _REFERENCES:
        axes.axvline(_REFERENCES[metric], color=GRID, linewidth=2, zorder=0)
    if overall is not None:
        axes.axvline(overall.value, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        mark_above(axes, overall.value, f"all patches {overall.value:.3f}", MUTED)
    return figure


def _draw_families(
    axes: Axes, rows: pd.DataFrame, families: Sequence[str]
) -> tuple[list[float], list[str]]:
    """Draw the rows under the name of their family; return heights and texts of the labels."""
    heights, labels, height = [], [], 0.0
    for family in families:
        heights.append(height)
        labels.append(_FAMILIES.get(family, family))
        for row in rows[rows["family"] == family].to_dict("records"):
            height += 1
            heights.append(height)
            labels.append(str(row["label"]))
            _draw_row(axes, row, height)
        height += 1.4
    return heights, labels


def _draw_row(axes: Axes, row: Mapping[Any, Any], height: float) -> None:
    """Draw dot and whisker of a subgroup, and write beside it what they are and of how many."""
    count = f"{row['num_patches']:,} patches, {row['num_cases']} cases"
    if pd.isna(row["value"]):
        _write_beside(axes, height, _BESIDE_PT[0], f"{row['reason']}  ({count})", MUTED)
        return
    axes.plot([row["value"]], [height], "o", color=PALETTE[0], markersize=5.5)
    text = f"{row['value']:.3f}"
    if not pd.isna(row["low"]):
        axes.plot(
            [row["low"], row["high"]],
            [height, height],
            color=PALETTE[0],
            linewidth=3,
            alpha=0.45,
            solid_capstyle="round",
        )
        text = f"{text}  ({row['low']:.3f} to {row['high']:.3f})"
    _write_beside(axes, height, _BESIDE_PT[0], text, INK)
    _write_beside(axes, height, _BESIDE_PT[1], count, MUTED)


def _write_beside(axes: Axes, height: float, offset_pt: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(offset_pt, 0),
        textcoords="offset points",
        fontsize=9,
        color=colour,
        va="center",
    )
