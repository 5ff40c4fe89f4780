"""Colour statistics of patches: mean and SD of each channel."""

import numpy as np

_ROWS_PER_CHUNK = 8192


def colour_statistics(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return float64 (rows, 6): mean, then SD, of each channel in 0-255.

    Args:
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Which patches.
    """
    chunks = []
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        chunk = pixels[rows[start : start + _ROWS_PER_CHUNK]].astype(np.float32)
        chunks.append(np.concatenate([chunk.mean(axis=(1, 2)), chunk.std(axis=(1, 2))], axis=1))
    return np.concatenate(chunks).astype(np.float64)
