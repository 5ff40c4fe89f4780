"""How large the training sides of folds are, known before anything trains."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from idc.config import SplitConfig, load_params
from idc.data.splitting import split_patches
from idc.data.tables import INDEX, MANIFEST, load_table
from idc.layout import CASE_LISTS, PARAMS
from idc.layout import INDEX as INDEX_PATH
from idc.layout import MANIFEST as MANIFEST_PATH
from tasks.experiments import CAP_CASES, CAP_PATCHES, Dealt, fold_overrides


@dataclass(frozen=True)
class Pool:
    """What the stage `split` of a workspace would read."""

    index: pd.DataFrame
    manifest: pd.DataFrame
    config: SplitConfig
    case_lists: Path

    def training_side(
        self, dealt: Dealt, num_folds: int, fold: int, max_cases: int | None = None
    ) -> pd.DataFrame:
        """Return the training patches of a fold, as `idc.data.tables.SPLITS` says.

        Raises:
            InputError: If a side of the fold lacks a class.
        """
        changes = fold_overrides({CAP_CASES: max_cases, CAP_PATCHES: None}, dealt, num_folds, fold)
        changed = {key.removeprefix("split."): value for key, value in changes.items()}
        splits = split_patches(
            self.index,
            self.manifest,
            SplitConfig.model_validate(self.config.model_dump() | changed),
            case_lists=self.case_lists,
            case_sides={},
        )
        return splits[splits["split"] == "train"]


def load_pool(workspace: Path) -> Pool:
    """Read the pool of a workspace in which `sample` has run.

    Raises:
        InputError: If a table is missing.
    """
    return Pool(
        index=load_table(workspace / INDEX_PATH, INDEX),
        manifest=load_table(workspace / MANIFEST_PATH, MANIFEST),
        config=load_params(workspace / PARAMS).split,
        case_lists=workspace / CASE_LISTS,
    )


def largest_equal_size(sides: Iterable[pd.DataFrame]) -> int:
    """Return how many patches, half per class, each of the training sides can give."""
    return 2 * min(int(side["label"].value_counts().min()) for side in sides)
