"""The sides of a split, and the patches on one of them."""

import numpy as np
import pandas as pd

SIDES = ("train", "val", "gate", "test")
HELD_OUT = SIDES[1:]


def take_side(splits: pd.DataFrame, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64) and labels (int8) of the patches on one side."""
    part = splits[splits["split"] == side]
    return part["row"].to_numpy(), part["label"].to_numpy()
