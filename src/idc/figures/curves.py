"""What scores and decisions are worth: the tables of `idc.evaluation.curves` as pictures."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import Estimate
from idc.figures.style import (
    INK,
    MUTED,
    PALETTE,
    draw_diagonal,
    mark_above,
    name_beside,
    new_figure,
    set_labels,
    style_axes,
)

BLUES = LinearSegmentedColormap.from_list("idc", ["#F4F8FB", PALETTE[0]])
CLASSES = ("IDC-", "IDC+")
_THRESHOLD_LABELS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Precision (PPV)",
    "npv": "NPV",
    "f1_idc": "F1 of IDC+",
    "balanced_accuracy": "Balanced accuracy",
}


def draw_roc(points_by_name: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw ROC curves over each other.

    Args:
        points_by_name: Tables of `roc_points` (columns fpr, tpr) by the name to label them with.

    Raises:
        InputError: Without any curve.
    """
    figure, axes = _unit_square(points_by_name)
    draw_diagonal(axes)
    axes.text(0.52, 0.50, "guessing", color=MUTED, fontsize=8.5, rotation=45, va="top", ha="center")
    for (name, points), colour in zip(points_by_name.items(), _cycle(points_by_name), strict=True):
        axes.plot(points["fpr"], points["tpr"], color=colour, linewidth=2, label=name)
    set_labels(
        axes,
        "ROC curve",
        "False-positive rate: share of IDC- patches predicted IDC+",
        "Sensitivity: share of IDC+ patches found",
    )
    _name_curves(axes, "lower right")
    return figure


def draw_pr(points_by_name: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw precision-recall curves over each other, each with its prevalence as a dotted line.

    Args:
        points_by_name: Tables of `pr_points` (columns recall, precision) by the name to label
            them with.

    Raises:
        InputError: Without any curve.
    """
    figure, axes = _unit_square(points_by_name)
    for (name, points), colour in zip(points_by_name.items(), _cycle(points_by_name), strict=True):
        rising = points.sort_values("recall", kind="stable")
        axes.plot(
            rising["recall"],
            rising["precision"],
            color=colour,
            linewidth=2,
            label=name,
            drawstyle="steps-pre",
        )
        # the lowest threshold calls every patch IDC+, whichever end the table starts at
        prevalence = float(points["precision"].iloc[int(points["threshold"].to_numpy().argmin())])
        axes.axhline(prevalence, color=colour, linewidth=1, linestyle=(0, (1, 3)))
    set_labels(
        axes,
        "Precision-recall curve",
        "Recall: share of IDC+ patches found",
        "Precision: share of IDC+ calls that are right",
    )
    note = "Dotted: share of IDC+ among all patches"
    axes.text(0.0, -0.16, note, color=MUTED, fontsize=8.5, transform=axes.transAxes)
    _name_curves(axes, "lower left")
    return figure


def draw_thresholds(points: pd.DataFrame, threshold: Estimate) -> Figure:
    """Draw what each threshold would give, and mark the frozen one with its interval.

    Args:
        points: One row per threshold: columns `threshold` and any of `sensitivity`,
            `specificity`, `ppv`, `npv`, `f1_idc`, `balanced_accuracy`, all in [0, 1], empty where
            not defined.
        threshold: The frozen threshold; ends that are NaN are not drawn.

    Raises:
        InputError: Without any threshold or any of these metrics.
    """
    names = [name for name in _THRESHOLD_LABELS if name in points]
    if points.empty or not names:
        raise InputError("there are no thresholds to draw")
    ordered = points.sort_values("threshold", kind="stable")
    figure = new_figure(7.2, 4.8)
    axes = figure.add_subplot()
    if np.isfinite([threshold.low, threshold.high]).all():
        axes.axvspan(threshold.low, threshold.high, color=MUTED, alpha=0.15, linewidth=0)
    axes.axvline(threshold.value, color=INK, linewidth=1.2)
    for name, colour in zip(names, PALETTE, strict=False):
        axes.plot(
            ordered["threshold"],
            ordered[name].to_numpy(float),
            color=colour,
            linewidth=2,
            label=_THRESHOLD_LABELS[name],
        )
    style_axes(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    mark_above(axes, threshold.value, f"frozen at {threshold.value:.3f}", INK)
    title = "Metrics by threshold"
    set_labels(axes, title, "Threshold of the calibrated score", "Value", title_pad=22)
    name_beside(axes)
    return figure


def draw_reliability(points_by_name: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the share of IDC+ against the mean score, bin by bin, above how many patches each has.

    Args:
        points_by_name: By the name to label them with, one row per bin: columns `mean_score`,
            `idc_share`, `low`, `high` (ends of its interval; empty where there is none), all in
            [0, 1], and `num_patches`.

    Raises:
        InputError: Without any bin.
    """
    if not points_by_name or any(points.empty for points in points_by_name.values()):
        raise InputError("there are no bins to draw")
    figure = new_figure(5.4, 6.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    draw_diagonal(upper)
    colours = _cycle(points_by_name)
    for place, (name, points) in enumerate(points_by_name.items()):
        colour, shift = colours[place], 0.012 * (place - (len(colours) - 1) / 2)
        score, share = points["mean_score"].to_numpy(float), points["idc_share"].to_numpy(float)
        low, high = points["low"].to_numpy(float), points["high"].to_numpy(float)
        upper.vlines(score, low, high, color=colour, linewidth=3, alpha=0.35)
        upper.plot(score, share, "-", color=colour, linewidth=1.2, label=name)
        upper.plot(score, share, "o", color=colour, markersize=5)
        number = points["num_patches"].to_numpy(float)
        lower.vlines(score + shift, 0, number, color=colour, linewidth=4, alpha=0.7)
    for axes in (upper, lower):
        style_axes(axes)
    upper.set_ylim(-0.02, 1.02)
    upper.set_xlim(-0.02, 1.02)
    upper.text(0.03, 0.95, "scores too low", color=MUTED, fontsize=8.5, ha="left", va="top")
    upper.text(0.97, 0.22, "scores too high", color=MUTED, fontsize=8.5, ha="right", va="bottom")
    set_labels(upper, "Reliability: do scores mean what they say?", "", "Share of IDC+ patches")
    set_labels(lower, "", "Mean calibrated score of the bin", "Patches")
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _name_curves(upper, "lower right")
    return figure


def draw_confusion(matrix: ArrayLike) -> Figure:
    """Draw a confusion matrix, coloured by the share of each actual class.

    Args:
        matrix: Counts of shape (2, 2); rows are the actual, columns the predicted class, IDC-
            first.

    Raises:
        InputError: On another shape.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (2, 2):
        raise InputError(f"a confusion matrix has shape (2, 2), not {counts.shape}")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(4.8, 4.4)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap=BLUES, vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        share = float(shares[row, column])
        colour = "white" if share > 0.55 else INK
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.text(column, row - 0.07, f"{count:,}", fontsize=17, fontweight="bold", **centred)
        axes.text(column, row + 0.14, f"{share:.1%} of {CLASSES[row]}", fontsize=9, **centred)
    set_labels(axes, "Confusion matrix", "Predicted", "Actual")
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.axvline(0.5, color="white", linewidth=3)
    return figure


def _unit_square(points_by_name: Mapping[str, pd.DataFrame]) -> tuple[Figure, Axes]:
    if not points_by_name:
        raise InputError("there are no curves to draw")
    figure = new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    style_axes(axes)
    return figure, axes


def _name_curves(axes: Axes, corner: Literal["lower left", "lower right"]) -> None:
    axes.legend(loc=corner, frameon=False, labelcolor="linecolor", fontsize=10, handlelength=1.4)


def _cycle(points_by_name: Mapping[str, pd.DataFrame]) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(len(points_by_name))]
