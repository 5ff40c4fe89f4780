"""Manifest and index -> sides and the leakage report."""

import logging

import pandas as pd

from idc import layout
from idc.config import Params
from idc.data.leakage import measure_leakage, refuse_leakage
from idc.data.patches import load_index
from idc.data.splitting import SIDES, split_patches
from idc.files import replacing_file, save_json

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Assign patches to sides.

    Raises:
        InputError: If a side is empty, a list is wrong, or a case is on two sides.
    """
    manifest = pd.read_csv(layout.MANIFEST, dtype={"case": str})
    splits = split_patches(load_index(layout.INDEX), manifest, params.split, layout.CASE_LISTS)
    leakage = measure_leakage(splits)
    if params.split.mode == "patch":
        log.warning(
            "split.mode patch: %d cases are on two sides and %.0f %% of the test patches touch a "
            "training patch; figures from this split are optimistic",
            leakage["num_cases_on_two_sides"],
            100 * leakage["share_test_touching_train"],
        )
    else:
        refuse_leakage(leakage)
    with replacing_file(layout.SPLITS) as partial:
        splits.to_csv(partial, index=False)
    save_json(
        layout.LEAKAGE_REPORT,
        {"mode": params.split.mode, **leakage, "sides": _describe_sides(splits)},
    )


def _describe_sides(splits: pd.DataFrame) -> dict[str, dict[str, float]]:
    sides = {}
    for side in SIDES:
        part = splits[splits["split"] == side]
        if part.empty:
            continue
        sides[side] = {
            "num_cases": int(part["case"].nunique()),
            "num_patches": len(part),
            "num_in_manifest": int(part["in_manifest"].sum()),
            "prevalence": round(float(part["label"].mean()), 6),
        }
        log.info("%s: %s", side, sides[side])
    return sides
