"""Weights that make both classes count the same in the loss."""

from typing import Literal

import numpy as np
from sklearn.utils.class_weight import compute_class_weight


def weigh_classes(labels: np.ndarray, rule: Literal["balanced", "none"]) -> np.ndarray:
    """Return the weight of IDC- and of IDC+, float64 (2,).

    `balanced` is n / (2 n_class) from the actual counts of the training set (King & Zeng 2001, as
    in scikit-learn); on an exactly balanced subset both are 1.

    Args:
        labels: 0 or 1 per training patch; both must occur.
        rule: `none` weighs every patch the same.
    """
    if rule == "none":
        return np.ones(2)
    weights: np.ndarray = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    return weights
