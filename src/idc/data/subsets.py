"""The subsets of a split, and the patches on one of them."""

import numpy as np
import pandas as pd

SUBSETS = ("train", "val", "gate", "test")
HELD_OUT = SUBSETS[1:]


def select_subset(splits: pd.DataFrame, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64) and labels (int8) of the patches on one subset."""
    part = splits[splits["split"] == subset]
    return part["row"].to_numpy(), part["label"].to_numpy()
