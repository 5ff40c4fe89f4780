"""What maps are like: where their mass lies, and how steady they are.

A map's mass is its positive part: the evidence for IDC+. These figures describe. A network may be
right about something else than nuclei, and a map may be steady and wrong: only the faithfulness,
the mosaics and the sanity check judge.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from idc.data.batches.augment import stain_presets
from idc.data.quality import find_white, optical_density
from idc.explain.scores.faithfulness import block_means
from idc.explain.scores.similarity import rank_correlation

NOISE_LEVELS = 2.0
"""SD of the noise, in grey levels, under which maps are compared: less than a scanner's own."""


@dataclass(frozen=True)
class Ground:
    """What some patches show, pixel by pixel: the same for every map."""

    haematoxylin: np.ndarray
    """Which pixels are rich in haematoxylin, bool (patches, height, width)."""
    white: np.ndarray
    """Which pixels are background, bool (patches, height, width)."""


def find_ground(pixels: np.ndarray) -> Ground:
    """Tell nuclei, other tissue and background apart.

    Haematoxylin is the first stain after colour deconvolution by the matrix of Ruifrok & Johnston
    2001; rich is what lies above Otsu's threshold (1979) over the tissue of all these patches.

    Args:
        pixels: uint8 (patches, height, width, 3) RGB.
    """
    white = find_white(pixels)
    amount = haematoxylin(pixels)
    tissue = amount[~white]
    if len(tissue) == 0:
        return Ground(np.zeros_like(white), white)
    # Otsu's method works on 256 levels
    low, high = np.quantile(tissue, (0.001, 0.999))
    levels = np.clip((amount - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels[~white], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return Ground((levels > threshold) & ~white, white)


def haematoxylin(pixels: np.ndarray) -> np.ndarray:
    """Return the amount of haematoxylin, float32 (patches, height, width); noise may be negative.

    Args:
        pixels: uint8 (patches, height, width, 3) RGB.
    """
    stains = stain_presets()[0]
    stains = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    return np.asarray(optical_density(pixels) @ np.linalg.pinv(stains)[:, 0], np.float32)


def enrichment(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the share of a map's mass that lies inside over the share of the area, (patches,).

    1 is what a flat map has. NaN where the map has no mass, or nothing is inside.

    Args:
        maps: float (patches, height, width).
        inside: bool, the same shape.
    """
    return _ratio(mass_share(maps, inside), inside.mean(axis=(1, 2)))


def best_enrichment(inside: np.ndarray, grid: int) -> np.ndarray:
    """Return the largest enrichment that a map of grid x grid equal cells can have, (patches,).

    That of the map whose whole mass lies in the one cell with the largest share inside.

    Args:
        inside: bool (patches, height, width).
        grid: Cells along an edge.
    """
    shares = np.stack(
        [
            cv2.resize(each.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
            for each in inside
        ]
    )
    return _ratio(shares.max(axis=(1, 2)), inside.mean(axis=(1, 2)))


def mass_share(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the share of each map's mass that lies inside, float64 (patches,); NaN without mass.

    Args:
        maps: float (patches, height, width).
        inside: bool, the same shape.
    """
    mass = np.maximum(maps, 0).astype(np.float64)
    return _ratio((mass * inside).sum(axis=(1, 2)), mass.sum(axis=(1, 2)))


def is_empty(maps: np.ndarray) -> np.ndarray:
    """Say which maps are zero everywhere, bool (patches,)."""
    return np.asarray(~np.any(maps, axis=(1, 2)))


def agreement(maps: list[np.ndarray]) -> np.ndarray:
    """Return the mean rank correlation of block means over all pairs of backbones, (patches,).

    Args:
        maps: One float (patches, height, width) per backbone, at least two.
    """
    blocks = [block_means(each) for each in maps]
    pairs = [
        rank_correlation(first, second)
        for number, first in enumerate(blocks)
        for second in blocks[number + 1 :]
    ]
    return np.asarray(np.mean(pairs, axis=0))


def add_noise(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return the patches with Gaussian noise of `NOISE_LEVELS`, uint8 of the same shape."""
    noise = np.random.default_rng(seed).normal(0.0, NOISE_LEVELS, pixels.shape)
    return np.asarray(np.clip(np.rint(pixels + noise), 0, 255), np.uint8)


def relative_change(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return |other - map| / |map| in the Euclidean norm, float64 (patches,); NaN of empty maps.

    The sensitivity of Yeh et al. 2019 (arXiv:1901.09392) for one draw of noise.

    Args:
        maps: float (patches, height, width).
        others: The maps after the change, the same shape.
    """
    size, change = (
        np.linalg.norm(each.reshape(len(maps), -1).astype(np.float64), axis=1)
        for each in (maps, others - maps)
    )
    return _ratio(change, size)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, float64 (patches,); NaN where the whole is 0."""
    undefined = np.full(len(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=whole > 0), np.float64)
