"""The sizes of the folds' training sets, computed before anything is trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from idc.core.config import SplitConfig, load_params
from idc.core.layout import CASE_LISTS, INDEX, MANIFEST, PARAMS
from idc.data.split.splitting import split_patches
from idc.data.tables import INDEX_SCHEMA, MANIFEST_SCHEMA, load_table
from idc.experiments.folds import CAP_CASES, CAP_PATCHES, SplitUnit, fold_overrides


@dataclass(frozen=True)
class Pool:
    """What the stage `split` of a workspace would read."""

    index: pd.DataFrame
    manifest: pd.DataFrame
    config: SplitConfig
    seed: int
    case_lists: Path

    def training_set(
        self, split_unit: SplitUnit, num_folds: int, fold: int, max_cases: int | None = None
    ) -> pd.DataFrame:
        """Return the training patches of a fold, as `idc.data.tables.SPLITS_SCHEMA` says.

        Raises:
            InputError: If a subset of the fold lacks a class.
        """
        changes = fold_overrides(
            {CAP_CASES: max_cases, CAP_PATCHES: None}, split_unit, num_folds, fold
        )
        changed = {key.removeprefix("split."): value for key, value in changes.items()}
        splits = split_patches(
            self.index,
            self.manifest,
            SplitConfig.model_validate(self.config.model_dump() | changed),
            self.seed,
            case_lists=self.case_lists,
            case_subsets={},
        )
        return splits[splits["split"] == "train"]


def load_pool(workspace: Path) -> Pool:
    """Read the pool of a workspace in which `sample` has run.

    Raises:
        InputError: If a table is missing.
    """
    params = load_params(workspace / PARAMS)
    return Pool(
        index=load_table(workspace / INDEX, INDEX_SCHEMA),
        manifest=load_table(workspace / MANIFEST, MANIFEST_SCHEMA),
        config=params.split,
        seed=params.seeds.data,
        case_lists=workspace / CASE_LISTS,
    )


def largest_equal_size(subsets: Iterable[pd.DataFrame]) -> int:
    """Return how many patches, half per class, every one of the training sets can provide."""
    return 2 * min(int(subset["label"].value_counts().min()) for subset in subsets)
