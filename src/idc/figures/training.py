"""How a model learnt: epoch by epoch, and with more data."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from idc.core.errors import InputError
from idc.figures.style import (
    INK,
    PALETTE,
    name_beside,
    new_figure,
    set_labels,
    style_axes,
)


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
        style_axes(axes)
    set_labels(upper, "Training", "", "Loss on train")
    set_labels(lower, "", "Epoch", "AUROC on val")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark_best(lower, history)
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
    style_axes(axes)
    axes.set_xscale("log", base=2)
    sizes = np.sort(points["size"].unique())
    ticks = _apart(sizes, 2**0.2)
    axes.set_xticks(ticks, [f"{number:,.0f}" for number in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 2**0.35, sizes[-1] * 2**0.35)
    set_labels(axes, "Learning curve", size, value)
    name_beside(axes)
    return figure


def _apart(sizes: np.ndarray, least_ratio: float) -> list[float]:
    """Return the ascending sizes without those too near to one kept: their labels would overlap."""
    kept: list[float] = []
    for size in sizes:
        if not kept or size >= kept[-1] * least_ratio:
            kept.append(float(size))
    return kept


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
