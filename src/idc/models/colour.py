"""The colour floor: what mean and SD of red, green and blue alone can tell.

A network that does not beat it has learnt stain, not tissue; it stands beside every result.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

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


def fit_colour_floor(statistics: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Fit the logistic regression on (patches, 6) statistics of training patches."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    return model.fit(statistics, labels)
