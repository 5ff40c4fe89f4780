"""Pixels and subsets -> what simple models, trained on the same patches, score held-out ones."""

import logging

import numpy as np
import pandas as pd

from idc.core import layout
from idc.core.config import Params
from idc.data.colour import colour_statistics
from idc.data.patches import load_pixels
from idc.data.subsets import HELD_OUT, select_subset
from idc.data.tables import BASELINE_SCORES_SCHEMA, SPLITS_SCHEMA, load_table, save_table
from idc.models.baselines.colour import fit_colour_baseline
from idc.models.baselines.fit import score_baseline

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Train each baseline on the training set; score every pool patch of val, gate and test.

    The colour baseline is always among them.

    Raises:
        InputError: If pixels or the split table are missing, or the training set lacks a class.
    """
    pixels = load_pixels(layout.PIXELS)
    splits = load_table(layout.SPLITS, SPLITS_SCHEMA)
    train_rows, train_labels = select_subset(splits, "train")
    rows = splits.loc[splits["split"].isin(HELD_OUT), "row"].to_numpy()
    scores = {"row": rows, "y_score_colour": _score_colour(pixels, train_rows, train_labels, rows)}
    for name in params.baselines.names:
        log.info("%s is trained and scores", name)
        scores[f"y_score_{name}"] = score_baseline(
            name, pixels, train_rows, train_labels, rows, params.seeds.training
        )
    save_table(layout.BASELINE_SCORES, pd.DataFrame(scores), BASELINE_SCORES_SCHEMA)
    log.info("%d patches scored by %d baselines", len(rows), len(scores) - 1)


def _score_colour(
    pixels: np.ndarray, train_rows: np.ndarray, train_labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    model = fit_colour_baseline(colour_statistics(pixels, train_rows), train_labels)
    scores: np.ndarray = model.predict_proba(colour_statistics(pixels, rows))[:, 1]
    return scores
