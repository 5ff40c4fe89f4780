"""What the network is asked to say: the label, or a softer target that admits its uncertainty."""

import numpy as np
import pandas as pd

_STEP_PX = 50
_AROUND = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)]


def smooth_targets(
    labels: np.ndarray,
    neighbour_mean: np.ndarray | None,
    *,
    label_smoothing: float,
    neighbour_smoothing: float,
) -> np.ndarray:
    """Return the target probability of IDC+ per patch, float32 (patches,) in 0-1.

    (1 - a - b) y + a / 2 + b m, with a the share of label smoothing (Szegedy 2016), b that of
    neighbour smoothing and m the mean label of the touching patches: the published contours are
    coarse, and a patch between unlike neighbours is likelier on a contour.

    Args:
        labels: 0 or 1, (patches,).
        neighbour_mean: Mean label of each patch's neighbours in 0-1, (patches,); None where b is 0.
        label_smoothing: a in 0-1.
        neighbour_smoothing: b in 0-1; a + b at most 1.
    """
    targets = (1.0 - label_smoothing - neighbour_smoothing) * labels + label_smoothing / 2
    if neighbour_mean is not None:
        targets = targets + neighbour_smoothing * neighbour_mean
    return targets.astype(np.float32)


def mean_neighbour_label(index: pd.DataFrame, rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return the mean label of each patch's touching patches, float64 (rows,).

    A patch without any keeps its own label.

    Args:
        index: Columns `case`, `x`, `y`, `label`; row i describes patch i.
        rows: Patches asked about.
        pool: Patches that may count as neighbours: those of the train cases, never others.
    """
    patches = index.iloc[np.asarray(pool)][["case", "x", "y", "label"]]
    asked = index.iloc[np.asarray(rows)][["case", "x", "y", "label"]].reset_index(drop=True)
    total = np.zeros(len(asked))
    count = np.zeros(len(asked))
    for dx, dy in _AROUND:
        place = asked.assign(x=asked["x"] + dx * _STEP_PX, y=asked["y"] + dy * _STEP_PX)
        beside = place.drop(columns="label").merge(patches, on=["case", "x", "y"], how="left")
        there = beside["label"].notna().to_numpy()
        total += beside["label"].fillna(0).to_numpy()
        count += there
    mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), asked["label"])
    return mean
