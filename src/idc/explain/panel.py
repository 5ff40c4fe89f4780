"""Which test patches are explained, and how they are drawn."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idc.data.sampling import rank_patches

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
    num_rows, num_columns = len(patches), len(columns) + 1
    figure = Figure(figsize=(1.45 * num_columns, 1.5 * num_rows + 0.55), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for row, patch in enumerate(patches.itertuples()):
        _show(axes[row, 0], pixels[row], title="patch" if row == 0 else "")
        axes[row, 0].set_ylabel(
            f"{patch.case}\nx{patch.x} y{patch.y}\np = {patch.y_score:.2f}",
            rotation=0, ha="right", va="center", fontsize=7,
        )  # fmt: skip
        for column, (method, name) in enumerate(columns, start=1):
            title = f"{method}\n{name}" if row == 0 else ""
            _show(axes[row, column], pixels[row], maps[method][name][row], title=title)
    return figure


def _show(axes: Axes, patch: np.ndarray, heat: np.ndarray | None = None, *, title: str) -> None:
    axes.set_title(title, fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    extent = (0, patch.shape[1], patch.shape[0], 0)
    if heat is None:
        axes.imshow(patch, extent=extent)
        return
    axes.imshow(patch.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.55, extent=extent)
