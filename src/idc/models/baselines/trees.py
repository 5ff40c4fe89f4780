"""Gradient-boosted trees on 38 statistics of colour, stain and edges."""

import cv2
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

FEATURES = (
    *(f"{channel}_{name}" for channel in ("red", "green", "blue")
      for name in ("mean", "sd", "q10", "q50", "q90")),
    "hue_cos", "hue_sin", "saturation_mean", "saturation_sd", "value_mean", "value_sd",
    *(f"{stain}_{name}" for stain in ("haematoxylin", "eosin")
      for name in ("mean", "sd", "q10", "q50", "q90")),
    "stain_correlation",
    "grey_gradient_mean", "grey_gradient_sd", "grey_gradient_q90",
    "haematoxylin_gradient_mean", "haematoxylin_gradient_sd",
    "coherence",
)  # fmt: skip
"""What `tree_features` computes, in order. Means and SDs of RGB in 0-255, saturation and value in
0-1, stains in optical density; coherence is 0 where edges run every way, 1 where all run one."""

_QUANTILES = (0.1, 0.5, 0.9)

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in red, green and blue of haematoxylin, eosin and a remainder (Ruifrok &
Johnston 2001, Anal. Quant. Cytol. Histol. 23:291)."""

_ROWS_PER_CHUNK = 512


def score_trees(
    pixels: np.ndarray,
    train_rows: np.ndarray,
    train_labels: np.ndarray,
    score_rows: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Train and score, as `idc.models.baselines.fit.score_baseline` says."""
    model = HistGradientBoostingClassifier(
        max_iter=300,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=40,
        l2_regularization=1.0,
        class_weight="balanced",
        early_stopping=False,  # its own split is by patch: neighbours would flatter it
        random_state=seed,
    )
    model.fit(tree_features(pixels, train_rows), train_labels)
    scores: np.ndarray = model.predict_proba(tree_features(pixels, score_rows))[:, 1]
    return scores


def tree_features(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return float32 (rows, 38): the statistics that `FEATURES` names.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        rows: Which patches.
    """
    starts = range(0, len(rows), _ROWS_PER_CHUNK)
    return np.concatenate(
        [_describe(pixels[rows[start : start + _ROWS_PER_CHUNK]]) for start in starts]
    ).astype(np.float32)


def _describe(patches: np.ndarray) -> np.ndarray:
    stains = _unmix(patches)
    return np.column_stack(
        [
            *(_spread(patches[..., channel].astype(np.float32)) for channel in range(3)),
            _hue_saturation_value(patches),
            *(_spread(stain) for stain in stains),
            _correlate(*stains),
            _edges(patches.astype(np.float32).mean(axis=-1), stains[0]),
        ]
    )


def _spread(planes: np.ndarray) -> np.ndarray:
    """Return mean, SD and quantiles of each plane, (patches, 5)."""
    flat = np.sort(planes.reshape(len(planes), -1), axis=1)
    places = [round(quantile * (flat.shape[1] - 1)) for quantile in _QUANTILES]
    return np.column_stack([flat.mean(axis=1), flat.std(axis=1), flat[:, places]])


def _hue_saturation_value(patches: np.ndarray) -> np.ndarray:
    """Return what `FEATURES` names of them, (patches, 6); hue is an angle, averaged as one."""
    num_patches, height, width, _ = patches.shape
    tall = patches.reshape(num_patches * height, width, 3).astype(np.float32) / 255
    hsv = cv2.cvtColor(tall, cv2.COLOR_RGB2HSV).reshape(num_patches, -1, 3)
    hue = np.deg2rad(hsv[..., 0])
    mean, sd = hsv[..., 1:].mean(axis=1), hsv[..., 1:].std(axis=1)
    return np.column_stack(
        [np.cos(hue).mean(axis=1), np.sin(hue).mean(axis=1), mean[:, 0], sd[:, 0],
         mean[:, 1], sd[:, 1]]
    )  # fmt: skip


def _unmix(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the density of haematoxylin and of eosin, float32 (patches, 50, 50) each."""
    unit = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    density = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)[patches]
    mixed = density @ np.linalg.inv(unit)[:, :2].astype(np.float32)
    return mixed[..., 0], mixed[..., 1]


def _correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's r of two planes per patch, (patches,); 0 where one is even."""
    axes = (1, 2)
    first = first - first.mean(axis=axes, keepdims=True)
    second = second - second.mean(axis=axes, keepdims=True)
    size = np.sqrt((first**2).sum(axis=axes) * (second**2).sum(axis=axes))
    return np.asarray((first * second).sum(axis=axes) / np.maximum(size, 1e-6))


def _edges(grey: np.ndarray, haematoxylin: np.ndarray) -> np.ndarray:
    """Return what `FEATURES` names of the gradients, (patches, 6)."""
    down, across = _gradient(grey)
    strength = np.hypot(down, across)
    ranked = _spread(strength)
    stain = np.hypot(*_gradient(haematoxylin))
    return np.column_stack(
        [ranked[:, [0, 1, 4]], stain.mean(axis=(1, 2)), stain.std(axis=(1, 2)),
         _coherence(down, across)]
    )  # fmt: skip


def _gradient(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return central differences down and across, (patches, 48, 48) each."""
    down = (planes[:, 2:, 1:-1] - planes[:, :-2, 1:-1]) / 2
    across = (planes[:, 1:-1, 2:] - planes[:, 1:-1, :-2]) / 2
    return down, across


def _coherence(down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return how far the edges of a patch run one way, from its structure tensor, (patches,)."""
    axes = (1, 2)
    energy = (down**2 + across**2).sum(axis=axes)
    difference = (down**2 - across**2).sum(axis=axes)
    return np.asarray(
        np.hypot(difference, 2 * (down * across).sum(axis=axes)) / np.maximum(energy, 1e-6)
    )
