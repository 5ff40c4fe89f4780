"""Assign patches to the subsets train, val, gate and test.

Cases, not patches, are independent: whole cases are assigned, except in `patch` mode, which shows
how optimistic a leaking split looks. Training learns from manifest rows only; the held-out sets
also carry every other pool patch of their cases, so that figures have natural prevalence.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from idc.core.config import FoldsConfig, SplitConfig, SubsetFractions
from idc.core.errors import InputError
from idc.core.files import load_text
from idc.data.ranking import hash_key, rank_patches
from idc.data.subsets import HELD_OUT, SUBSETS

_SIZE_BLOCK = 8  # cases of similar size are shuffled among each other before they are assigned

_COLUMNS = ["row", "case", "x", "y", "label", "split", "in_manifest"]


def split_patches(
    index: pd.DataFrame,
    manifest: pd.DataFrame,
    config: SplitConfig,
    seed: int,
    *,
    case_lists: Path,
    case_subsets: Mapping[str, str],
) -> pd.DataFrame:
    """Assign every manifest patch, and every pool patch of val, gate and test, to a subset.

    Args:
        index: The pool, as `idc.data.tables.INDEX_SCHEMA` says.
        manifest: As `idc.data.tables.MANIFEST_SCHEMA` says; only training patches take its labels,
        the
            others keep those of the index.
        config: Mode, fractions or lists, folds, excluded cases, caps on train.
        seed: Seed of every assignment.
        case_lists: Folder of the case lists (mode `lists`, and `config.exclude` in any mode).
        case_subsets: Subset of each case assigned before (mode `case` without folds only); it
        stays.

    Returns:
        As `idc.data.tables.SPLITS_SCHEMA` says, sorted by `row`.

    Raises:
        InputError: If a subset is empty or lacks a class, or a case list is wrong.
    """
    pool = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
    pool["in_manifest"] = pool["row"].isin(manifest["row"])
    pool = drop_excluded(pool, config, case_lists)
    pool["split"] = _assign_subsets(pool, config, seed, case_lists, case_subsets)
    train = _take_training_patches(pool[pool["split"] == "train"], manifest, config, seed)
    kept = pd.concat([pool[pool["split"].isin(HELD_OUT)], train]).sort_values("row")
    _require_subsets(kept, gate_may_be_empty=_gate_may_be_empty(config))
    return kept[_COLUMNS].astype({"split": "str"}).reset_index(drop=True)


def _assign_subsets(
    pool: pd.DataFrame,
    config: SplitConfig,
    seed: int,
    case_lists: Path,
    case_subsets: Mapping[str, str],
) -> pd.Series:
    """Return the subset of each patch, indexed like `pool`."""
    if config.mode == "patch":
        if config.folds is not None:
            return assign_patch_folds(pool, config.folds, seed)
        return assign_patches(pool, config.fractions, seed)
    if config.mode == "lists":
        return pool["case"].map(_listed_subsets(pool, config, seed, case_lists))
    if config.folds is not None:
        return pool["case"].map(assign_folds(pool, config.folds, seed))
    return pool["case"].map(assign_cases(pool, config.fractions, seed, known=case_subsets))


def _take_training_patches(
    subset: pd.DataFrame, manifest: pd.DataFrame, config: SplitConfig, seed: int
) -> pd.DataFrame:
    """Return the manifest patches of one subset with the manifest's labels, capped."""
    turn = pd.Series(np.arange(len(manifest)), index=manifest["row"].to_numpy())
    label = pd.Series(manifest["label"].to_numpy(), index=manifest["row"].to_numpy())
    train = subset[subset["in_manifest"]]
    train = train.assign(label=train["row"].map(label).astype("int8"))
    if config.max_train_cases is not None:
        cases = order_cases(train["case"].unique(), seed)[: config.max_train_cases]
        train = train[train["case"].isin(cases)]
    if config.max_train_patches is not None:
        train = train.iloc[np.argsort(train["row"].map(turn).to_numpy())]
        train = train[train.groupby("label").cumcount() < config.max_train_patches // 2]
    return train


def order_cases(cases: Iterable[str], seed: int) -> list[str]:
    """Return the cases in the order in which they join the training set; others change it not."""
    return sorted(cases, key=lambda case: (hash_key(seed, ("train", case)), case))


def drop_excluded(pool: pd.DataFrame, config: SplitConfig, case_lists: Path) -> pd.DataFrame:
    """Leave out every patch of the cases that `split.exclude` lists; keep rows and index labels.

    Args:
        pool: Has a column `case`.
        config: Only `exclude` is read; null leaves out none.
        case_lists: Folder that the list is in.

    Raises:
        InputError: If the list is missing, names none of the pool's cases, or names them all.
    """
    if config.exclude is None:
        return pool
    path = _list_path(case_lists, "split.exclude", config.exclude)
    excluded = pool["case"].isin(_read_cases(path))
    if not excluded.any():
        raise InputError(
            f"split.exclude: none of the archive's cases is on {path}, so it would exclude "
            "nothing: name another list, or set it to null"
        )
    if excluded.all():
        raise InputError(f"split.exclude: {path} lists every case of the archive: none is left")
    return pool[~excluded]


def assign_cases(
    pool: pd.DataFrame,
    fractions: SubsetFractions,
    seed: int,
    *,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Deal whole cases so that each subset nears its share of cases and of patches of each class.

    So every subset gets its part of the large and the small cases, of the high and the low burdens.

    Args:
        pool: Columns `case`, `label`.
        fractions: Target share of each held-out set; train takes the rest.
        seed: Seed of the shuffle.
        known: Subsets of cases assigned before: they keep them, the new cases fill what is short.

    Returns:
        Subset per case of the pool.
    """
    return _assign(pool, _subset_shares(fractions), seed, known or {})


def assign_folds(pool: pd.DataFrame, folds: FoldsConfig, seed: int) -> dict[str, str]:
    """Deal whole cases to folds of equal share; one is test, the next one val, the others train.

    Which cases make a fold does not depend on which fold is tested, so over all values of
    `test_fold` every case is tested once.
    """
    shares = {str(fold): 1 / folds.num_folds for fold in range(folds.num_folds)}
    subset = dict.fromkeys(shares, "train")
    subset[str((folds.test_fold + 1) % folds.num_folds)] = "val"
    subset[str(folds.test_fold)] = "test"
    return {case: subset[fold] for case, fold in _assign(pool, shares, seed, {}).items()}


def assign_patch_folds(pool: pd.DataFrame, folds: FoldsConfig, seed: int) -> pd.Series:
    """Deal single patches to folds of equal share, stratified by label; it leaks.

    As `assign_folds`: one fold is test, the next one val, the others train, and over all values of
    `test_fold` every patch is tested once.

    Args:
        pool: Columns `case`, `x`, `y`, `label`.
        folds: How many folds, and which one is tested.
        seed: Seed of the draw.

    Returns:
        Subset per patch, indexed like `pool`.
    """
    fold = np.floor(_places_within_label(pool, seed) * folds.num_folds).astype(int)
    subset = dict.fromkeys(range(folds.num_folds), "train")
    subset[(folds.test_fold + 1) % folds.num_folds] = "val"
    subset[folds.test_fold] = "test"
    subsets: pd.Series = fold.map(subset)
    return subsets


def assign_patches(pool: pd.DataFrame, fractions: SubsetFractions, seed: int) -> pd.Series:
    """Deal single patches at random, stratified by label; neighbours land on different subsets.

    Args:
        pool: Columns `case`, `x`, `y`, `label`.
        fractions: Share of each held-out set; train takes the rest.
        seed: Seed of the draw.

    Returns:
        Subset per patch, indexed like `pool`.
    """
    shares = _subset_shares(fractions)
    position = _places_within_label(pool, seed)
    bounds = np.cumsum([0.0, *shares.values()])
    bounds[-1] = 1.0
    return pd.Series(
        np.array(list(shares))[np.searchsorted(bounds, position, side="right") - 1],
        index=position.index,
    )


def _places_within_label(pool: pd.DataFrame, seed: int) -> pd.Series:
    """Return where each patch stands in a random order of those of its label, in (0, 1)."""
    # not the manifest's order, even where both have one seed: all it draws would go to train
    own_seed = hash_key(seed, ("subsets",))
    ranked = pool.assign(rank=rank_patches(pool, own_seed)).sort_values("rank")
    by_label = ranked.groupby("label")
    place = (by_label.cumcount() + 0.5) / by_label["rank"].transform("size")
    return place.reindex(pool.index)


def _assign(
    pool: pd.DataFrame, shares: Mapping[str, float], seed: int, known: Mapping[str, str]
) -> dict[str, str]:
    """Give each case to the subset that it brings nearest to its targets; known cases stay.

    Greedy, as in scikit-learn's StratifiedGroupKFold, but with subsets of unequal size: the squared
    gap to each target, relative to the target, falls the most.
    """
    sizes = _case_sizes(pool)
    places = list(shares)
    targets = np.outer(list(shares.values()), sizes.sum().to_numpy())
    # one factor of the target makes gaps relative, the total keeps small subsets from coming first
    scale = np.maximum(targets * targets.sum(axis=0), 1e-9)
    held = np.zeros_like(targets)
    subsets: dict[str, str] = {}
    for case in _assignment_order(sizes, seed, known):
        amount = sizes.loc[case].to_numpy()
        gain = (amount * (2 * (targets - held) - amount) / scale).sum(axis=1)
        subsets[case] = known.get(case, places[int(gain.argmax())])
        if subsets[case] in shares:
            held[places.index(subsets[case])] += amount
    return subsets


def _subset_shares(fractions: SubsetFractions) -> dict[str, float]:
    held_out = {"val": fractions.val, "gate": fractions.gate, "test": fractions.test}
    shares = {"train": 1.0 - sum(held_out.values()), **held_out}
    return {subset: share for subset, share in shares.items() if share > 0}


def _case_sizes(pool: pd.DataFrame) -> pd.DataFrame:
    """Return what is balanced per case: one, its IDC- and its IDC+ patches."""
    counts = pd.crosstab(pool["case"], pool["label"]).reindex(columns=[0, 1], fill_value=0)
    return pd.DataFrame({"case": 1.0, "idc_negative": counts[0], "idc_positive": counts[1]})


def _assignment_order(sizes: pd.DataFrame, seed: int, known: Mapping[str, str]) -> list[str]:
    """Return the known cases, then the others, the large ones first: they would not fit at last."""
    num_patches = sizes["idc_negative"] + sizes["idc_positive"]
    by_size = sorted(sizes.index, key=lambda case: (-num_patches[case], case))
    block = {case: place // _SIZE_BLOCK for place, case in enumerate(by_size)}
    return sorted(
        by_size, key=lambda case: (case not in known, block[case], hash_key(seed, (case,)))
    )


def _listed_subsets(
    pool: pd.DataFrame, config: SplitConfig, seed: int, folder: Path
) -> dict[str, str]:
    cases = sorted(pool["case"].unique())
    listed = _read_lists(config, folder)
    unlisted = {"train": "train", "drop": "dropped"}[config.rest]
    subsets = {case: listed.get(case, unlisted) for case in cases}
    if config.lists.val is None:
        train_pool = pool[pool["case"].map(subsets) == "train"]
        carve = SubsetFractions(val=config.fractions.val, gate=0.0, test=0.0)
        subsets |= assign_cases(train_pool, carve, seed)
    return subsets


def _read_lists(config: SplitConfig, folder: Path) -> Mapping[str, str]:
    subsets: dict[str, str] = {}
    for subset in SUBSETS:
        name = getattr(config.lists, subset)
        if name is None:
            continue
        path = _list_path(folder, f"split.lists.{subset}", name)
        for case in _read_cases(path):
            if subsets.setdefault(case, subset) != subset:
                raise InputError(
                    f"{path}: case {case} is also listed for {subsets[case]}; keep it on one subset"
                )
    return subsets


def _list_path(folder: Path, key: str, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        known = ", ".join(sorted(file.relative_to(folder).as_posix()
                                 for file in folder.rglob("*.txt")))  # fmt: skip
        raise InputError(f"{key}: {path} does not exist; there are {known}")
    return path


def _read_cases(path: Path) -> list[str]:
    return load_text(path, if_missing="restore it from git").split()


def _gate_may_be_empty(config: SplitConfig) -> bool:
    return config.mode == "lists" or config.folds is not None or config.fractions.gate == 0


def _require_subsets(splits: pd.DataFrame, *, gate_may_be_empty: bool) -> None:
    counts = pd.crosstab(splits["split"], splits["label"]).reindex(
        index=list(SUBSETS), columns=[0, 1], fill_value=0
    )
    for subset in SUBSETS:
        if subset == "gate" and gate_may_be_empty and counts.loc[subset].sum() == 0:
            continue
        missing = [
            name for label, name in ((0, "IDC-"), (1, "IDC+")) if counts.loc[subset, label] == 0
        ]
        if missing:
            raise InputError(
                f"split: subset {subset} has no {' and no '.join(missing)} patch: give it more "
                "cases (split.fractions, split.lists, split.max_train_cases) or a "
                "larger archive"
            )
