"""Raw archives -> pixel store, index and a report of what was in them."""

import logging
from typing import Any

import pandas as pd

from idc import layout
from idc.config import Params
from idc.data.archive import Listing, find_sources, list_members, store_patches
from idc.errors import InputError
from idc.files import replacing_folder, save_json

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Read every zip and patch folder below `data/raw`.

    Raises:
        InputError: If there is no archive, it contradicts itself, or too much of it is unreadable.
    """
    listing = list_members(find_sources(layout.RAW))
    with replacing_folder(layout.PATCHES) as partial:
        index, unreadable = store_patches(
            listing, partial / layout.PIXELS.name, num_workers=params.runtime.num_workers
        )
        _refuse_unreadable(unreadable, len(listing.members), params.ingest.max_unreadable_share)
        index.to_parquet(partial / layout.INDEX.name, index=False)
    save_json(layout.INGEST_REPORT, _describe(index, listing, unreadable))
    log.info("%d patches of %d cases", len(index), index["case"].nunique())


def _refuse_unreadable(unreadable: list[str], num_patches: int, max_share: float) -> None:
    if len(unreadable) > max_share * num_patches:
        raise InputError(
            f"{len(unreadable)} of {num_patches} patches do not decode, first {unreadable[0]}: "
            "mend the archive, or raise ingest.max_unreadable_share to leave them out"
        )


def _describe(index: pd.DataFrame, listing: Listing, unreadable: list[str]) -> dict[str, Any]:
    counts = index["label"].value_counts()
    return {
        "num_patches": len(index),
        "num_idc_negative": int(counts.get(0, 0)),
        "num_idc_positive": int(counts.get(1, 0)),
        "num_cases": int(index["case"].nunique()),
        "num_nested_copies": listing.num_copies,
        "num_slivers": int(index["sliver"].sum()),
        "num_near_blank": int(index["near_blank"].sum()),
        "num_blank": int(index["blank"].sum()),
        "num_equal_pixels": int(index["sha256"].duplicated().sum()),
        "unreadable": unreadable,
        "patches_per_case": {
            "min": int(index["case"].value_counts().min()),
            "median": float(index["case"].value_counts().median()),
            "max": int(index["case"].value_counts().max()),
        },
    }
