"""What the surroundings of a patch say, after the fact: context, distance to the border, regions.

Neighbouring patches continue each other, and so do their labels. A mean of the log-odds over a
patch and those around it therefore ranks better than the patch alone. Two kernels weigh them:
`mean9` gives the same weight to the patch and its up to eight touching ones; `gaussian` lets the
weight fall with the distance, exp(-distance^2 / (2 width^2)), over up to 9 x 9 patches, and its
width is fitted on val. Kernels with a weight per distance and several widths at once rank no better
(docs/log.md, `make bench-context`), and one number can be fitted on few cases.

**No count and no mask of neighbours may reach a model.** A manifest is balanced, so it takes a
larger share of the IDC+ patches than of the IDC- ones; IDC+ patches lie together, so an IDC+ patch
has more sampled patches around it. The mere number of sampled neighbours then tells the label: on
ten whole public slides with an AUROC of .88 where 40 % of the IDC+ patches are drawn, as 60,000 of
277,524 do. It says nothing about tissue, and is gone where every patch is given. So whatever fuses
neighbours must fuse *all* pool patches of a subset, never manifest rows alone, and must not be able
to see how many there are. A mean cannot: where all log-odds are alike it returns them, however many
they are. That of all pool patches depends on places only by where the tissue ends, which the
manifest cannot change.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX
from idc.evaluation.threshold.calibration import fit_calibration

KernelName = Literal["mean9", "gaussian"]

REACH = 4
"""How far a Gaussian looks, in patches, to each side: farther ones changed nothing."""
WIDTHS = (0.3, 4.0)
"""Smallest and largest width of a Gaussian, in patches."""

_STEP_PX = PATCH_SIZE_PX
_WIDTH_DIGITS = 3  # finer than any data tells
_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Kernel:
    """How much a patch counts in the mean around another, by its distance."""

    name: KernelName
    width: float | None = None
    """Standard deviation of `gaussian`, in patches; None for `mean9`."""

    def weights(self) -> dict[tuple[int, int], float]:
        """Return the weight of each patch around, by its steps in x and y; the patch's own is 1."""
        if self.width is None:
            return dict.fromkeys(_offsets(1), 1.0)
        return {
            (dx, dy): math.exp(-(dx * dx + dy * dy) / (2 * self.width**2))
            for dx, dy in _offsets(REACH)
        }


def average_context(
    case: np.ndarray, x: np.ndarray, y: np.ndarray, log_odds: np.ndarray, kernel: Kernel
) -> np.ndarray:
    """Return the weighted mean of the log-odds over each patch and those around it, float64.

    Only the patches given count: give all pool patches of a subset, in any order. Each patch's
    terms are added in an order of their places, so the result does not depend on the order of the
    rows, to the last bit.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).
        log_odds: Log-odds of IDC+, finite, (patches,).
        kernel: How much a patch counts by its distance.

    Raises:
        InputError: If the lengths differ, there is no patch, a patch comes twice, or a log-odds is
            NaN or infinite.
    """
    places = _Places.of(case, x, y)
    values = places.arrange(log_odds)
    total, weight = values.copy(), np.ones(len(values))
    for (dx, dy), each in kernel.weights().items():
        patches, others = places.find_neighbours(dx, dy)
        total[patches] += each * values[others]
        weight[patches] += each
    return places.restore(total / weight)


def choose_kernel(
    name: KernelName,
    case: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    log_odds: np.ndarray,
    y_true: np.ndarray,
) -> Kernel:
    """Return the kernel of that name; what `fit_gaussian` fits is fitted on these patches of val.

    Raises:
        InputError: As `fit_gaussian`.
    """
    if name == "gaussian":
        return fit_gaussian(case, x, y, log_odds, y_true)
    return Kernel(name)


def fit_gaussian(
    case: np.ndarray, x: np.ndarray, y: np.ndarray, log_odds: np.ndarray, y_true: np.ndarray
) -> Kernel:
    """Return the Gaussian kernel whose mean explains the labels best: the least log loss.

    Each width is judged after a line of its own has been fitted through its means, for a wider
    mean is a milder one. Widths lie in 0.3 (all but the patch alone) to 4 patches.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).
        log_odds: Log-odds of IDC+, finite, (patches,): all pool patches of val.
        y_true: Labels, 0 or 1, both present, (patches,).

    Raises:
        InputError: As `average_context`; or if a class is missing.
    """
    places = _Places.of(case, x, y)
    rings = _Rings.of(places, places.arrange(log_odds))
    idc = np.asarray(y_true, np.int8)[places.order]

    def log_loss(log_width: float) -> float:
        averaged = rings.average(float(np.exp(log_width)))
        score = fit_calibration(averaged, idc).apply(averaged)
        hit = np.where(idc == 1, score, 1.0 - score)
        return -float(np.log(np.clip(hit, _LEAST_PROBABILITY, None)).mean())

    found = minimize_scalar(log_loss, bounds=np.log(WIDTHS), method="bounded")
    return Kernel("gaussian", round(float(np.exp(found.x)), _WIDTH_DIGITS))


@dataclass(frozen=True)
class _Rings:
    """The values around each patch, added up by their distance."""

    squared: np.ndarray
    """Squared distances in patches, 0 first, (rings,)."""
    sums: np.ndarray
    """Sum of the values at each distance, float64 (rings, patches)."""
    numbers: np.ndarray
    """How many there are, float64 (rings, patches)."""

    @classmethod
    def of(cls, places: "_Places", values: np.ndarray) -> "_Rings":
        offsets = _offsets(REACH)
        squared = sorted({0} | {dx * dx + dy * dy for dx, dy in offsets})
        sums, numbers = np.zeros((2, len(squared), len(values)))
        sums[0], numbers[0] = values, 1.0
        for dx, dy in offsets:
            ring = squared.index(dx * dx + dy * dy)
            patches, others = places.find_neighbours(dx, dy)
            sums[ring, patches] += values[others]
            numbers[ring, patches] += 1.0
        return cls(np.array(squared), sums, numbers)

    def average(self, width: float) -> np.ndarray:
        weights = np.exp(-self.squared / (2 * width**2))
        averaged: np.ndarray = (weights @ self.sums) / (weights @ self.numbers)
        return averaged


def _offsets(reach: int) -> list[tuple[int, int]]:
    """Return the steps to every patch up to `reach` away in x and y, but to the patch itself."""
    steps = range(-reach, reach + 1)
    return [(dx, dy) for dx in steps for dy in steps if (dx, dy) != (0, 0)]


def count_touching_places(case: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how many of the eight places around each patch hold another patch, int64 in [0, 8].

    For telling complete cases from sampled ones; never for a model, see above.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).

    Raises:
        InputError: If the lengths differ, there is no patch, or a patch comes twice.
    """
    places = _Places.of(case, x, y)
    number = np.zeros(len(places.order), np.int64)
    for dx, dy in _offsets(1):
        number[places.find_neighbours(dx, dy)[0]] += 1
    return places.restore(number)


def distance_to_border(
    case: np.ndarray, x: np.ndarray, y: np.ndarray, y_true: np.ndarray, *, max_distance: int
) -> pd.DataFrame:
    """Say how far each patch is from the nearest patch of the other label in its case.

    In chessboard steps of 50 px: 1 is a patch that touches it, corners included.

    A patch without any touching patch, as sparsely sampled cases have them, is neither border nor
    interior: what lies around it is not known. An interior patch has at least one touching patch,
    and all of those have its own label.

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).
        y_true: Labels, 0 or 1, (patches,).
        max_distance: The largest distance told apart, in steps, at least 1.

    Returns:
        One row per patch, in the order given: `distance` (int64; `max_distance` + 1 means farther
        than `max_distance`, or no such patch), `is_border`, `is_interior` (bool).

    Raises:
        InputError: If the lengths differ, there is no patch, or a patch comes twice.
    """
    places = _Places.of(case, x, y)
    places.require_one_each("labels", y_true)
    # as a third coordinate the case must be out of reach of every other
    steps = np.column_stack([places.x / _STEP_PX, places.y / _STEP_PX])
    points = np.column_stack([steps, places.case_index * (max_distance + 2.0)])
    idc = np.asarray(y_true, bool)[places.order]
    distance = np.full(len(idc), float(max_distance + 1))
    for label in (False, True):
        ours, theirs = points[idc == label], points[idc != label]
        if len(ours) and len(theirs):
            found, _ = cKDTree(theirs).query(
                ours, p=np.inf, distance_upper_bound=max_distance + 0.5
            )
            distance[idc == label] = np.minimum(np.ceil(found), max_distance + 1)
    distance = places.restore(distance.astype(np.int64))
    touched = count_touching_places(case, x, y) > 0
    return pd.DataFrame(
        {
            "distance": distance,
            "is_border": distance == 1,
            "is_interior": touched & (distance > 1),
        }
    )


def label_regions(
    case: np.ndarray, x: np.ndarray, y: np.ndarray, y_true: np.ndarray
) -> pd.DataFrame:
    """Number the regions of touching IDC+ patches, corners included, and tell their sizes.

    In a sampled case regions fall to pieces: sizes mean something in complete cases only
    (`idc.evaluation.cases.burden.find_complete_cases`).

    Args:
        case: Case id of each patch, any sortable type, (patches,).
        x: Column of each patch's corner, px, int (patches,).
        y: Row of each patch's corner, px, int (patches,).
        y_true: Labels, 0 or 1, (patches,).

    Returns:
        One row per patch, in the order given: `region` (int64, from 0 by case and place; -1 where
        IDC-), `region_size` (int64, patches; 0 where IDC-).

    Raises:
        InputError: If the lengths differ, there is no patch, or a patch comes twice.
    """
    places = _Places.of(case, x, y)
    places.require_one_each("labels", y_true)
    idc = np.asarray(y_true, bool)[places.order]
    pairs = [np.stack(places.find_neighbours(dx, dy)) for dx, dy in _offsets(1)]
    patches, others = np.concatenate(pairs, axis=1)
    both = idc[patches] & idc[others]
    graph = coo_array(
        (np.ones(int(both.sum()), bool), (patches[both], others[both])), shape=(len(idc),) * 2
    )
    component = connected_components(graph, directed=False)[1]
    # components are numbered by their first patch, so dropping IDC- ones keeps case and place
    region = np.full(len(idc), -1, np.int64)
    region[idc] = np.unique(component[idc], return_inverse=True)[1]
    size = np.zeros(len(idc), np.int64)
    size[idc] = np.bincount(region[idc])[region[idc]] if idc.any() else 0
    return pd.DataFrame({"region": places.restore(region), "region_size": places.restore(size)})


@dataclass(frozen=True)
class _Places:
    """Patches in the order of case and place; positions below count in this order."""

    order: np.ndarray
    case_index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    key: np.ndarray
    """Ascending number of case and place; a px in y adds 1, one in x `column`."""
    column: int

    @classmethod
    def of(cls, case: np.ndarray, x: np.ndarray, y: np.ndarray) -> "_Places":
        if not len(case) == len(x) == len(y):
            raise InputError(f"{len(case)} cases, {len(x)} x and {len(y)} y: one each per patch")
        if len(case) == 0:
            raise InputError("no patches: the subset is empty")
        case_index = pd.factorize(np.asarray(case), sort=True)[0].astype(np.int64)
        # a margin as wide as the reach: no sum of steps can lead into another column or case
        margin = REACH * _STEP_PX
        x = np.asarray(x, np.int64) - int(np.min(x)) + margin
        y = np.asarray(y, np.int64) - int(np.min(y)) + margin
        column = int(y.max()) + margin + 1
        key = (case_index * (int(x.max()) + margin + 1) + x) * column + y
        order = np.argsort(key, kind="stable")
        key = key[order]
        twice = np.flatnonzero(np.diff(key) == 0)
        if len(twice):
            row = order[twice[0] + 1]
            raise InputError(
                f"{len(twice)} patches come twice, the first is of case {case[row]}, again in row "
                f"{row}: give each patch once"
            )
        return cls(order, case_index[order], x[order], y[order], key, column)

    def require_one_each(self, what: str, values: np.ndarray) -> None:
        if len(values) != len(self.order):
            raise InputError(f"{len(self.order)} patches but {len(values)} {what}: one per patch")

    def arrange(self, log_odds: np.ndarray) -> np.ndarray:
        """Bring log-odds from the caller's order into this one, float64."""
        self.require_one_each("log-odds", log_odds)
        values: np.ndarray = np.asarray(log_odds, np.float64)[self.order]
        unusable = int(np.count_nonzero(~np.isfinite(values)))
        if unusable:
            raise InputError(
                f"{unusable} of {len(values)} log-odds are NaN or infinite: score again"
            )
        return values

    def find_neighbours(self, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the patches that have another dx and dy patches away, and those others."""
        wanted = self.key + (dx * self.column + dy) * _STEP_PX
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        patches = np.flatnonzero(self.key[at] == wanted)
        return patches, at[patches]

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Bring values from this order back into that of the caller."""
        restored = np.empty_like(values)
        restored[self.order] = values
        return restored
