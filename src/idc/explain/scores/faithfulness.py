"""Does a map point at what its network uses: deletion, insertion and ROAD.

Patches are perturbed in blocks of 5x5 px before they are enlarged for the network, in the order in
which the map ranks the blocks. What is followed is the score of the map's own source: the IDC+
logit for the fused map, a backbone's contribution to it for that backbone's.

*Deletion* takes the most important blocks away first and *insertion* brings them first into a
patch that is all fill (Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421). The fill is a local
blur: it takes the texture and leaves the colour. White or black would not do, because white itself
speaks for IDC-. With s(f) the score after the share f of the blocks, the curves are

    c(f) = (s(f) - s(blurred)) / mean over the panel of |s(original) - s(blurred)|

and the result is the area under c from f = 0 to 1 by the trapezoid rule. Petsiuk's curves follow a
probability, which hardly moves where the network is sure; a logit has no bounds, so it is divided
by how far it moves at all. The divisor is the panel's: divided by its own difference, a patch that
blur hardly changes would outweigh all others. Deletion is better when lower, insertion when
higher.

*ROAD* (Rong et al. 2022, arXiv:2202.00449) fills with values interpolated from what is left, plus
noise, so that the shape of the hole itself tells nothing. Its value is the "combined" one of
pytorch-grad-cam: half the score after taking the least important blocks minus half that after
taking the most important, in the same unit, averaged over 20, 40, 60 and 80 % of the blocks. Better
when higher.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy.linalg import solveh_banded

from idc.data.patches import PATCH_SIZE_PX

BLOCK_PX = 5
GRID = PATCH_SIZE_PX // BLOCK_PX
NUM_BLOCKS = GRID**2

HIGHER_IS_BETTER = {"deletion_auc": False, "insertion_auc": True, "road": True}
"""The scores of this module, and which way each is better."""

Score = Callable[[np.ndarray], np.ndarray]
"""uint8 (n, 50, 50, 3) patches -> float (n, 1 + members): fused logit, then each contribution."""

_BLUR_SIGMA_PX = 5.0  # a nucleus is about 5 px wide: this leaves no trace of one
# weights of a pixel's neighbours in ROAD's imputation
_NEIGHBOURS = np.array([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]) / 12
_ROAD_SHARES = (0.2, 0.4, 0.6, 0.8)
_ROAD_NOISE = 0.01 * 255  # of the full range, as Rong et al. add


class Perturbations:
    """Some patches, their blurred selves and the scores of both: what every map is held against."""

    def __init__(self, pixels: np.ndarray, score: Score, *, num_steps: int, seed: int) -> None:
        """Score both ends of the curves.

        A map then costs `num_passes(num_steps)` forward passes a patch.

        Args:
            pixels: uint8 (patches, 50, 50, 3).
            score: Scores patches, in batches of its own choice.
            num_steps: Steps of the deletion and of the insertion curve, at least 1.
            seed: Seed of the order of equally important blocks, and of ROAD's noise.
        """
        self._pixels = pixels
        self._blurred = blur(pixels)
        self._score = score
        self._shares = np.arange(1, num_steps) / num_steps
        self._seed = seed
        self._whole, self._empty = (score(each) for each in (pixels, self._blurred))
        self.units: np.ndarray = np.abs(self._whole - self._empty).mean(axis=0)
        """How far blur moves each source's score on average, float (sources,)."""

    def measure(self, maps: np.ndarray, source: int) -> dict[str, np.ndarray]:
        """Return `deletion_auc`, `insertion_auc` and `road` of each patch, float64 (patches,).

        All NaN if blur does not move this source's score at all.

        Args:
            maps: float (patches, 50, 50), finite; the highest values are the most important.
            source: Which column of the scores is followed.
        """
        order = rank_blocks(maps, self._seed)
        steps = [self._blur_first(order, share) for share in self._shares]
        steps += [self._blur_first(order[:, ::-1], 1 - share) for share in self._shares]
        for share in _ROAD_SHARES:
            steps += [self._impute_first(order, share), self._impute_first(order[:, ::-1], share)]
        scored = self._score(np.concatenate(steps))[:, source].astype(np.float64)
        scores = scored.reshape(len(steps), len(maps)).T
        empty, unit = self._empty[:, source, np.newaxis], self.units[source]
        whole = self._whole[:, source, np.newaxis]
        if unit == 0:
            return {name: np.full(len(maps), np.nan) for name in HIGHER_IS_BETTER}
        num = len(self._shares)
        deleted, inserted = scores[:, :num], scores[:, num : 2 * num]
        most, least = scores[:, 2 * num :: 2], scores[:, 2 * num + 1 :: 2]
        return {
            "deletion_auc": _area((np.hstack([whole, deleted, empty]) - empty) / unit),
            "insertion_auc": _area((np.hstack([empty, inserted, whole]) - empty) / unit),
            "road": ((least - most) / 2 / unit).mean(axis=1),
        }

    def _blur_first(self, order: np.ndarray, share: float) -> np.ndarray:
        taken = first_blocks(order, share)[..., np.newaxis]
        return np.where(taken, self._blurred, self._pixels)

    def _impute_first(self, order: np.ndarray, share: float) -> np.ndarray:
        return impute(self._pixels, first_blocks(order, share), self._seed)


def num_passes(num_steps: int) -> int:
    """Return how often each patch is scored for one map: both curves between their ends, and ROAD.

    Args:
        num_steps: Steps of the deletion and of the insertion curve.
    """
    return 2 * (num_steps - 1) + 2 * len(_ROAD_SHARES)


def rank_blocks(maps: np.ndarray, seed: int) -> np.ndarray:
    """Return the blocks of each map from the most to the least important, int64 (maps, 100).

    Importance is the mean over a block's pixels. Equal blocks come in a seeded order: by place, a
    map that says nothing would still favour a corner.

    Args:
        maps: float (maps, 50, 50).
        seed: Seed of that order.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    if not np.isfinite(maps).all():
        raise ValueError("a map holds NaN or infinite values: its blocks have no order")
    means = block_means(maps)
    chance = np.random.default_rng(seed).random(means.shape)
    order: np.ndarray = np.lexsort((chance, -means), axis=1)
    return order


def block_means(maps: np.ndarray) -> np.ndarray:
    """Return the mean of each 5x5-px block, float64 (maps, blocks), row by row.

    Args:
        maps: (maps, height, width), both multiples of 5.
    """
    num_maps, height, width = maps.shape
    blocks = maps.reshape(num_maps, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float64).reshape(num_maps, -1))


def first_blocks(order: np.ndarray, share: float) -> np.ndarray:
    """Return the pixels of the first blocks, bool (patches, 50, 50).

    Args:
        order: Blocks in order, int (patches, 100).
        share: Of the blocks, 0-1.
    """
    chosen = np.zeros(order.shape, bool)
    np.put_along_axis(chosen, order[:, : round(share * NUM_BLOCKS)], values=True, axis=1)
    grid = chosen.reshape(-1, GRID, GRID)
    return grid.repeat(BLOCK_PX, axis=1).repeat(BLOCK_PX, axis=2)


def blur(pixels: np.ndarray) -> np.ndarray:
    """Return the patches without their texture, uint8 of the same shape."""
    return np.stack([cv2.GaussianBlur(patch, (0, 0), _BLUR_SIGMA_PX) for patch in pixels])


def impute(pixels: np.ndarray, taken: np.ndarray, seed: int) -> np.ndarray:
    """Fill pixels with the mean of their neighbours, solved for all at once, and noise.

    Args:
        pixels: uint8 (patches, 50, 50, 3).
        taken: Which pixels are filled, bool (patches, 50, 50); not all of a patch.
        seed: Seed of the noise.

    Returns:
        uint8 (patches, 50, 50, 3); what was not taken is unchanged.
    """
    noise = np.random.default_rng(seed).normal(0.0, _ROAD_NOISE, pixels.shape)
    filled = pixels.copy()
    for number, hole in enumerate(taken):
        if hole.any():
            solved = _interpolate(pixels[number], hole) + noise[number][hole]
            filled[number][hole] = np.clip(np.rint(solved), 0, 255).astype(np.uint8)
    return filled


def _interpolate(patch: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return what the linear system of Rong et al. puts into the hole, float64 (pixels, 3).

    Each pixel of the hole is the weighted mean of its up to eight neighbours. What
    pytorch-grad-cam's `NoisyLinearImputer` solves as a sparse system of the hole's pixels is banded
    when all pixels of the patch take part, the known ones as equations of their own: the same
    values in a tenth of the time.
    """
    edge = PATCH_SIZE_PX
    inside = hole.astype(np.float64)
    known = patch * (1 - inside)[..., np.newaxis]
    around = inside[..., np.newaxis] * _sum_neighbours(known)
    band = np.zeros((edge + 2, edge**2))
    band[0] = np.where(hole, _sum_neighbours(np.ones((edge, edge))), 1.0).ravel()
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):  # the matrix is symmetric
        first = (slice(0, edge - down), slice(max(0, -right), edge - max(0, right)))
        second = (slice(down, edge), slice(max(0, right), edge + min(0, right)))
        both = np.zeros((edge, edge))
        both[first] = -_NEIGHBOURS[down + 1, right + 1] * inside[first] * inside[second]
        band[down * edge + right] = both.ravel()
    solved = solveh_banded(band, around.reshape(edge**2, -1), lower=True, check_finite=False)
    return np.asarray(solved[hole.ravel()])


def _sum_neighbours(picture: np.ndarray) -> np.ndarray:
    """Return the weighted sum of the neighbours that there are, of the picture's shape."""
    return np.asarray(
        cv2.filter2D(picture, cv2.CV_64F, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
    )


def _area(curves: np.ndarray) -> np.ndarray:
    """Return the area under equally spaced points over 0-1, float64 (curves,)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1), np.float64)
