"""Whole cases: burden, its agreement with the truth, and cases as they lie on the slide."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from idc.core.errors import InputError
from idc.evaluation.statistics.bootstrap import Estimate
from idc.figures.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    SCORES,
    draw_diagonal,
    hide_frame,
    new_figure,
    set_labels,
    style_axes,
)

_PREDICTED = {
    "mean_score": "Predicted: mean calibrated score",
    "called_share": "Predicted: share of patches predicted IDC+",
}
_MISSED, _FALSE_ALARM = PALETTE[0], "#E08A1E"  # blue and orange: told apart with any colour vision
_BAR_PATCHES = 10
_BAR_ROWS = 2.5  # kept free below a slide map


def draw_burden(cases: pd.DataFrame, predicted: str) -> Figure:
    """Draw predicted against true burden, a dot per case as large as its number of patches.

    Args:
        cases: As `idc.evaluation.cases.burden.measure_burden` returns it.
        predicted: The column to draw upwards: `mean_score` or `called_share`.

    Raises:
        InputError: Without any case.
    """
    if cases.empty:
        raise InputError("there are no cases to draw")
    figure = new_figure(5.4, 5.4)
    axes = figure.add_subplot()
    draw_diagonal(axes)
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
    style_axes(axes)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    set_labels(axes, "Burden by case", "True share of IDC+ patches", _PREDICTED[predicted])
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
        bias: As `idc.evaluation.cases.burden.measure_agreement` returns it for these.
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
    style_axes(axes)
    axes.set_xlim(-0.02, 1.02)
    set_labels(
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
        truth: Labels, as `idc.evaluation.cases.burden.slide_map` lays them: 0, 1, NaN
            without a patch.
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


def _dot_areas(num_patches: np.ndarray, largest: int) -> np.ndarray:
    return np.asarray(12 + 240 * num_patches / largest)


def _round_sizes(largest: int) -> list[int]:
    """Return up to two round numbers of patches to explain the sizes of dots by."""
    top = 10 ** int(np.log10(max(largest, 1)))
    top *= max(factor for factor in (1, 2, 5) if factor * top <= largest)
    return sorted({max(top // 5, 1), top})


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
