"""What all pictures share: colours, axes, legends, and how they are written."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from idc.core.files import replacing_file

DPI = 150
INK, MUTED, GRID = "#22303C", "#6B7885", "#E3E8EC"
PALETTE = ("#2B6CA3", "#C65D3B", "#4C8C6B", "#7D5BA6", "#B58A1B", "#4A5560")
# rises in lightness alone as well: readable in grey, and with any colour vision
SCORES = LinearSegmentedColormap.from_list("scores", ["#F1E7DC", "#DE9A75", PALETTE[1], "#5E1F12"])
"""Colours of probabilities, from 0 to 1."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, whose parts make room for each other."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG whose bytes depend on the picture alone."""
    with replacing_file(path) as partial:
        # the name of the software carries matplotlib's version, which is no part of the picture
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def style_axes(axes: Axes) -> None:
    """Give axes a grid behind the data, and borders as faint as it."""
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def set_labels(axes: Axes, title: str, x: str, y: str, *, title_pad: float = 10) -> None:
    """Write the title (`title_pad` points above the axes) and what x and y are."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=title_pad)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)


def draw_diagonal(axes: Axes) -> None:
    """Draw where x equals y, from 0 to 1."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))


def name_beside(axes: Axes) -> None:
    """Name the lines to the right of the axes, each in its own colour."""
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        labelcolor="linecolor",
        fontsize=9.5,
        handlelength=1.4,
    )


def mark_above(axes: Axes, x: float, text: str, colour: str) -> None:
    """Write a text above the axes, over the place `x` of the data."""
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


def hide_frame(axes: Axes) -> None:
    """Take ticks and borders from a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
