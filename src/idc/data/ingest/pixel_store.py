"""Decode every listed patch into the pixel store, in several processes with bounded memory.

Each process reads, decodes, judges and writes a chunk of patches by itself and returns only what
was measured, so no pixel passes between processes and the memory in use does not grow with the
archive.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from idc.core.errors import InputError
from idc.core.processes import map_in_processes
from idc.core.progress import track
from idc.data.ingest.archive import Listing
from idc.data.ingest.chunks import (
    PATCH_BYTES,
    PATCHES_PER_CHUNK,
    Chunk,
    create_decoder,
    header_bytes,
)
from idc.data.ingest.decoding import UnreadableError, decode_patch
from idc.data.ingest.members import PLACE_COLUMNS, MemberPlace, MemberReader, Places, unpack_places
from idc.data.patches import FLAGS, PATCH_SHAPE, PATCH_SIZE_PX


@dataclass(frozen=True)
class StoredPatches:
    """What `store_patches` wrote and found."""

    index: pd.DataFrame
    """As `idc.data.patches.load_index` returns it."""
    unreadable: list[dict[str, str]]
    """`patch` and `reason` of each file that was left out."""
    formats: dict[str, int]
    """Readable patches by the format they were kept in."""


def size_of_store(num_patches: int) -> int:
    """Return the bytes that the pixels of so many patches take on disk."""
    return num_patches * PATCH_BYTES


def store_patches(listing: Listing, pixels_path: Path, *, num_processes: int) -> StoredPatches:
    """Write the readable patches to `pixels_path` as uint8 (patches, 50, 50, 3) RGB.

    Args:
        listing: From `idc.data.ingest.archive.list_members`.
        pixels_path: The `.npy` file to make.
        num_processes: How many decode; 1 decodes in this process.

    Raises:
        InputError: If not one patch can be read, files of one name hold different pixels, a source
            changes meanwhile, or a decoding process is killed.
    """
    sources = [source.path for source in listing.sources]
    _require_equal_pixels(listing, sources)
    _lay_out(pixels_path, len(listing.members))
    chunks = list(_decode_chunks(listing, sources, pixels_path, num_processes))
    for source in listing.sources:
        source.reject_change()
    reasons = {row: reason for chunk in chunks for row, reason in chunk.reasons.items()}
    unreadable = [
        {"patch": listing.name_of(listing.members.iloc[row]), "reason": reason}
        for row, reason in reasons.items()
    ]
    if len(unreadable) == len(listing.members):
        raise InputError(
            f"none of {len(unreadable)} patches decodes, first {unreadable[0]['patch']}: "
            f"{unreadable[0]['reason']}"
        )
    readable = np.ones(len(listing.members), bool)
    readable[list(reasons)] = False
    _close_gaps(pixels_path, readable)
    formats: Counter[str] = sum((chunk.formats for chunk in chunks), Counter())
    return StoredPatches(
        index=_assemble_index(listing.members, chunks)[readable].reset_index(drop=True),
        unreadable=unreadable,
        formats=dict(sorted(formats.items())),
    )


def reject_unreadable(listing: Listing, num_first: int) -> None:
    """Check that of each source one of the first `num_first` patches can be read.

    Raises:
        InputError: Naming the first patch of a source of which none can, and why.
    """
    with MemberReader([source.path for source in listing.sources]) as reader:
        for _, members in listing.members.groupby("source"):
            first = members.head(num_first)
            tried = (_why_unreadable(reader, p) for p in unpack_places(_places_of(first)))
            reasons = list(takewhile(bool, tried))  # up to one that can be read
            if len(reasons) == len(first):
                raise InputError(
                    f"none of the first {len(first)} patches can be read: {reasons[0]}",
                    listing.name_of(first.iloc[0]),
                    "fix or remove it",
                )


def _why_unreadable(reader: MemberReader, place: MemberPlace) -> str:
    """Return why a patch cannot be read, nothing if it can."""
    try:
        decode_patch(reader.read(place))
    except UnreadableError as error:
        return str(error)
    return ""


def _require_equal_pixels(listing: Listing, sources: Sequence[Path]) -> None:
    """Let files of one name pass as copies where their pixels are equal, else stop."""
    keys = ["case", "x", "y", "label"]
    kept = listing.rivals[keys].merge(listing.members, on=keys, how="left")
    different = []
    with MemberReader(sources) as reader:
        tables = (unpack_places(_places_of(table)) for table in (listing.rivals, kept))
        for row, (rival, member) in enumerate(zip(*tables, strict=True)):
            if not _same_pixels(reader, rival, member):
                different.append(row)
    if different:
        first = different[0]
        raise InputError(
            f"{listing.name_of(kept.iloc[first])} and "
            f"{listing.name_of(listing.rivals.iloc[first])} have one name and different pixels "
            f"({len(different)} such pairs): keep the right one"
        )


def _places_of(members: pd.DataFrame) -> Places:
    return [members[name].tolist() for name in PLACE_COLUMNS]


def _same_pixels(reader: MemberReader, one: MemberPlace, other: MemberPlace) -> bool:
    try:
        pixels, _ = decode_patch(reader.read(one))
    except UnreadableError:
        return True  # a damaged second copy takes nothing away
    try:
        return np.array_equal(pixels, decode_patch(reader.read(other))[0])
    except UnreadableError:
        return False


def _lay_out(path: Path, num_patches: int) -> None:
    """Make a `.npy` file of the right size, without writing a pixel."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_patches, *PATCH_SHAPE))


def _decode_chunks(
    listing: Listing, sources: list[Path], pixels_path: Path, num_processes: int
) -> Iterator[Chunk]:
    starts = range(0, len(listing.members), PATCHES_PER_CHUNK)
    jobs = (
        (start, _places_of(listing.members.iloc[start : start + PATCHES_PER_CHUNK]))
        for start in starts
    )
    done = map_in_processes(
        partial(create_decoder, sources, pixels_path), jobs, num_processes=num_processes
    )
    return track(done, total=len(starts), what=f"chunks of {PATCHES_PER_CHUNK} patches")


def _close_gaps(path: Path, readable: np.ndarray) -> None:
    """Move the readable patches together and make the header say how many they are."""
    if readable.all():
        return
    first_byte = header_bytes(path)
    store = np.memmap(path, np.uint8, "r+", first_byte, (len(readable), *PATCH_SHAPE))
    rows = np.flatnonzero(readable)
    for start in range(0, len(rows), PATCHES_PER_CHUNK):
        chunk = rows[start : start + PATCHES_PER_CHUNK]
        store[start : start + len(chunk)] = store[chunk]  # never writes ahead of what it reads
    store.flush()
    del store
    os.truncate(path, first_byte + len(rows) * PATCH_BYTES)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *PATCH_SHAPE)}
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == first_byte, "numpy pads headers so that they can be rewritten"


def _assemble_index(members: pd.DataFrame, chunks: Sequence[Chunk]) -> pd.DataFrame:
    sizes_px = np.concatenate([chunk.sizes_px for chunk in chunks])
    index = members[["case", "x", "y", "label"]].copy()
    index["height_px"], index["width_px"] = sizes_px[:, 0], sizes_px[:, 1]
    index["sha256"] = [digest for chunk in chunks for digest in chunk.sha256]
    index["sliver"] = (sizes_px != PATCH_SIZE_PX).any(axis=1)
    for name in FLAGS[1:]:
        index[name] = np.concatenate([chunk.flags[name] for chunk in chunks])
    # a padded sliver repeats itself: how sharp that is says nothing about the microscope
    index["out_of_focus"] &= ~index["sliver"]
    return index
