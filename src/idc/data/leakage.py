"""Count what a split shares between training and the held-out sides."""

from typing import Any

import pandas as pd

from idc.data.patches import PATCH_SIZE_PX
from idc.errors import InputError

_OFFSETS = [
    (dx, dy)
    for dx in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    for dy in (-PATCH_SIZE_PX, 0, PATCH_SIZE_PX)
    if (dx, dy) != (0, 0)
]


def measure_leakage(splits: pd.DataFrame) -> dict[str, Any]:
    """Count cases on two sides and test patches that touch a training patch.

    Args:
        splits: Columns `case`, `x`, `y`, `split`.

    Returns:
        `num_cases_on_two_sides`, `cases_on_two_sides` (names), `num_test_patches`,
        `share_test_touching_train` (0-1; |dx| and |dy| at most 50 px on the same case).
    """
    sides = splits.groupby("case")["split"].nunique()
    shared = sorted(sides.index[sides > 1])
    test = splits[splits["split"] == "test"]
    train = splits[splits["split"] == "train"]
    train_places = set(zip(train["case"], train["x"], train["y"], strict=True))
    touching = sum(
        any((case, x + dx, y + dy) in train_places for dx, dy in _OFFSETS)
        for case, x, y in zip(test["case"], test["x"], test["y"], strict=True)
    )
    return {
        "num_cases_on_two_sides": len(shared),
        "cases_on_two_sides": shared,
        "num_test_patches": len(test),
        "share_test_touching_train": touching / len(test),
    }


def refuse_leakage(leakage: dict[str, Any]) -> None:
    """Stop when a case is on two sides.

    Raises:
        InputError: Naming the cases.
    """
    if leakage["num_cases_on_two_sides"]:
        names = ", ".join(leakage["cases_on_two_sides"][:5])
        raise InputError(
            f"{leakage['num_cases_on_two_sides']} cases are on two sides of the split ({names}): "
            "their patches would be learnt and tested at once"
        )
