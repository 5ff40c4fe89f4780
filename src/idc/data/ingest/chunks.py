"""What one process does: read, decode, judge and write some patches in a row.

Only what was measured leaves it. It imports little, so that processes start fast.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from idc.data.ingest.decoding import UnreadableError, decode_patch, pad_to_patch
from idc.data.ingest.members import MemberReader, Places, unpack_places
from idc.data.patches import PATCH_SHAPE, PATCH_SIZE_PX
from idc.data.quality import flag_quality

PATCHES_PER_CHUNK = 512
_PATCHES_PER_BLOCK = 64

PATCH_BYTES = PATCH_SIZE_PX * PATCH_SIZE_PX * 3


@dataclass(frozen=True)
class Chunk:
    """What was measured on some patches in a row."""

    sizes_px: np.ndarray
    """Height and width, int16 (patches, 2); 0 where unreadable."""
    sha256: list[str]
    flags: dict[str, np.ndarray]
    reasons: dict[int, str]
    """Why a patch is unreadable, by its row in the store."""
    formats: Counter[str]


class ChunkDecoder:
    """Decodes chunks and writes their pixels to where they belong in the store."""

    def __init__(self, sources: Sequence[Path], pixels_path: Path) -> None:
        cv2.setNumThreads(1)
        self.reader = MemberReader(sources)
        self._pixels_path = pixels_path
        self._first_byte = header_bytes(pixels_path)
        # used again for every chunk: new memory costs more than what is written into it
        self._pixels = np.empty((PATCHES_PER_CHUNK, *PATCH_SHAPE), np.uint8)

    def decode(self, start: int, places: Places) -> Chunk:
        """Decode the patches of the rows from `start` on."""
        num_patches = len(places[0])
        pixels = self._pixels[:num_patches]
        sizes_px = np.zeros((num_patches, 2), np.int16)
        sha256 = [""] * num_patches
        reasons: dict[int, str] = {}
        formats: Counter[str] = Counter()
        for i, place in enumerate(unpack_places(places)):
            try:
                patch, kind = decode_patch(self.reader.read(place))
            except UnreadableError as error:
                pixels[i] = 0
                reasons[start + i] = str(error)
                continue
            pixels[i] = patch if patch.shape == PATCH_SHAPE else pad_to_patch(patch)
            sizes_px[i] = patch.shape[:2]
            sha256[i] = hashlib.sha256(patch.tobytes()).hexdigest()
            formats[kind] += 1
        self._write(start, pixels)
        return Chunk(sizes_px, sha256, _flag_in_blocks(pixels), reasons, formats)

    def _write(self, start: int, pixels: np.ndarray) -> None:
        # not a memory map: on a full disk a mapped write kills the process, this one says so
        with self._pixels_path.open("r+b", buffering=0) as store:
            store.seek(self._first_byte + start * PATCH_BYTES)
            left = pixels.data.cast("B")
            while left:
                left = left[store.write(left) :]


def _flag_in_blocks(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Judge some patches at a time, few enough to stay in the processor's cache."""
    starts = range(0, len(pixels), _PATCHES_PER_BLOCK)
    blocks = [flag_quality(pixels[start : start + _PATCHES_PER_BLOCK]) for start in starts]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def header_bytes(path: Path) -> int:
    """Return how many bytes of a `.npy` file come before its values."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def create_decoder(
    sources: Sequence[Path], pixels_path: Path
) -> Callable[[tuple[int, Places]], Chunk]:
    """Return what decodes chunks in one process: from the first row and the places to a chunk."""
    decoder = ChunkDecoder(sources, pixels_path)  # what it has opened serves every chunk
    return lambda job: decoder.decode(*job)
