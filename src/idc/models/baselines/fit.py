"""The models that a fusion CNN must beat, behind one function.

They see pixels and labels only, as the network does, never a case or a place.
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from idc.core.errors import InputError
from idc.models.baselines.plain_cnn import score_plain_cnn
from idc.models.baselines.trees import score_trees
from idc.models.texture.dictionary import score_dictionary

_Score = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]

BASELINES: MappingProxyType[str, _Score] = MappingProxyType(
    {"trees": score_trees, "dictionary": score_dictionary, "plain_cnn": score_plain_cnn}
)


def score_baseline(
    name: str,
    pixels: np.ndarray,
    train_rows: np.ndarray,
    train_labels: np.ndarray,
    score_rows: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Train one baseline and score patches with it.

    The order of the training rows makes no difference, nor which rows are scored together.

    Args:
        name: One of `BASELINES`.
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped; in order of case, as ingest
            writes them: `dictionary` tells cases apart by that when it chooses its penalty.
        train_rows: Which patches train, integer (train patches,), each once.
        train_labels: Their labels, 0 or 1, (train patches,).
        score_rows: Which patches to score, integer (score patches,).
        seed: Seed of everything random.

    Returns:
        Probability of IDC+ among patches as frequent as IDC-, float64 in [0, 1], (score patches,).

    Raises:
        InputError: If there is no such baseline, a row is not in the store, rows and labels
            differ in number, or the training patches lack a class.
    """
    if name not in BASELINES:
        raise InputError(f"no baseline {name!r}: choose of {', '.join(BASELINES)}")
    _require_trainable(pixels, train_rows, train_labels, score_rows)
    order = np.argsort(train_rows, kind="stable")
    labels = np.asarray(train_labels)[order].astype(np.int64)
    return BASELINES[name](pixels, np.asarray(train_rows)[order], labels, score_rows, seed)


def _require_trainable(
    pixels: np.ndarray, train_rows: np.ndarray, train_labels: np.ndarray, score_rows: np.ndarray
) -> None:
    if len(train_rows) != len(train_labels):
        raise InputError(
            f"{len(train_rows)} training rows but {len(train_labels)} labels: one is needed per row"
        )
    if set(np.unique(train_labels)) != {0, 1}:
        raise InputError("the training patches need labels 0 and 1, and both of them")
    for what, rows in (("training", train_rows), ("score", score_rows)):
        if len(rows) == 0:
            raise InputError(f"no {what} rows: choose at least one patch")
        if np.min(rows) < 0 or np.max(rows) >= len(pixels):
            raise InputError(
                f"{what} rows run from {np.min(rows)} to {np.max(rows)} but the store holds "
                f"{len(pixels)} patches: it and the splits belong to different archives"
            )
