"""The picture of where explanation methods point."""

from typing import Any

from matplotlib.figure import Figure

from idc.evaluation.plots.style import DPI, GRID, INK, MUTED, PALETTE
from idc.explain.mosaics import CHANCE
from idc.explain.panel import FUSED

_ROW_IN = 0.34


def draw_pointing(scores: dict[str, Any]) -> Figure:
    """Draw the share in the right cell of each method, best first, and of the baselines below.

    Args:
        scores: As `idc.explain.score_table.ExplanationScores.measure` returns them, with mosaics.
    """
    mosaics = scores["mosaics"]
    rows = [
        (scores["methods"][name], mosaics["trained"][name][FUSED],
         mosaics["untrained"][name][FUSED])
        for name in mosaics["ranking"]
    ]  # fmt: skip
    rows += [
        (f"{name} (no network)", figure, None) for name, figure in mosaics["baselines"].items()
    ]
    figure = Figure(figsize=(7.6, 1.0 + _ROW_IN * len(rows)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for height, (_, trained, untrained) in enumerate(rows):
        if untrained is not None:
            axes.plot(
                untrained["value"], height, "o", mfc="white", mec=MUTED, ms=6, zorder=2,
                label="untrained network" if height == 0 else None,
            )  # fmt: skip
        colour = MUTED if untrained is None else PALETTE[0]
        if trained["low"] is not None:
            axes.plot([trained["low"], trained["high"]], [height] * 2, color=colour, lw=1.6)
        axes.plot(
            trained["value"], height, "o", color=colour, ms=6, zorder=3,
            label="this network, with 95 % interval" if height == 0 else None,
        )  # fmt: skip
    axes.axvline(CHANCE, color=PALETTE[1], lw=1, ls="--", zorder=1, label="chance")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
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
