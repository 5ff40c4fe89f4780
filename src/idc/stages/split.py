"""Manifest, index and pixels -> subsets, leakage report, profile of the training set."""

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from idc.core import layout
from idc.core.config import Params, SplitConfig
from idc.core.files import save_json
from idc.data.patches import load_pixels
from idc.data.split.case_subsets import ensure_case_subsets, load_case_subsets, save_case_subsets
from idc.data.split.leakage import measure_leakage, reject_leakage
from idc.data.split.profile import build_profile
from idc.data.split.splitting import assign_cases, drop_excluded, split_patches
from idc.data.subsets import SUBSETS
from idc.data.tables import INDEX_SCHEMA, MANIFEST_SCHEMA, SPLITS_SCHEMA, load_table, save_table

log = logging.getLogger(__name__)

_MIN_CASES = 20  # below, a subset's prevalence is that of its few cases
_MAX_GAP = 0.03


def run(params: Params) -> None:
    """Assign patches to subsets.

    Raises:
        InputError: If a subset is empty, a case list is wrong, the subsets of the cases were
        assigned by
            another rule, or a case or an identical patch is on two subsets.
    """
    seed = params.seeds.data
    index = load_table(layout.INDEX, INDEX_SCHEMA)
    manifest = load_table(layout.MANIFEST, MANIFEST_SCHEMA)
    known = _known_subsets(params.split, seed)
    # a case that takes no part is given no subset for good either
    split_unit = drop_excluded(index, params.split, layout.CASE_LISTS)
    permanent_subsets = _assign_permanently(split_unit, params.split, seed, known)
    splits = split_patches(
        index,
        manifest,
        params.split,
        seed,
        case_lists=layout.CASE_LISTS,
        case_subsets=permanent_subsets,
    )
    pixels = load_pixels(layout.PIXELS)
    leakage = measure_leakage(splits, index, pixels)
    _judge(leakage, params.split)
    save_table(layout.SPLITS, splits, SPLITS_SCHEMA)
    subsets = _describe_subsets(splits, float(split_unit["label"].mean()))
    subsets["train"]["num_corrected_labels"] = _count_corrected(splits, index)
    save_json(layout.LEAKAGE_REPORT, {"mode": params.split.mode, **leakage, "subsets": subsets})
    save_json(layout.TRAINING_PROFILE, build_profile(index, splits, pixels))
    _keep_subsets(permanent_subsets, params.split, seed, known)


def _remembers(config: SplitConfig) -> bool:
    return config.mode == "case" and config.folds is None


def _known_subsets(config: SplitConfig, seed: int) -> dict[str, str]:
    if not _remembers(config):
        return {}
    return load_case_subsets(layout.CASE_SUBSETS, config.fractions, seed)


def _assign_permanently(
    index: pd.DataFrame, config: SplitConfig, seed: int, known: Mapping[str, str]
) -> dict[str, str]:
    """Return the subset of every case of the pool, of those without a manifest patch too."""
    if not _remembers(config):
        return {}
    return assign_cases(index, config.fractions, seed, known=known)


def _keep_subsets(
    subsets: Mapping[str, str], config: SplitConfig, seed: int, known: Mapping[str, str]
) -> None:
    if not _remembers(config):
        ensure_case_subsets(layout.CASE_SUBSETS)
        return
    added = {case: subset for case, subset in subsets.items() if case not in known}
    save_case_subsets(layout.CASE_SUBSETS, config.fractions, seed, before=known, added=added)
    if added and known:
        log.info("%d new cases joined %d known ones", len(added), len(known))


def _judge(leakage: dict[str, Any], config: SplitConfig) -> None:
    if config.mode != "patch":
        reject_leakage(leakage)
    else:
        log.warning(
            "split.mode patch LEAKS: %d cases are on two subsets and %.0f %% of the test patches "
            "touch a training patch; figures from this split are optimistic",
            leakage["num_shared_cases"],
            100 * leakage["share_touching_train"]["test"],
        )
    if leakage["num_near_duplicates"]:
        first = leakage["near_duplicates"][0]
        log.warning(
            "%d pairs of tissue patches on two subsets are nearly the same, first: %s",
            leakage["num_near_duplicates"],
            " and ".join(first["patches"]),
        )


def _count_corrected(splits: pd.DataFrame, index: pd.DataFrame) -> int:
    """Count the labels that `data/label_overrides.csv` changed: on train, and nowhere else."""
    archived = index["label"].to_numpy()[splits["row"].to_numpy()]
    corrected = splits["label"].to_numpy() != archived
    assert (splits.loc[corrected, "split"] == "train").all(), "a tested label was changed"
    return int(corrected.sum())


def _describe_subsets(splits: pd.DataFrame, pool_prevalence: float) -> dict[str, dict[str, float]]:
    subsets = {}
    for subset in SUBSETS:
        part = splits[splits["split"] == subset]
        if part.empty:
            continue
        subsets[subset] = {
            "num_cases": int(part["case"].nunique()),
            "num_patches": len(part),
            "num_in_manifest": int(part["in_manifest"].sum()),
            "prevalence": round(float(part["label"].mean()), 6),
        }
        log.info("%s: %s", subset, subsets[subset])
        gap = abs(float(part["label"].mean()) - pool_prevalence)
        # train holds the balanced manifest: its prevalence is meant to differ from the pool's
        if subset != "train" and subsets[subset]["num_cases"] >= _MIN_CASES and gap > _MAX_GAP:
            log.warning(
                "%s: %.1f %% IDC+ is %.1f points from the pool's %.1f %%",
                subset, 100 * subsets[subset]["prevalence"], 100 * gap, 100 * pool_prevalence,
            )  # fmt: skip
    return subsets
