"""A dictionary of 320 colour textures that nobody labelled, and a logistic regression on it.

The recipe of Coates & Ng (2011, ICML, "The importance of encoding versus training with sparse
coding and vector quantization"): windows of 6x6 px, contrast-normalised and whitened; atoms by
spherical k-means; a soft threshold at every second place, both signs apart. Two things differ, as
they ranked unseen training cases better: the mean is over the whole patch, not per quadrant (tissue
has no upper left), and its square root is taken, which keeps rare strong answers from ruling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from idc.models.networks.atoms import CONTRAST_FLOOR, NUM_ATOMS, WINDOW_PX, mean_activity
from idc.models.texture.clustering import cluster_on_sphere, whiten

_WINDOWS = 60_000
_WHITENING_FLOOR = 0.1  # added to the eigenvalues: what hardly varies is noise
_PENALTIES = (0.003, 0.01, 0.03, 0.1)
_BLOCKS = 3
_ROWS_PER_CHUNK = 8  # what one chunk makes stays in the processor's cache

Look = Callable[[np.ndarray], np.ndarray]
"""Patches uint8 (n, 50, 50, 3) -> how they look to whoever learns, in grey levels, same shape."""


def score_dictionary(
    pixels: np.ndarray,
    train_rows: np.ndarray,
    train_labels: np.ndarray,
    score_rows: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Train and score, as `idc.models.baselines.fit.score_baseline` says."""
    dictionary = learn_dictionary(pixels, train_rows, seed)
    scaler = StandardScaler(copy=False)
    features = scaler.fit_transform(dictionary.encode(pixels, train_rows))
    model = fit_regression(features, train_labels)
    scored = scaler.transform(dictionary.encode(pixels, score_rows))
    scores: np.ndarray = model.predict_proba(scored)[:, 1].astype(np.float64)
    return scores


@dataclass(frozen=True)
class Dictionary:
    """Atoms as filters on raw pixels, normalisation and whitening folded in."""

    filters: Tensor
    """float32 (atoms, 3, 6, 6); each sums to 0."""
    offsets: Tensor
    """float32 (atoms,): response of the mean window, taken from every response."""

    def encode(self, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return float32 (rows, 2 x atoms): root of the mean activity of atoms, then negatives.

        Args:
            pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
            rows: Which patches.
        """
        features = np.empty((len(rows), 2 * len(self.filters)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), _ROWS_PER_CHUNK):
                chunk = slice(start, start + _ROWS_PER_CHUNK)
                images = _to_images(pixels[rows[chunk]])
                activity = mean_activity(images, self.filters, self.offsets)
                features[chunk] = activity.sqrt_().numpy()
        return features


def learn_dictionary(
    pixels: np.ndarray,
    rows: np.ndarray,
    seed: int,
    *,
    num_atoms: int = NUM_ATOMS,
    look: Look | None = None,
) -> Dictionary:
    """Learn atoms from random windows of patches.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        rows: Patches that windows are taken from.
        seed: Seed of the windows and of the first atoms.
        num_atoms: How many atoms.
        look: How patches look to whoever will encode them; None: as they are.
    """
    rng = np.random.default_rng(seed)
    windows = _normalise(_draw_windows(pixels, rows, rng, look))
    mean = windows.mean(axis=0)
    whitening = whiten(windows, _WHITENING_FLOOR)
    atoms = cluster_on_sphere((windows - mean) @ whitening, num_atoms, rng)
    filters = atoms @ whitening
    offsets = filters @ mean
    filters -= filters.mean(axis=1, keepdims=True)  # in place of taking each window's mean
    shape = (num_atoms, WINDOW_PX, WINDOW_PX, 3)
    return Dictionary(
        filters=torch.from_numpy(filters.reshape(shape)).permute(0, 3, 1, 2).contiguous(),
        offsets=torch.from_numpy(offsets),
    )


def fit_regression(features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Fit a logistic regression in which both classes weigh the same.

    Args:
        features: Standardised, float32 (rows, features), rows in order of case.
        labels: 0 or 1, (rows,).
    """
    return _regression(_choose_penalty(features, labels)).fit(features, labels)


def _draw_windows(
    pixels: np.ndarray, rows: np.ndarray, rng: np.random.Generator, look: Look | None
) -> np.ndarray:
    """Return float32 (windows, 108), as many of each patch as it takes."""
    each = -(-_WINDOWS // len(rows))
    height, width = pixels.shape[1:3]
    windows = np.empty((len(rows), each, WINDOW_PX, WINDOW_PX, 3), np.float32)
    for place, row in enumerate(rows):
        tops = rng.integers(0, height - WINDOW_PX + 1, each)
        lefts = rng.integers(0, width - WINDOW_PX + 1, each)
        patch = pixels[row] if look is None else look(pixels[[row]])[0]
        for window, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            windows[place, window] = patch[top : top + WINDOW_PX, left : left + WINDOW_PX]
    return windows.reshape(len(rows) * each, -1)


def _normalise(windows: np.ndarray) -> np.ndarray:
    variance = windows.var(axis=1, keepdims=True)
    centred = windows - windows.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + CONTRAST_FLOOR), np.float32)


def _to_images(patches: np.ndarray) -> Tensor:
    return torch.from_numpy(patches).permute(0, 3, 1, 2).float()


def _choose_penalty(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the penalty with the highest mean AUROC over blocks of rows held out in turn.

    Rows are in order of case, so a block shares at most two cases with the others.
    """
    block = np.arange(len(labels)) * _BLOCKS // len(labels)
    gain = dict.fromkeys(_PENALTIES, 0.0)
    for number in range(_BLOCKS):
        held_out = block == number
        if len(np.unique(labels[held_out])) < 2 or len(np.unique(labels[~held_out])) < 2:
            continue
        for penalty in _PENALTIES:
            model = _regression(penalty).fit(features[~held_out], labels[~held_out])
            scores = model.decision_function(features[held_out])
            gain[penalty] += float(roc_auc_score(labels[held_out], scores))
    return max(gain, key=lambda penalty: gain[penalty])


def _regression(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=300, tol=1e-3)
