"""Pictures for the report: one palette, labels beside the data, and the same bytes each time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
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

_THRESHOLD_LABELS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Precision (PPV)",
    "npv": "NPV",
    "f1_idc": "F1 of IDC+",
    "balanced_accuracy": "Balanced accuracy",
}
_PREDICTED = {
    "mean_score": "Predicted: mean calibrated score",
    "called_share": "Predicted: share of patches called IDC+",
}
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
# rises in lightness alone as well: readable in grey, and with any colour vision
SCORES = LinearSegmentedColormap.from_list("scores", ["#F1E7DC", "#DE9A75", PALETTE[1], "#5E1F12"])
"""Colours of probabilities, from 0 to 1."""

_MISSED, _FALSE_ALARM = PALETTE[0], "#E08A1E"  # blue and orange: told apart with any colour vision
_BAR_PATCHES = 10
_BAR_ROWS = 2.5  # kept free below a slide map
_BESIDE_PT = (10, 140)  # where the two columns of text start beside a forest plot


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
    figure = new_figure(4.8, 4.4)
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
    figure = new_figure(6.4, 5.2)
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
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
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
        _style(axes)
    upper.set_ylim(-0.02, 1.02)
    upper.set_xlim(-0.02, 1.02)
    upper.text(0.03, 0.95, "scores too low", color=MUTED, fontsize=8.5, ha="left", va="top")
    upper.text(0.97, 0.22, "scores too high", color=MUTED, fontsize=8.5, ha="right", va="bottom")
    _set_labels(upper, "Reliability: do scores mean what they say?", "", "Share of IDC+ patches")
    _set_labels(lower, "", "Mean calibrated score of the bin", "Patches")
    lower.set_ylim(bottom=0)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _name_curves(upper, "lower right")
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
    _style(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    _mark_above(axes, threshold.value, f"frozen at {threshold.value:.3f}", INK)
    title = "Metrics by threshold"
    _set_labels(axes, title, "Threshold of the calibrated score", "Value", title_pad=22)
    _name_beside(axes)
    return figure


def draw_burden(cases: pd.DataFrame, predicted: str) -> Figure:
    """Draw predicted against true burden, a dot per case as large as its number of patches.

    Args:
        cases: As `idc.evaluation.cases.measure_burden` returns it.
        predicted: The column to draw upwards: `mean_score` or `called_share`.

    Raises:
        InputError: Without any case.
    """
    if cases.empty:
        raise InputError("there are no cases to draw")
    figure = new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    largest = int(cases["num_patches"].max())
    axes.scatter(
        cases["burden"],
        cases[predicted],
        s=_dot_areas(cases["num_patches"].to_numpy(float), largest),
        color=PALETTE[0],
        alpha=0.55,
        edgecolor="white",
        linewidth=0.8,
    )
    for size in _round_sizes(largest):
        area = float(_dot_areas(np.array([float(size)]), largest)[0])
        axes.scatter([], [], s=area, color=PALETTE[0], alpha=0.55, label=f"{size:,} patches")
    _style(axes)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    _set_labels(axes, "Burden by case", "True share of IDC+ patches", _PREDICTED[predicted])
    axes.legend(loc="best", frameon=False, labelcolor=MUTED, fontsize=9, labelspacing=0.9)
    return figure


def draw_bland_altman(
    predicted: ArrayLike,
    burden: ArrayLike,
    *,
    bias: Estimate,
    lower_limit: Estimate,
    upper_limit: Estimate,
) -> Figure:
    """Draw the error of the burden against its size, with bias and limits of agreement.

    Args:
        predicted: Predicted burden, (cases,).
        burden: True burden, (cases,).
        bias: As `idc.evaluation.cases.measure_agreement` returns it for these.
        lower_limit: Likewise.
        upper_limit: Likewise.

    Raises:
        InputError: If the lengths differ.
    """
    first, second = np.asarray(predicted, float), np.asarray(burden, float)
    if first.shape != second.shape:
        raise InputError(f"{first.size} predicted but {second.size} true burdens: one per case")
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    beside = axes.get_yaxis_transform()
    for name, estimate, colour in (
        ("upper limit", upper_limit, PALETTE[1]),
        ("bias", bias, PALETTE[0]),
        ("lower limit", lower_limit, PALETTE[1]),
    ):
        axes.axhspan(estimate.low, estimate.high, color=colour, alpha=0.14, linewidth=0)
        axes.axhline(estimate.value, color=colour, linewidth=1.6)
        text = f"{name} {estimate.value:+.3f}\n({estimate.low:+.3f} to {estimate.high:+.3f})"
        axes.text(
            1.02, estimate.value, text, color=colour, fontsize=9, va="center", transform=beside
        )
    axes.plot((first + second) / 2, first - second, "o", color=INK, markersize=5, alpha=0.7)
    _style(axes)
    axes.set_xlim(-0.02, 1.02)
    _set_labels(
        axes,
        f"Agreement of burden over {first.size} cases (Bland-Altman)",
        "Mean of predicted and true share of IDC+",
        "Predicted minus true share",
    )
    return figure


def draw_slide_maps(
    case: str, truth: np.ndarray, probability: np.ndarray, error: np.ndarray
) -> Figure:
    """Draw a case as it lies on the slide: labels, calibrated probability, errors.

    The bar is as long as ten patches (500 px of the archive). It says nothing of millimetres: the
    archive does not state how large its pixels are on the slide.

    Args:
        case: Case id.
        truth: Labels, as `idc.evaluation.cases.slide_map` lays them: 0, 1, NaN without a patch.
        probability: Calibrated scores likewise, in [0, 1].
        error: Decision minus label likewise: -1 missed, 0 right, 1 false alarm.

    Raises:
        InputError: If the maps differ in shape.
    """
    if not truth.shape == probability.shape == error.shape:
        raise InputError(
            f"maps of case {case} differ: {truth.shape}, {probability.shape} and {error.shape}"
        )
    rows, columns = truth.shape
    panel_width = 3.4
    height = min(max(panel_width * (rows + _BAR_ROWS) / columns, 1.2), 6.0)
    figure = new_figure(3 * panel_width + 0.6, height + 0.85)
    grid = figure.add_gridspec(2, 3, height_ratios=[height, 0.12])
    right = ListedColormap([_MISSED, GRID, _FALSE_ALARM])
    labels = ListedColormap([SCORES(0.0), SCORES(1.0)])
    maps = (
        (f"Case {case}: labels", truth, labels, 0),
        ("Calibrated probability of IDC+", probability, SCORES, 0),
        ("Decisions", error, right, -1),
    )
    for column, (title, values, colours, least) in enumerate(maps):
        axes, key = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        image = axes.imshow(values, cmap=colours, vmin=least, vmax=1, interpolation="nearest")
        axes.set_ylim(rows - 0.5 + _BAR_ROWS, -0.5)
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
        axes.set_anchor("N")
        hide_frame(axes)
        if column == 0:
            _name_colours(key, {"IDC-": SCORES(0.0), "IDC+": SCORES(1.0)})
            _draw_bar(axes, rows)
        elif column == 1:
            bar = figure.colorbar(image, cax=key, orientation="horizontal")
            bar.ax.spines[:].set_visible(False)
            bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=MUTED)
        else:
            _name_colours(key, {"missed": _MISSED, "right": GRID, "false alarm": _FALSE_ALARM})
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
    _style(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(heights, labels)
    axes.set_ylim(max(heights) + 0.7, -0.7)
    axes.spines["left"].set_visible(False)
    label = METRIC_LABELS.get(metric) or _SUBGROUP_LABELS.get(metric, metric)
    _set_labels(axes, f"{label} in subgroups", "Value", "", title_pad=22)
    for tick, text in zip(axes.get_yticklabels(), labels, strict=True):
        is_family = text in _FAMILIES.values()
        tick.set(color=INK, fontweight="bold" if is_family else "normal")
    if metric in _REFERENCES:
        axes.axvline(_REFERENCES[metric], color=GRID, linewidth=2, zorder=0)
    if overall is not None:
        axes.axvline(overall.value, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        _mark_above(axes, overall.value, f"all patches {overall.value:.3f}", MUTED)
    return figure


def draw_learning_curve(points: pd.DataFrame, size: str, value: str) -> Figure:
    """Draw how a figure grows with the amount of data, a line per series, sizes doubling.

    Args:
        points: Columns `series` (its name), `size` (above 0), `value`, `low`, `high` (the
            interval; empty where there is none).
        size: What the sizes count, such as "Training patches".
        value: What is measured, such as "AUROC on test".

    Raises:
        InputError: Without any point, or with a size that is not above 0.
    """
    if points.empty or not (points["size"] > 0).all():
        raise InputError("a learning curve needs points, each of a size above 0")
    names = list(dict.fromkeys(points["series"]))
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        series = points[points["series"] == name].sort_values("size", kind="stable")
        colour = PALETTE[place % len(PALETTE)]
        # series of the same sizes stand side by side: a few per cent of a doubling apart
        at = series["size"].to_numpy(float) * 2 ** (0.05 * (place - (len(names) - 1) / 2))
        axes.vlines(
            at,
            series["low"].to_numpy(float),
            series["high"].to_numpy(float),
            color=colour,
            linewidth=3,
            alpha=0.35,
        )
        axes.plot(at, series["value"].to_numpy(float), "o-", color=colour, linewidth=2, label=name)
    _style(axes)
    axes.set_xscale("log", base=2)
    sizes = np.sort(points["size"].unique())
    axes.set_xticks(sizes, [f"{number:,.0f}" for number in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 2**0.35, sizes[-1] * 2**0.35)
    _set_labels(axes, "Learning curve", size, value)
    _name_beside(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG whose bytes depend on the picture alone."""
    with replacing_file(path) as partial:
        # the name of the software carries matplotlib's version, which is no part of the picture
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, whose parts make room for each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def _unit_square(points_by_name: Mapping[str, pd.DataFrame]) -> tuple[Figure, Axes]:
    if not points_by_name:
        raise InputError("there are no curves to draw")
    figure = new_figure(5.4, 5.4)
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


def _set_labels(axes: Axes, title: str, x: str, y: str, *, title_pad: float = 10) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=title_pad)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)


def _name_curves(axes: Axes, corner: Literal["lower left", "lower right"]) -> None:
    axes.legend(loc=corner, frameon=False, labelcolor="linecolor", fontsize=10, handlelength=1.4)


def _name_beside(axes: Axes) -> None:
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        labelcolor="linecolor",
        fontsize=9.5,
        handlelength=1.4,
    )


def _name_colours(axes: Axes, colours: Mapping[str, Any]) -> None:
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.0, 0.5),
        borderpad=0,
        ncols=len(handles),
        frameon=False,
        labelcolor=MUTED,
        fontsize=8.5,
        handlelength=1.0,
        columnspacing=1.2,
    )
    hide_frame(axes)


def hide_frame(axes: Axes) -> None:
    """Take ticks and borders from a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _dot_areas(num_patches: np.ndarray, largest: int) -> np.ndarray:
    return np.asarray(12 + 240 * num_patches / largest)


def _round_sizes(largest: int) -> list[int]:
    """Return up to two round numbers of patches to explain the sizes of dots by."""
    top = 10 ** int(np.log10(max(largest, 1)))
    top *= max(factor for factor in (1, 2, 5) if factor * top <= largest)
    return sorted({max(top // 5, 1), top})


def _draw_bar(axes: Axes, rows: int) -> None:
    bottom = rows - 0.5 + 0.7 * _BAR_ROWS
    ends = [-0.5, -0.5 + _BAR_PATCHES]
    axes.plot(ends, [bottom, bottom], color=INK, linewidth=2.5, solid_capstyle="butt")
    axes.annotate(
        f"{_BAR_PATCHES} patches",
        (ends[1], bottom),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8.5,
        color=INK,
        va="center",
    )


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


def _mark_above(axes: Axes, x: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
    )


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
