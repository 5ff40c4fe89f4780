"""Pictures for the report: one palette, labels beside the data, and the same bytes each time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from idc.errors import InputError
from idc.evaluation.bootstrap import Estimate
from idc.files import replacing_file

DPI = 150
INK, MUTED, GRID = "#22303C", "#6B7885", "#E3E8EC"
PALETTE = ("#2B6CA3", "#C65D3B", "#4C8C6B", "#7D5BA6", "#B58A1B", "#4A5560")
BLUES = LinearSegmentedColormap.from_list("idc", ["#F4F8FB", PALETTE[0]])
CLASSES = ("IDC-", "IDC+")
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


def draw_roc(points_by_name: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw ROC curves over each other.

    Args:
        points_by_name: Tables of `roc_points` (columns fpr, tpr) by the name to label them with.

    Raises:
        InputError: Without any curve.
    """
    figure, axes = _unit_square(points_by_name)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.text(0.52, 0.50, "guessing", color=MUTED, fontsize=8.5, rotation=45, va="top", ha="center")
    for (name, points), colour in zip(points_by_name.items(), _cycle(points_by_name), strict=True):
        axes.plot(points["fpr"], points["tpr"], color=colour, linewidth=2, label=name)
    _set_labels(
        axes,
        "ROC curve",
        "False alarms: share of IDC- patches called IDC+",
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
    _set_labels(
        axes,
        "Precision-recall curve",
        "Recall: share of IDC+ patches found",
        "Precision: share of IDC+ calls that are right",
    )
    note = "Dotted: share of IDC+ among all patches"
    axes.text(0.0, -0.16, note, color=MUTED, fontsize=8.5, transform=axes.transAxes)
    _name_curves(axes, "lower left")
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
    figure = _new_figure(4.8, 4.4)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap=BLUES, vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        share = float(shares[row, column])
        colour = "white" if share > 0.55 else INK
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.text(column, row - 0.07, f"{count:,}", fontsize=17, fontweight="bold", **centred)
        axes.text(column, row + 0.14, f"{share:.1%} of {CLASSES[row]}", fontsize=9, **centred)
    _set_labels(axes, "Confusion matrix", "Predicted", "Actual")
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.axvline(0.5, color="white", linewidth=3)
    return figure


def draw_training(history: pd.DataFrame) -> Figure:
    """Draw training loss and validation AUROC by epoch, and mark the best epoch.

    Args:
        history: Columns epoch, train_loss and val_auroc, one row per epoch.

    Raises:
        InputError: Without any row.
    """
    if history.empty:
        raise InputError("the training history is empty")
    figure = _new_figure(6.4, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, column, colour in ((upper, "train_loss", PALETTE[1]), (lower, "val_auroc", INK)):
        axes.plot(history["epoch"], history[column], color=colour, linewidth=2)
        axes.plot(history["epoch"], history[column], "o", color=colour, markersize=4)
        _style(axes)
    _set_labels(upper, "Training", "", "Loss on train")
    _set_labels(lower, "", "Epoch", "AUROC on val")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark_best(lower, history)
    return figure


def draw_intervals(estimates: Mapping[str, Estimate]) -> Figure:
    """Draw a dot and a 95 % whisker per metric, first metric on top.

    Args:
        estimates: Estimate by metric; names of `compute_metrics` are written in plain words.

    Raises:
        InputError: Without any estimate.
    """
    if not estimates:
        raise InputError("there are no estimates to draw")
    figure = _new_figure(7.2, 1.2 + 0.42 * len(estimates))
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
    _style(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(estimates)), [METRIC_LABELS.get(name, name) for name in estimates])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    lowest = min(estimate.low for estimate in estimates.values())
    axes.set_xlim(min(0.0, np.floor(lowest * 10) / 10), 1.0)
    _set_labels(axes, "Metrics with 95 % intervals over cases", "Value", "")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG whose bytes depend on the picture alone."""
    with replacing_file(path) as partial:
        # the name of the software carries matplotlib's version, which is no part of the picture
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def _new_figure(width: float, height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def _unit_square(points_by_name: Mapping[str, pd.DataFrame]) -> tuple[Figure, Axes]:
    if not points_by_name:
        raise InputError("there are no curves to draw")
    figure = _new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def _set_labels(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)


def _name_curves(axes: Axes, corner: Literal["lower left", "lower right"]) -> None:
    axes.legend(loc=corner, frameon=False, labelcolor="linecolor", fontsize=10, handlelength=1.4)


def _cycle(points_by_name: Mapping[str, pd.DataFrame]) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(len(points_by_name))]


def _mark_best(axes: Axes, history: pd.DataFrame) -> None:
    known = history.dropna(subset=["val_auroc"])
    if known.empty:
        return
    best = int(known["val_auroc"].to_numpy().argmax())
    epoch, value = int(known["epoch"].iloc[best]), float(known["val_auroc"].iloc[best])
    axes.plot([epoch], [value], "o", color=PALETTE[0], markersize=8)
    axes.annotate(
        f"best: {value:.3f} in epoch {epoch}",
        (epoch, value),
        xytext=(0, -18),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=PALETTE[0],
    )
