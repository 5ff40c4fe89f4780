"""Read the split table and take one side of it."""

from pathlib import Path

import numpy as np
import pandas as pd

from idc.errors import InputError


def load_splits(path: Path) -> pd.DataFrame:
    """Read `data/splits.csv`: `row`, `case` (str), `x`, `y`, `label`, `split`, `in_manifest`.

    Raises:
        InputError: If there is none.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro split`")
    return pd.read_csv(path, dtype={"case": str, "label": np.int8, "row": np.int64})


def take_side(splits: pd.DataFrame, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (int64) and labels (int8) of the patches on one side."""
    part = splits[splits["split"] == side]
    return part["row"].to_numpy(), part["label"].to_numpy()
