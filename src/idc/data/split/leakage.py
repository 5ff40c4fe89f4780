"""Measure what a split shares between training and the held-out sets."""

from typing import Any

import numpy as np
import pandas as pd

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX
from idc.data.split.duplicates import find_duplicates
from idc.data.subsets import HELD_OUT, SUBSETS

NEAR_DUPLICATE_DIFFERENCE = 5.0
"""RMS difference of pixels, in grey levels, up to which two patches are near duplicates: what
saving a patch once more as JPEG of good quality makes of it."""

_NO_TISSUE = ["near_blank", "out_of_focus", "sliver"]  # glass is always like glass
_MAX_NAMED = 20
_OFFSETS = [
    (dx, dy)
    for dx in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    for dy in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    if (dx, dy) != (0, 0)
]


def measure_leakage(
    splits: pd.DataFrame, index: pd.DataFrame, pixels: np.ndarray
) -> dict[str, Any]:
    """Count what is on two subsets: cases, touching patches, equal and nearly equal tissue.

    Args:
        splits: As `idc.data.tables.SPLITS_SCHEMA` says.
        index: As `idc.data.tables.INDEX_SCHEMA` says.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.

    Returns:
        `num_shared_cases`, `shared_cases` (names);
        `share_touching_train`: per held-out set the share (0-1) of its patches that touch a
        training patch (|dx| and |dy| at most 50 px on one case);
        `num_exact_duplicates` and `num_near_duplicates`: pairs of tissue patches on two subsets
        with equal pixels, or with an RMS difference of at most `near_duplicate_difference` grey
        levels;
        `exact_duplicates` and `near_duplicates`: the first 20 of each, by name.
    """
    subsets = splits.groupby("case")["split"].nunique()
    shared = sorted(subsets.index[subsets > 1])
    duplicates = _find_duplicates_across_subsets(splits, index, pixels)
    identical, near = (
        duplicates[duplicates["difference"] == 0],
        duplicates[duplicates["difference"] > 0],
    )
    return {
        "num_shared_cases": len(shared),
        "shared_cases": shared,
        "share_touching_train": _share_touching_train(splits),
        "near_duplicate_difference": NEAR_DUPLICATE_DIFFERENCE,
        "num_exact_duplicates": len(identical),
        "exact_duplicates": _name_pairs(identical, splits),
        "num_near_duplicates": len(near),
        "near_duplicates": _name_pairs(near, splits),
    }


def reject_leakage(leakage: dict[str, Any]) -> None:
    """Stop when a case, or an identical tissue patch, is on two subsets.

    Raises:
        InputError: Naming them.
    """
    if leakage["num_shared_cases"]:
        names = ", ".join(leakage["shared_cases"][:5])
        raise InputError(
            f"{leakage['num_shared_cases']} cases are on two subsets of the split ({names}): "
            "their patches would be learnt and tested at once"
        )
    if leakage["num_exact_duplicates"]:
        pairs = "; ".join(" = ".join(pair["patches"]) for pair in leakage["exact_duplicates"][:3])
        raise InputError(
            f"{leakage['num_exact_duplicates']} pairs of tissue patches on two subsets have the "
            f"very same pixels ({pairs}): they would be learnt and tested at once; remove one of "
            "each from data/raw"
        )


def _share_touching_train(splits: pd.DataFrame) -> dict[str, float]:
    case = pd.factorize(splits["case"], sort=True)[0].astype(np.int64)
    x, y = splits["x"].to_numpy(np.int64), splits["y"].to_numpy(np.int64)

    def places(dx: int, dy: int) -> np.ndarray:
        # one number per place; the shift keeps coordinates left of the first column positive
        shifted = (x + dx + PATCH_SIZE_PX, y + dy + PATCH_SIZE_PX)
        return np.asarray((case << 48) | (shifted[0] << 24) | shifted[1])

    train = places(0, 0)[splits["split"] == "train"]
    touching = np.any([np.isin(places(*offset), train) for offset in _OFFSETS], axis=0)
    shares = pd.Series(touching).groupby(splits["split"].to_numpy()).mean()
    return {
        subset: round(float(shares[subset]), 6) for subset in HELD_OUT if subset in shares.index
    }


def _find_duplicates_across_subsets(
    splits: pd.DataFrame, index: pd.DataFrame, pixels: np.ndarray
) -> pd.DataFrame:
    tissue = ~index.loc[splits["row"], _NO_TISSUE].any(axis=1).to_numpy()
    rows = splits["row"].to_numpy()
    groups = [rows[tissue & (splits["split"] == subset).to_numpy()] for subset in SUBSETS]
    return find_duplicates(pixels, groups, max_difference=NEAR_DUPLICATE_DIFFERENCE)


def _name_pairs(pairs: pd.DataFrame, splits: pd.DataFrame) -> list[dict[str, Any]]:
    by_row = splits.set_index("row")

    def name(row: int) -> str:
        patch = by_row.loc[row]
        return f"{patch['case']} x{patch['x']} y{patch['y']} ({patch['split']})"

    first = pairs.head(_MAX_NAMED)
    return [
        {"patches": [name(row), name(other)], "difference": round(float(difference), 3)}
        for row, other, difference in zip(
            first["row"], first["other"], first["difference"], strict=True
        )
    ]
