"""Whole cases: where in each patch the evidence lies, laid back onto the slide."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from idc.data.patches import PATCH_SIZE_PX
from idc.evaluation.cases.burden import find_complete_cases, slide_map
from idc.figures.style import INK, SCORES, hide_frame, new_figure

BLOCK_PX = 5
"""A slide picture has one point per so many pixels, in either direction."""

_POINTS = PATCH_SIZE_PX // BLOCK_PX


def choose_slides(test: pd.DataFrame, num_slides: int) -> list[str]:
    """Return the complete cases with the most patches, the largest first; ties by id.

    Args:
        test: Columns `case`, `x`, `y`: all pool patches of the test set.
        num_slides: At most so many.
    """
    if test.empty:
        return []
    complete = find_complete_cases(*(test[name].to_numpy() for name in ("case", "x", "y")))
    sizes = test["case"].value_counts()
    return sorted(complete, key=lambda case: (-sizes[case], case))[:num_slides]


def spread_scores(y_score: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return maps whose mean is the patch's probability: the score, spread over its evidence.

    Maps of different patches have no common scale; so spread, they compare over the slide.

    Args:
        y_score: Calibrated probability of IDC+, (patches,).
        maps: (patches, 50, 50); values below 0 count as none. An empty map spreads evenly.

    Returns:
        float32 (patches, 10, 10): means over blocks of 5x5 px.
    """
    evidence = np.maximum(maps, 0).astype(np.float64)
    blocks = evidence.reshape(-1, _POINTS, BLOCK_PX, _POINTS, BLOCK_PX).mean(axis=(2, 4))
    mean = blocks.mean(axis=(1, 2), keepdims=True)
    relative = np.divide(blocks, mean, out=np.ones_like(blocks), where=mean > 0)
    return np.asarray(y_score[:, None, None] * relative, np.float32)


def draw_attribution_map(
    patches: pd.DataFrame, pixels: np.ndarray, spread: np.ndarray, title: str
) -> Figure:
    """Draw a case: its tissue, the probability of each patch, and where inside each it comes from.

    Args:
        patches: Columns `case`, `x`, `y`, `y_score`, of one case.
        pixels: uint8 (patches, 50, 50, 3).
        spread: As `spread_scores` returns it.
        title: What the third picture shows.

    Raises:
        InputError: If the patches do not lie on one grid, see `slide_map`.
    """
    tissue = pixels.reshape(-1, _POINTS, BLOCK_PX, _POINTS, BLOCK_PX, 3).mean(axis=(2, 4)) / 255.0
    # the few points that gather most would leave the rest in the dark
    top = max(1.0, float(np.quantile(spread, 0.99)))
    case = patches["case"].iloc[0]
    pictures = (
        (f"Case {case}: tissue", _lay(patches, tissue), None),
        (
            "Calibrated probability of IDC+",
            slide_map(patches, patches["y_score"].to_numpy()),
            1.0,
        ),
        (title, _lay(patches, spread), top),
    )
    rows, columns = pictures[1][1].shape
    height = min(max(3.4 * rows / columns, 1.2), 6.0)
    figure = new_figure(3 * 3.4 + 0.6, height + 0.85)
    grid = figure.add_gridspec(2, 3, height_ratios=[height, 0.12])
    for place, (heading, picture, most) in enumerate(pictures):
        axes, key = figure.add_subplot(grid[0, place]), figure.add_subplot(grid[1, place])
        image = axes.imshow(picture, cmap=SCORES, vmin=0, vmax=most, interpolation="nearest")
        axes.set_title(heading, loc="left", fontsize=10.5, fontweight="bold", color=INK)
        axes.set_anchor("N")
        hide_frame(axes)
        if most is None:
            key.set_axis_off()
            continue
        bar = figure.colorbar(image, cax=key, orientation="horizontal")
        bar.ax.spines[:].set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8.5)
    return figure


def _lay(patches: pd.DataFrame, blocks: np.ndarray) -> np.ndarray:
    """Lay (patches, 10, 10, ...) where the patches lie: (10 rows, 10 columns, ...), NaN between."""
    place = slide_map(patches, np.arange(len(patches)))
    there = ~np.isnan(place)
    laid = np.full((*place.shape, *blocks.shape[1:]), np.nan)
    laid[there] = blocks[place[there].astype(int)]
    rows, columns = place.shape
    # imshow draws NaN of a single value white, but not of a colour
    if blocks.ndim == 4:
        laid = np.nan_to_num(laid, nan=1.0)
    return laid.swapaxes(1, 2).reshape(rows * _POINTS, columns * _POINTS, *blocks.shape[3:])
