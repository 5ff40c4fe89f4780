"""Where a slide has tissue and where IDC, per grid cell of 50x50 px.

The statistics used here were measured on the published patches: how much of a case is IDC, how
often patches that share an edge have the same label, and that slivers occur along one edge.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import betaincinv

from idc.data.patches import PATCH_SIZE_PX

_TISSUE_SHARE = 0.62  # of the grid
_MIDDLE = (0.62, 0.5)  # of the tissue, as a share of the grid: one edge cuts through it
_BURDEN_SHAPE = (1.3, 2.8)  # of a beta distribution
_ZERO_BURDEN_SHARE = 0.03
_MAX_DISAGREEMENT = 0.052
_SMOOTHNESS_CELLS = (1.5, 2.1, 3.0, 4.2, 6.0, 8.5, 12.0, 17.0)
_NULL_SMOOTHNESS_CELLS = 12.0
_SHORTEST_PERIOD_CELLS = 96
_SLIVER_SHARE = 0.01
_SLIVER_MAY_BE_IDC = 0.03


@dataclass(frozen=True)
class Layout:
    """A slide's cells, each array (side, side).

    Attributes:
        outside: float64, distance from the middle in cells; tissue lies where it is small.
        tissue: bool.
        malignancy: float64; IDC lies where it is large.
        idc: bool, contiguous regions of the tissue.
        height_px: int, 50, or less where the slide's lower edge cuts the cell.
        width_px: int, 50, or less where the slide's right edge cuts the cell.
    """

    outside: np.ndarray
    tissue: np.ndarray
    malignancy: np.ndarray
    idc: np.ndarray
    height_px: np.ndarray
    width_px: np.ndarray

    @property
    def side(self) -> int:
        """Cells along an edge of the slide."""
        return len(self.tissue)

    @property
    def size_px(self) -> int:
        """Pixels along an edge of the slide."""
        return self.side * PATCH_SIZE_PX


def burden_quantile(place: float) -> float:
    """Return the burden (0-1) below which this share of cases lies.

    Over cases the mean is .31 and the SD .21, as published; a few have no IDC.
    """
    if place < _ZERO_BURDEN_SHARE:
        return 0.0
    return float(
        betaincinv(*_BURDEN_SHAPE, (place - _ZERO_BURDEN_SHARE) / (1 - _ZERO_BURDEN_SHARE))
    )


def draw_layout(
    rng: np.random.Generator, num_patches: int, burden: float, *, min_slivers: int = 0
) -> Layout:
    """Lay out a slide of exactly `num_patches` cells of tissue, `burden` (0-1) of them IDC.

    About 1 % of the cells are slivers, but no fewer than `min_slivers`.
    """
    side = max(2, int(np.ceil(np.sqrt(num_patches / _TISSUE_SHARE))))
    num_slivers = max(min_slivers, int(_SLIVER_SHARE * num_patches + rng.random()))
    outside = _outside(rng, side)
    tissue = np.zeros((side, side), bool)
    tissue[:-1] = _smallest(outside[:-1], num_patches - num_slivers)
    tissue[-1] = _smallest(outside[-1], num_slivers)
    height_px = np.full((side, side), PATCH_SIZE_PX)
    height_px[-1] = rng.integers(1, PATCH_SIZE_PX)
    width_px = np.full((side, side), PATCH_SIZE_PX)
    if rng.random() < 0.5:  # the right edge cuts the slide, not the lower one
        outside, tissue = outside.T, tissue.T
        height_px, width_px = width_px, height_px.T
    # as published, slivers are IDC- but for a rare one
    whole = (height_px == PATCH_SIZE_PX) & (width_px == PATCH_SIZE_PX)
    allowed = tissue & (whole | (rng.random(tissue.shape) < _SLIVER_MAY_BE_IDC))
    malignancy, idc = _draw_region(rng, tissue, allowed, burden)
    return Layout(outside, tissue, malignancy, idc, height_px, width_px)


def draw_null_labels(rng: np.random.Generator, tissue: np.ndarray, burden: float) -> np.ndarray:
    """Choose `burden` (0-1) of the tissue in contiguous bands, independently of all else.

    The cells chosen are those whose values in a smooth field fall into a randomly drawn window of
    ranks. The largest values would not do: most of them occur at the border of the tissue, where
    patches look different.

    Returns:
        bool (side, side); with equal probability for every cell of the tissue.
    """
    field = next(_fields(rng, len(tissue), (_NULL_SMOOTHNESS_CELLS,)))
    num_cells = int(tissue.sum())
    rank = np.argsort(np.argsort(field[tissue]))
    labels = np.zeros(tissue.shape, bool)
    labels[tissue] = (rank - rng.integers(num_cells)) % num_cells < round(burden * num_cells)
    return labels


def tissue_bands(tissue: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Yield each row of cells that holds tissue, from its first to its last cell, in pixels."""
    for row in np.flatnonzero(tissue.any(axis=1)).tolist():
        columns = np.flatnonzero(tissue[row]).tolist()
        yield (
            slice(row * PATCH_SIZE_PX, (row + 1) * PATCH_SIZE_PX),
            slice(columns[0] * PATCH_SIZE_PX, (columns[-1] + 1) * PATCH_SIZE_PX),
        )


def _draw_region(
    rng: np.random.Generator, tissue: np.ndarray, allowed: np.ndarray, burden: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `burden` of the tissue as contiguous regions, as far as the allowed cells go.

    It tries smoother and smoother fields and takes the first whose regions have borders as short as
    the published ones: 94-97 % of neighbours alike. Slides of fewer than about 150 cells cannot
    reach that.

    Returns:
        The field, float64 of SD 1, and the cells where it is largest, bool; both (side, side).
    """
    num_chosen = min(round(burden * int(tissue.sum())), int(allowed.sum()))
    for field in _fields(rng, len(tissue), _SMOOTHNESS_CELLS):
        chosen = _smallest(np.where(allowed, -field, np.inf), num_chosen)
        if _disagreement(chosen, tissue) <= _MAX_DISAGREEMENT:
            break
    return field / field.std(), chosen


def _fields(rng: np.random.Generator, side: int, sigmas: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Yield one random field, float64 (side, side), smoothed over `sigmas` cells in turn."""
    # A periodic field far larger than needed: stationary, so that a slide's border does not differ,
    # and smooth enough to divide a small slide in two.
    period = max(2 * side, _SHORTEST_PERIOD_CELLS)
    noise = np.fft.fft2(rng.standard_normal((period, period)))
    frequency = np.fft.fftfreq(period)
    squared_frequency = frequency[:, None] ** 2 + frequency**2
    for sigma in sigmas:
        blur = np.exp(-2 * (np.pi * sigma) ** 2 * squared_frequency)
        yield np.fft.ifft2(noise * blur).real[:side, :side]


def _outside(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return the distance from the middle in cells, with an uneven outline."""
    rows, columns = (
        np.arange(side)[:, None] - _MIDDLE[0] * (side - 1),
        np.arange(side) - _MIDDLE[1] * (side - 1),
    )
    stretch = rng.uniform(0.8, 1.25)
    noise = rng.standard_normal((2, side, side))
    lobes = cv2.GaussianBlur(noise[0], (0, 0), 0.12 * side)
    fringe = cv2.GaussianBlur(noise[1], (0, 0), 1.0)
    return np.asarray(
        np.hypot(rows * stretch, columns / stretch)
        + 0.1 * side * lobes / lobes.std()
        + 0.5 * fringe / fringe.std()
    )


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of the `count` smallest values."""
    mask = np.zeros(values.size, bool)
    mask[np.argsort(values, axis=None, kind="stable")[:count]] = True
    return mask.reshape(values.shape)


def _disagreement(chosen: np.ndarray, tissue: np.ndarray) -> float:
    """Return the share of pairs of neighbours in the tissue of which exactly one is chosen."""
    state = np.where(tissue, chosen.astype(int), 2)
    pairs = [(state[:-1], state[1:]), (state[:, :-1], state[:, 1:])]
    num_pairs = sum(int(((first < 2) & (second < 2)).sum()) for first, second in pairs)
    num_differing = sum(int((first + second == 1).sum()) for first, second in pairs)
    return num_differing / max(num_pairs, 1)
