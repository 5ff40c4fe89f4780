"""Draw the manifest from the index: balanced, seeded, nested.

Every patch has a rank that depends on the seed and its own place only, so a smaller manifest is
the beginning of a larger one, and neither file order nor other cases change it.
"""

import pandas as pd

from idc.core.config import SampleConfig
from idc.core.errors import InputError
from idc.data.ranking import rank_patches


def draw_manifest(index: pd.DataFrame, config: SampleConfig, seed: int) -> pd.DataFrame:
    """Draw the patches to learn from.

    Args:
        index: As `idc.data.patches.load_index` returns it.
        config: Number of patches (half per class), cap per case, flags to leave out.
        seed: Seed of the draw.

    Returns:
        Columns `row` (of the pixel store), `case`, `x`, `y`, `label`; the classes alternate.

    Raises:
        InputError: If a class is missing, or the pool is too small and `allow_fewer` is false.
    """
    pool = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
    flagged = index[list(config.exclude_flags)].any(axis=1).to_numpy()
    pool = pool[~flagged]
    _require_both_classes(pool)
    pool = pool.assign(rank=rank_patches(pool, seed)).sort_values("rank")
    if config.max_per_case is not None:
        pool = pool[pool.groupby("case").cumcount() < config.max_per_case]
    if config.num_patches != "all":
        pool = pool[pool.groupby("label").cumcount() < _num_per_class(pool, config)]
    turn = pool.groupby("label").cumcount()
    ordered = pool.assign(turn=turn).sort_values(["turn", "label"], kind="stable")
    return ordered[["row", "case", "x", "y", "label"]].reset_index(drop=True)


def _require_both_classes(pool: pd.DataFrame) -> None:
    counts = pool["label"].value_counts()
    for label, meaning in ((0, "IDC-"), (1, "IDC+")):
        if counts.get(label, 0) == 0:
            raise InputError(
                f"the pool holds no {meaning} patch (label {label}): complete the archive in "
                "data/raw, or loosen sample.exclude_flags"
            )


def _num_per_class(pool: pd.DataFrame, config: SampleConfig) -> int:
    assert isinstance(config.num_patches, int)
    wanted = config.num_patches // 2
    available = int(pool["label"].value_counts().min())
    if available >= wanted:
        return wanted
    if config.allow_fewer:
        return available
    raise InputError(
        f"sample.num_patches = {config.num_patches} wants {wanted} per class, the pool can give "
        f"{available}: set it to {2 * available} or less, or set sample.allow_fewer to true"
    )
