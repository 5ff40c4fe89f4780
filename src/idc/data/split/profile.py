"""What a model learnt from, in numbers small enough to stay with it for good."""

from typing import Any

import numpy as np
import pandas as pd

from idc.core.errors import InputError
from idc.data.colour import colour_statistics
from idc.data.patches import evenly_spaced_rows
from idc.data.quality import describe_pixels

_MAX_PATCHES = 20_000  # means and SDs of more would not differ visibly
_COLOURS = [f"{what}_{channel}" for what in ("mean", "sd") for channel in ("red", "green", "blue")]


def build_profile(index: pd.DataFrame, splits: pd.DataFrame, pixels: np.ndarray) -> dict[str, Any]:
    """Describe the training cases by all their pool patches, at natural prevalence.

    Args:
        index: As `idc.data.tables.INDEX_SCHEMA` says.
        splits: As `idc.data.tables.SPLITS_SCHEMA` says.
        pixels: The pixel store that `index` describes.

    Returns:
        `num_patches`: of the whole archive, by case; `train_cases`; `idc_share` of their pool
        patches, in [0, 1]; `statistics`: `mean` and `sd` over at most 20,000 of those, evenly
        spread, of each of `measure_stain`'s columns.

    Raises:
        InputError: If no patch is on train.
    """
    train_cases = sorted(splits.loc[splits["split"] == "train", "case"].unique())
    rows = np.flatnonzero(index["case"].isin(train_cases).to_numpy())
    if len(rows) == 0:
        raise InputError("no training patch to describe: run `dvc repro split`")
    measured = measure_stain(pixels, evenly_spaced_rows(rows, _MAX_PATCHES))
    return {
        "num_patches": {case: int(count) for case, count in index["case"].value_counts().items()},
        "train_cases": train_cases,
        "idc_share": float(index["label"].to_numpy()[rows].mean()),
        "statistics": {
            name: {"mean": float(values.mean()), "sd": float(values.std())}
            for name, values in measured.items()
        },
    }


def measure_stain(pixels: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Measure stain and colour of some patches.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        rows: Which patches.

    Returns:
        One row per patch, float64: mean and SD of each channel in 0-255, `mean_optical_density`
        (at least 0) and `white_share` (in [0, 1]).
    """
    colours = pd.DataFrame(colour_statistics(pixels, rows), columns=_COLOURS)
    return pd.concat([colours, describe_pixels(pixels, rows)], axis=1)
