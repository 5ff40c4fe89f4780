"""The picture of where attribution methods point."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idc.explain.panels.panel import FUSED
from idc.explain.scores.mosaics import CHANCE
from idc.figures.style import DPI, GRID, INK, MUTED, PALETTE

_ROW_IN = 0.34
_SOURCE_PITCH = 0.3  # of a row, between two sources
_SOURCE_COLOURS = (PALETTE[0], PALETTE[2], PALETTE[3])  # PALETTE[1] is chance


def draw_pointing(scores: dict[str, Any]) -> Figure:
    """Draw the share in the right cell of each method, best first, and of the baselines below.

    Shown are the maps by which methods are ranked: the fused ones or, where mosaics throw a
    backbone off and these mean nothing, those of each other backbone.

    Args:
        scores: As `idc.explain.scores.table.ExplanationScores.measure` returns them, with mosaics.
    """
    mosaics = scores["mosaics"]
    names = [scores["methods"][name] for name in mosaics["ranking"]]
    names += [f"{name} (no network)" for name in mosaics["baselines"]]
    figure = Figure(figsize=(7.6, 1.0 + _ROW_IN * len(names)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, source in enumerate(mosaics["ranked_by"]):
        offset = _SOURCE_PITCH * (place - (len(mosaics["ranked_by"]) - 1) / 2)
        _draw_source(axes, mosaics, source, offset, _SOURCE_COLOURS[place % len(_SOURCE_COLOURS)])
    for place, baseline in enumerate(mosaics["baselines"].values()):
        _draw_share(axes, baseline, len(mosaics["ranking"]) + place, MUTED, None)
    axes.axvline(CHANCE, color=PALETTE[1], lw=1, ls="--", zorder=1, label="chance")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the evidence for IDC+ in the IDC+ cell", fontsize=9.5, color=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.legend(loc="lower right", frameon=False, labelcolor=MUTED, fontsize=8.5)
    return figure


def _draw_source(
    axes: Axes, mosaics: dict[str, Any], source: str, offset: float, colour: str
) -> None:
    of = "" if source == FUSED else f", {source}"
    for place, name in enumerate(mosaics["ranking"]):
        height = place + offset
        axes.plot(
            mosaics["untrained"][name][source]["value"], height, "o", mfc="white",
            mec=MUTED if source == FUSED else colour, ms=6, zorder=2,
            label=f"untrained network{of}" if place == 0 else None,
        )  # fmt: skip
        label = f"this network{of}, with 95 % interval" if place == 0 else None
        _draw_share(axes, mosaics["trained"][name][source], height, colour, label)


def _draw_share(
    axes: Axes, share: dict[str, Any], height: float, colour: str, label: str | None
) -> None:
    if share["low"] is not None:
        axes.plot([share["low"], share["high"]], [height] * 2, color=colour, lw=1.6)
    axes.plot(share["value"], height, "o", color=colour, ms=6, zorder=3, label=label)
