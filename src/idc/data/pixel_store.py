"""Decode every listed patch into the pixel store, in several processes with bounded memory.

Each process reads, decodes, judges and writes a chunk of patches by itself and returns only what
was measured, so no pixel passes between processes and the memory in use does not grow with the
archive.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from idc.data.archive import Listing, MemberPlace, MemberReader, places_of
from idc.data.decoding import UnreadableError, decode_patch, pad_to_patch
from idc.data.patches import FLAGS, PATCH_SIZE_PX
from idc.data.quality import flag_quality
from idc.errors import InputError
from idc.processes import map_in_processes
from idc.progress import track

_PATCHES_PER_CHUNK = 512
_PATCH_SHAPE = (PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
_PATCH_BYTES = PATCH_SIZE_PX * PATCH_SIZE_PX * 3


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
    return num_patches * _PATCH_BYTES


def store_patches(listing: Listing, pixels_path: Path, *, num_processes: int) -> StoredPatches:
    """Write the readable patches to `pixels_path` as uint8 (patches, 50, 50, 3) RGB.

    Args:
        listing: From `idc.data.archive.list_members`.
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
        source.refuse_change()
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


@dataclass(frozen=True)
class _Chunk:
    """What was measured on some patches in a row."""

    sizes_px: np.ndarray
    """Height and width, int16 (patches, 2); 0 where unreadable."""
    sha256: list[str]
    flags: dict[str, np.ndarray]
    reasons: dict[int, str]
    """Why a patch is unreadable, by its row in the store."""
    formats: Counter[str]


def _require_equal_pixels(listing: Listing, sources: Sequence[Path]) -> None:
    """Let files of one name pass as copies where their pixels are equal, else stop."""
    keys = ["case", "x", "y", "label"]
    kept = listing.rivals[keys].merge(listing.members, on=keys, how="left")
    different = []
    with MemberReader(sources) as reader:
        pairs = zip(places_of(listing.rivals), places_of(kept), strict=True)
        for row, (rival, member) in enumerate(pairs):
            if not _same_pixels(reader, rival, member):
                different.append(row)
    if different:
        first = different[0]
        raise InputError(
            f"{listing.name_of(kept.iloc[first])} and "
            f"{listing.name_of(listing.rivals.iloc[first])} have one name and different pixels "
            f"({len(different)} such pairs): keep the right one"
        )


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
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_patches, *_PATCH_SHAPE))


def _decode_chunks(
    listing: Listing, sources: list[Path], pixels_path: Path, num_processes: int
) -> Iterator[_Chunk]:
    starts = range(0, len(listing.members), _PATCHES_PER_CHUNK)
    jobs = (
        (start, places_of(listing.members.iloc[start : start + _PATCHES_PER_CHUNK]))
        for start in starts
    )
    done = map_in_processes(
        _decode_chunk,
        jobs,
        num_processes=num_processes,
        initializer=_open_decoder,
        initargs=(sources, pixels_path),
    )
    return track(done, total=len(starts), what=f"chunks of {_PATCHES_PER_CHUNK} patches")


class _Decoder:
    """Decodes chunks and writes their pixels to where they belong in the store."""

    def __init__(self, sources: Sequence[Path], pixels_path: Path) -> None:
        cv2.setNumThreads(1)
        self.reader = MemberReader(sources)
        self._pixels_path = pixels_path
        self._first_byte = _header_bytes(pixels_path)

    def decode(self, start: int, places: Sequence[MemberPlace]) -> _Chunk:
        """Decode the patches of the rows from `start` on."""
        pixels = np.zeros((len(places), *_PATCH_SHAPE), np.uint8)
        sizes_px = np.zeros((len(places), 2), np.int16)
        sha256 = [""] * len(places)
        reasons: dict[int, str] = {}
        formats: Counter[str] = Counter()
        for i, place in enumerate(places):
            try:
                patch, kind = decode_patch(self.reader.read(place))
            except UnreadableError as error:
                reasons[start + i] = str(error)
                continue
            pixels[i] = patch if patch.shape == _PATCH_SHAPE else pad_to_patch(patch)
            sizes_px[i] = patch.shape[:2]
            sha256[i] = hashlib.sha256(patch.tobytes()).hexdigest()
            formats[kind] += 1
        self._write(start, pixels)
        return _Chunk(sizes_px, sha256, flag_quality(pixels), reasons, formats)

    def _write(self, start: int, pixels: np.ndarray) -> None:
        # not a memory map: on a full disk a mapped write kills the process, this one says so
        with self._pixels_path.open("r+b", buffering=0) as store:
            store.seek(self._first_byte + start * _PATCH_BYTES)
            left = pixels.data.cast("B")
            while left:
                left = left[store.write(left) :]


_decoder: _Decoder  # one per process: what it has opened serves every chunk


def _open_decoder(sources: list[Path], pixels_path: Path) -> None:
    global _decoder
    _decoder = _Decoder(sources, pixels_path)


def _decode_chunk(job: tuple[int, list[MemberPlace]]) -> _Chunk:
    return _decoder.decode(*job)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _close_gaps(path: Path, readable: np.ndarray) -> None:
    """Move the readable patches together and make the header say how many they are."""
    if readable.all():
        return
    first_byte = _header_bytes(path)
    store = np.memmap(path, np.uint8, "r+", first_byte, (len(readable), *_PATCH_SHAPE))
    rows = np.flatnonzero(readable)
    for start in range(0, len(rows), _PATCHES_PER_CHUNK):
        chunk = rows[start : start + _PATCHES_PER_CHUNK]
        store[start : start + len(chunk)] = store[chunk]  # never writes ahead of what it reads
    store.flush()
    del store
    os.truncate(path, first_byte + len(rows) * _PATCH_BYTES)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *_PATCH_SHAPE)}
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == first_byte, "numpy pads headers so that they can be rewritten"


def _assemble_index(members: pd.DataFrame, chunks: Sequence[_Chunk]) -> pd.DataFrame:
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
