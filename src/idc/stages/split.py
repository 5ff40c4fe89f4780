"""Manifest and index -> sides, the side of every case, and the leakage report."""

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from idc import layout
from idc.config import Params, SplitConfig
from idc.data.case_sides import ensure_case_sides, load_case_sides, save_case_sides
from idc.data.leakage import measure_leakage, refuse_leakage
from idc.data.patches import load_pixels
from idc.data.sides import SIDES
from idc.data.splitting import deal_cases, drop_excluded, split_patches
from idc.data.tables import INDEX, MANIFEST, SPLITS, load_table, save_table
from idc.files import save_json

log = logging.getLogger(__name__)

_FEWEST_CASES = 20  # below, a side's prevalence is that of its few cases
_LARGEST_GAP = 0.03


def run(params: Params) -> None:
    """Assign patches to sides.

    Raises:
        InputError: If a side is empty, a case list is wrong, the sides of the cases were dealt by
            another rule, or a case or an identical patch is on two sides.
    """
    index = load_table(layout.INDEX, INDEX)
    manifest = load_table(layout.MANIFEST, MANIFEST)
    known = _known_sides(params.split)
    # a case that takes no part is given no side for good either
    dealt = drop_excluded(index, params.split, layout.CASE_LISTS)
    sides_for_good = _deal_for_good(dealt, params.split, known)
    splits = split_patches(
        index, manifest, params.split, case_lists=layout.CASE_LISTS, case_sides=sides_for_good
    )
    leakage = measure_leakage(splits, index, load_pixels(layout.PIXELS))
    _judge(leakage, params.split)
    save_table(layout.SPLITS, splits, SPLITS)
    sides = _describe_sides(splits, float(dealt["label"].mean()))
    sides["train"]["num_corrected_labels"] = _count_corrected(splits, index)
    save_json(layout.LEAKAGE_REPORT, {"mode": params.split.mode, **leakage, "sides": sides})
    _keep_sides(sides_for_good, params.split, known)


def _remembers(config: SplitConfig) -> bool:
    return config.mode == "case" and config.folds is None


def _known_sides(config: SplitConfig) -> dict[str, str]:
    if not _remembers(config):
        return {}
    return load_case_sides(layout.CASE_SIDES, config.fractions, config.seed)


def _deal_for_good(
    index: pd.DataFrame, config: SplitConfig, known: Mapping[str, str]
) -> dict[str, str]:
    """Return the side of every case of the pool, of those without a manifest patch too."""
    if not _remembers(config):
        return {}
    return deal_cases(index, config.fractions, config.seed, known=known)


def _keep_sides(sides: Mapping[str, str], config: SplitConfig, known: Mapping[str, str]) -> None:
    if not _remembers(config):
        ensure_case_sides(layout.CASE_SIDES)
        return
    added = {case: side for case, side in sides.items() if case not in known}
    save_case_sides(layout.CASE_SIDES, config.fractions, config.seed, before=known, added=added)
    if added and known:
        log.info("%d new cases joined %d known ones", len(added), len(known))


def _judge(leakage: dict[str, Any], config: SplitConfig) -> None:
    if config.mode != "patch":
        refuse_leakage(leakage)
    else:
        log.warning(
            "split.mode patch LEAKS: %d cases are on two sides and %.0f %% of the test patches "
            "touch a training patch; figures from this split are optimistic",
            leakage["num_cases_on_two_sides"],
            100 * leakage["share_touching_train"]["test"],
        )
    if leakage["num_near_twins"]:
        first = leakage["near_twins"][0]
        log.warning(
            "%d pairs of tissue patches on two sides are nearly the same, first: %s",
            leakage["num_near_twins"],
            " and ".join(first["patches"]),
        )


def _count_corrected(splits: pd.DataFrame, index: pd.DataFrame) -> int:
    """Count the labels that `data/label_overrides.csv` changed: on train, and nowhere else."""
    archived = index["label"].to_numpy()[splits["row"].to_numpy()]
    corrected = splits["label"].to_numpy() != archived
    assert (splits.loc[corrected, "split"] == "train").all(), "a tested label was changed"
    return int(corrected.sum())


def _describe_sides(splits: pd.DataFrame, pool_prevalence: float) -> dict[str, dict[str, float]]:
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
        gap = abs(float(part["label"].mean()) - pool_prevalence)
        # train holds the balanced manifest: its prevalence is meant to differ from the pool's
        if side != "train" and sides[side]["num_cases"] >= _FEWEST_CASES and gap > _LARGEST_GAP:
            log.warning(
                "%s: %.1f %% IDC+ is %.1f points from the pool's %.1f %%",
                side, 100 * sides[side]["prevalence"], 100 * gap, 100 * pool_prevalence,
            )  # fmt: skip
    return sides
