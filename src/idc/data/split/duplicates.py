"""Find pairs of patches whose pixels are almost the same, without comparing every pair.

The distance between two patches is the root mean square (RMS) difference of their pixels, in grey
levels. Means over blocks can only be closer than the pixels they summarise (Jensen), and a
projection can only be closer than what it projects. So a search among a few numbers per patch
returns every true pair and some false ones, which the pixels then settle: none is missed.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from idc.data.patches import PATCH_SIZE_PX

_BLOCKS = 5  # a side, of 10 px each
_NUM_AXES = 10  # principal axes searched by tree: more would not prune better
_ROWS_PER_CHUNK = 2048


def find_duplicates(
    pixels: np.ndarray, groups: Sequence[np.ndarray], *, max_difference: float
) -> pd.DataFrame:
    """Return every pair of patches of two groups that differ by little.

    Args:
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        groups: Rows of the patches of each group, int64; a row is in one group only.
        max_difference: Largest RMS difference of the pixels, in grey levels (0-255).

    Returns:
        Columns `row`, `other` (int64) and `difference` (float64, grey levels), sorted by the last.
    """
    means = [block_means(pixels, rows) for rows in groups]
    found = [np.zeros((0, 3))]
    for (rows, ours), (others, theirs) in combinations(zip(groups, means, strict=True), 2):
        if len(rows) == 0 or len(others) == 0:
            continue
        for i, j in _near_pairs(ours, theirs, max_difference):
            difference = _pixel_difference(pixels[rows[i]], pixels[others[j]])
            near = difference <= max_difference
            found.append(np.column_stack([rows[i], others[j], difference])[near])
    table = pd.DataFrame(np.concatenate(found), columns=["row", "other", "difference"])
    table = table.astype({"row": "int64", "other": "int64"})
    return table.sort_values(["difference", "row", "other"], ignore_index=True)


def block_means(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean colours of 5x5 blocks of each patch, float32 (rows, 75).

    Scaled so that the Euclidean distance of two patches is the RMS difference of their means, in
    grey levels.
    """
    means = np.empty((len(rows), _BLOCKS * _BLOCKS * 3), np.float32)
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        chunk = pixels[rows[start : start + _ROWS_PER_CHUNK]].astype(np.float32)
        # one tall picture, shrunk by a whole factor: the area method then takes plain means
        tall = chunk.reshape(-1, PATCH_SIZE_PX, 3)
        shrunk = cv2.resize(tall, (_BLOCKS, len(chunk) * _BLOCKS), interpolation=cv2.INTER_AREA)
        means[start : start + len(chunk)] = shrunk.reshape(len(chunk), -1)
    return np.asarray(means / np.sqrt(means.shape[1], dtype=np.float32))


def _near_pairs(
    ours: np.ndarray, theirs: np.ndarray, radius: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield candidate pairs as two arrays of positions, some chunks at a time."""
    centre = theirs.mean(axis=0)
    _, axes = np.linalg.eigh((theirs - centre).T @ (theirs - centre))
    axes = axes[:, -_NUM_AXES:]  # eigh sorts ascending: the last ones spread the most
    tree = cKDTree((theirs - centre) @ axes)
    safe = radius * (1 + 1e-5)  # float32 rounding must not lose a pair
    for start in range(0, len(ours), _ROWS_PER_CHUNK):
        projected = (ours[start : start + _ROWS_PER_CHUNK] - centre) @ axes
        hits = tree.query_ball_point(projected, safe, workers=-1)
        i = start + np.repeat(np.arange(len(hits)), [len(hit) for hit in hits])
        j = np.array([k for hit in hits for k in hit], dtype=np.int64)
        for part in range(0, len(i), 16 * _ROWS_PER_CHUNK):
            a, b = i[part : part + 16 * _ROWS_PER_CHUNK], j[part : part + 16 * _ROWS_PER_CHUNK]
            near = np.linalg.norm(ours[a] - theirs[b], axis=1) <= safe
            yield from _in_chunks(a[near], b[near])


def _in_chunks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(a), _ROWS_PER_CHUNK):
        yield a[start : start + _ROWS_PER_CHUNK], b[start : start + _ROWS_PER_CHUNK]


def _pixel_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    gap = one.astype(np.float32) - other.astype(np.float32)
    return np.asarray(np.sqrt(np.square(gap).mean(axis=(1, 2, 3), dtype=np.float64)))
