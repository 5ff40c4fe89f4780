"""The subsets of a split, and the patches on one of them."""

from typing import NamedTuple

import numpy as np
import pandas as pd

SUBSETS = ("train", "val", "gate", "test")
HELD_OUT = SUBSETS[1:]


class LabelledRows(NamedTuple):
    """Some patches of the pixel store, with their labels."""

    rows: np.ndarray
    """Rows of the store, int64 (patches,)."""
    labels: np.ndarray
    """0 or 1, int8 (patches,)."""


def select_subset(splits: pd.DataFrame, subset: str) -> LabelledRows:
    """Return the patches of one subset."""
    part = splits[splits["split"] == subset]
    return LabelledRows(part["row"].to_numpy(), part["label"].to_numpy())
