"""Measure what a split shares between training and the held-out sides."""

from typing import Any

import numpy as np
import pandas as pd

from idc.data.patches import PATCH_SIZE_PX
from idc.data.sides import HELD_OUT, SIDES
from idc.data.twins import find_twins
from idc.errors import InputError

NEAR_TWIN_DIFFERENCE = 5.0
"""RMS difference of pixels, in grey levels, up to which two patches are near twins: what saving a
patch once more as JPEG of good quality makes of it."""

_NO_TISSUE = ["near_blank", "out_of_focus", "sliver"]  # glass is always like glass
_MOST_NAMED = 20
_OFFSETS = [
    (dx, dy)
    for dx in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    for dy in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    if (dx, dy) != (0, 0)
]


def measure_leakage(
    splits: pd.DataFrame, index: pd.DataFrame, pixels: np.ndarray
) -> dict[str, Any]:
    """Count what is on two sides: cases, touching patches, equal and nearly equal tissue.

    Args:
        splits: As `idc.data.tables.SPLITS` says.
        index: As `idc.data.tables.INDEX` says.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.

    Returns:
        `num_cases_on_two_sides`, `cases_on_two_sides` (names);
        `share_touching_train`: per held-out side the share (0-1) of its patches that touch a
        training patch (|dx| and |dy| at most 50 px on one case);
        `num_identical_twins` and `num_near_twins`: pairs of tissue patches on two sides with equal
        pixels, or with an RMS difference of at most `near_twin_difference` grey levels;
        `identical_twins` and `near_twins`: the first 20 of each, by name.
    """
    sides = splits.groupby("case")["split"].nunique()
    shared = sorted(sides.index[sides > 1])
    twins = _find_twins_across_sides(splits, index, pixels)
    identical, near = twins[twins["difference"] == 0], twins[twins["difference"] > 0]
    return {
        "num_cases_on_two_sides": len(shared),
        "cases_on_two_sides": shared,
        "share_touching_train": _share_touching_train(splits),
        "near_twin_difference": NEAR_TWIN_DIFFERENCE,
        "num_identical_twins": len(identical),
        "identical_twins": _name_pairs(identical, splits),
        "num_near_twins": len(near),
        "near_twins": _name_pairs(near, splits),
    }


def refuse_leakage(leakage: dict[str, Any]) -> None:
    """Stop when a case, or an identical tissue patch, is on two sides.

    Raises:
        InputError: Naming them.
    """
    if leakage["num_cases_on_two_sides"]:
        names = ", ".join(leakage["cases_on_two_sides"][:5])
        raise InputError(
            f"{leakage['num_cases_on_two_sides']} cases are on two sides of the split ({names}): "
            "their patches would be learnt and tested at once"
        )
    if leakage["num_identical_twins"]:
        pairs = "; ".join(" = ".join(pair["patches"]) for pair in leakage["identical_twins"][:3])
        raise InputError(
            f"{leakage['num_identical_twins']} pairs of tissue patches on two sides have the very "
            f"same pixels ({pairs}): they would be learnt and tested at once; remove one of each "
            "from data/raw"
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
    return {side: round(float(shares[side]), 6) for side in HELD_OUT if side in shares.index}


def _find_twins_across_sides(
    splits: pd.DataFrame, index: pd.DataFrame, pixels: np.ndarray
) -> pd.DataFrame:
    tissue = ~index.loc[splits["row"], _NO_TISSUE].any(axis=1).to_numpy()
    rows = splits["row"].to_numpy()
    groups = [rows[tissue & (splits["split"] == side).to_numpy()] for side in SIDES]
    return find_twins(pixels, groups, max_difference=NEAR_TWIN_DIFFERENCE)


def _name_pairs(pairs: pd.DataFrame, splits: pd.DataFrame) -> list[dict[str, Any]]:
    by_row = splits.set_index("row")

    def name(row: int) -> str:
        patch = by_row.loc[row]
        return f"{patch['case']} x{patch['x']} y{patch['y']} ({patch['split']})"

    first = pairs.head(_MOST_NAMED)
    return [
        {"patches": [name(row), name(other)], "difference": round(float(difference), 3)}
        for row, other, difference in zip(
            first["row"], first["other"], first["difference"], strict=True
        )
    ]
