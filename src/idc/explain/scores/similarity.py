"""How alike two maps are."""

import numpy as np
from scipy.stats import rankdata


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each pair of rows, float64 (rows,) in -1 to 1.

    A constant row has no ranks: two constant rows are alike (1), one alone is unlike any other (0).

    Args:
        first: float (rows, values).
        second: The same shape.
    """
    ranks = [rankdata(each, axis=1) for each in (first, second)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    sizes = [np.linalg.norm(each, axis=1) for each in centred]
    both = sizes[0] * sizes[1]
    correlation = np.divide(
        (centred[0] * centred[1]).sum(axis=1), both, out=np.zeros(len(both)), where=both > 0
    )
    return np.where((sizes[0] == 0) & (sizes[1] == 0), 1.0, correlation)
