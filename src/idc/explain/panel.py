"""Which test patches are explained, and how they are drawn."""

import cv2
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from idc.data.sampling import rank_patches

_CELL_PX = 100
_PITCH_PX = 106  # a cell and the gap behind it

GROUPS = {
    "tp": "IDC+, called IDC+",
    "fn": "IDC+, called IDC-",
    "fp": "IDC-, called IDC+",
    "tn": "IDC-, called IDC-",
}
"""Group of a patch by label and prediction, and how it reads."""


def draw_panel(test: pd.DataFrame, *, num_per_group: int, seed: int) -> pd.DataFrame:
    """Draw patches over both labels and both predictions.

    Args:
        test: Columns `row`, `case`, `x`, `y`, `y_true`, `y_pred` and whatever else is to be kept.
        num_per_group: Patches per group; a group may hold fewer, or none.
        seed: Seed of the draw; a patch's rank does not depend on the model.

    Returns:
        The drawn rows with `group`, in the order of `GROUPS`.
    """
    called = test["y_pred"].to_numpy() == 1
    idc = test["y_true"].to_numpy() == 1
    group = np.select([idc & called, idc & ~called, ~idc & called], ["tp", "fn", "fp"], "tn")
    ranked = test.assign(group=group, rank=rank_patches(test, seed)).sort_values("rank")
    drawn = [ranked[ranked["group"] == name].head(num_per_group) for name in GROUPS]
    return pd.concat(drawn).drop(columns="rank").reset_index(drop=True)


def draw_sheet(
    patches: pd.DataFrame, pixels: np.ndarray, maps: dict[str, dict[str, np.ndarray]]
) -> Figure:
    """Draw one group: a row per patch, its picture first, then every map over it.

    Args:
        patches: Columns `case`, `x`, `y`, `y_score`.
        pixels: uint8 (patches, 50, 50, 3).
        maps: By method, then by backbone or `fused`: float (patches, height, width) in 0-1.
    """
    columns = [(method, name) for method, by_name in maps.items() for name in by_name]
    strips = [np.stack([_enlarge(patch) for patch in pixels])]
    strips += [_overlay(pixels, maps[method][name]) for method, name in columns]
    mosaic = _mosaic(np.stack(strips, axis=1))
    figure = Figure(figsize=(mosaic.shape[1] / 96 + 1.0, mosaic.shape[0] / 96 + 0.5))
    axes = figure.add_axes((1.0 / figure.get_figwidth(), 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, mosaic.shape[1] + 96 * 1.0)
    axes.set_ylim(mosaic.shape[0], -48)
    # one picture of the whole sheet: a hundred small axes would take a minute to lay out
    axes.imshow(mosaic, extent=(0, mosaic.shape[1], mosaic.shape[0], 0), aspect="auto")
    for row, patch in enumerate(patches.itertuples()):
        says = f"{patch.case}\nx{patch.x} y{patch.y}\np = {patch.y_score:.2f}"
        axes.text(-8, (row + 0.5) * _PITCH_PX, says, ha="right", va="center", fontsize=7)
    for column, (method, name) in enumerate([("patch", ""), *columns]):
        middle = column * _PITCH_PX + _CELL_PX / 2
        axes.text(middle, -6, f"{method}\n{name}".strip(), ha="center", va="bottom", fontsize=7)
    return figure


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Return (100, 100, channels) or (100, 100)."""
    return np.asarray(cv2.resize(picture, (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_LINEAR))


def _overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay maps over grey patches, uint8 (patches, 100, 100, 3)."""
    cells = []
    for patch, values in zip(pixels, heat, strict=True):
        grey = _enlarge(patch).mean(axis=2, keepdims=True)
        colour = 255 * colormaps["inferno"](_enlarge(values.astype(np.float32)))[..., :3]
        cells.append((0.4 * grey + 0.6 * colour).astype(np.uint8))
    return np.stack(cells)


def _mosaic(cells: np.ndarray) -> np.ndarray:
    """Join (rows, columns, 100, 100, 3) to one white-gapped picture."""
    gaps = ((0, 0), (0, 0), (0, _PITCH_PX - _CELL_PX), (0, _PITCH_PX - _CELL_PX), (0, 0))
    padded = np.pad(cells, gaps, constant_values=255)
    num_rows, num_columns = padded.shape[:2]
    joined = padded.transpose(0, 2, 1, 3, 4)
    return joined.reshape(num_rows * _PITCH_PX, num_columns * _PITCH_PX, 3)
