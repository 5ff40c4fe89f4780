"""Raw archives -> pixel store, index and a report of what was in them."""

import logging
import shutil
from pathlib import Path

from idc.core import layout
from idc.core.config import Params
from idc.core.errors import InputError
from idc.core.files import replacing_folder, save_json
from idc.core.processes import count_cores
from idc.data.ingest.archive import Listing, find_sources, list_members
from idc.data.ingest.integrity import describe_index
from idc.data.ingest.pixel_store import StoredPatches, size_of_store, store_patches
from idc.data.tables import INDEX_SCHEMA, save_table

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Read every zip and patch folder below `data/raw`.

    Raises:
        InputError: If there is no archive, it contradicts itself or changes meanwhile, too much of
            it is unreadable, or the disk is too small.
    """
    listing = list_members(find_sources(layout.RAW))
    log.info("%d patches listed, %d copies", len(listing.members), listing.num_copies)
    with replacing_folder(layout.PATCHES) as partial:
        _require_space(partial, len(listing.members))
        stored = store_patches(
            listing,
            partial / layout.PIXELS.name,
            num_processes=params.runtime.num_processes or count_cores(),
        )
        _reject_unreadable(stored, len(listing.members), params.ingest.max_unreadable_share)
        save_table(partial / layout.INDEX.name, stored.index, INDEX_SCHEMA)
    _report(stored, listing)


def _require_space(folder: Path, num_patches: int) -> None:
    needed, free = size_of_store(num_patches), shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{layout.PATCHES} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB "
            "free: make room"
        )


def _reject_unreadable(stored: StoredPatches, num_patches: int, max_share: float) -> None:
    unreadable = stored.unreadable
    if len(unreadable) > max_share * num_patches:
        first = unreadable[0]
        raise InputError(
            f"{len(unreadable)} of {num_patches} patches are unreadable, first {first['patch']}: "
            f"{first['reason']}; fix the archive, or raise ingest.max_unreadable_share to leave "
            "them out"
        )


def _report(stored: StoredPatches, listing: Listing) -> None:
    report = {
        **describe_index(stored.index),
        "num_copies": listing.num_copies,
        "num_other_files": listing.num_other_files,
        "formats": stored.formats,
        "unreadable": stored.unreadable,
    }
    save_json(layout.INGEST_REPORT, report)
    log.info("%d patches of %d cases", report["num_patches"], report["num_cases"])
    log.info("%s %s", layout.RAW, report["published"]["text"])
    across = report["equal_pixels"]["across_labels"]
    if across:
        log.warning(
            "%d groups of equal pixels carry both labels, first: %s",
            report["equal_pixels"]["num_groups_across_labels"],
            ", ".join(across[0]),
        )
