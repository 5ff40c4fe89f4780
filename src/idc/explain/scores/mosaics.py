"""Mosaic pointing: of four patches of one case, does a map find the one with IDC+?

Four whole patches make a 2x2 mosaic: one that the network rightly and confidently calls IDC+ and
three that it rightly and confidently calls IDC-. The share of a map's mass (its positive part, the
evidence for IDC+) in the right cell says whether it points: 1/4 is chance. It needs no mask of the
tumour, and coarse maps can do it (the focus of Arias-Duart et al. 2022, arXiv:2109.15035). All
patches are of one case, so that stain does not give the answer. An untrained network tells what a
method's share owes to the pictures alone.

A mosaic is twice as large as what the network has learnt from. A backbone whose last feature map is
a single cell there has only ever seen it surrounded by padding, and may answer a larger one out of
all proportion; its maps then drown the others in the fused one. `find_unreliable` names such.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from idc.data.patches import PATCH_SIZE_PX
from idc.data.ranking import rank_patches
from idc.explain.scores.map_traits import mass_share

CHANCE = 0.25

MAX_PROPORTION = 10.0
"""How many times as much as to its cells a backbone may answer to a mosaic, a mean over four."""

_NUM_OTHERS = 3


@dataclass(frozen=True)
class MosaicPlan:
    """Which patches make which mosaic."""

    rows: np.ndarray
    """Row in the pixel store of each cell, int64 (mosaics, 4): top left, top right, bottom left,
    bottom right."""
    right_cell: np.ndarray
    """Which cell is IDC+, int64 (mosaics,)."""
    case: np.ndarray
    """Case of each mosaic, str (mosaics,)."""
    num_cases_left_out: int
    """Cases with too few confident patches for a single mosaic."""


def plan_mosaics(
    test: pd.DataFrame, *, num_mosaics: int, confidence: float, seed: int
) -> MosaicPlan:
    """Choose the patches: seeded, the cases in turn, no patch twice, the right cell rotating.

    Args:
        test: Columns `row`, `case`, `x`, `y`, `y_true`, `y_score` (calibrated) and `sliver`;
            slivers, whose padding repeats tissue, are left out.
        num_mosaics: At most so many.
        confidence: IDC+ patches count from this calibrated score, IDC- patches up to 1 minus it.
        seed: Seed of the order of cases and patches.
    """
    idc, y_score = test["y_true"] == 1, test["y_score"]
    confident = np.where(idc, y_score >= confidence, y_score <= 1 - confidence)
    usable = test[confident & ~test["sliver"]]
    ranked = usable.assign(rank=rank_patches(usable, seed)).sort_values("rank")
    label = ranked["y_true"]
    found = []
    for case, patches in ranked.groupby("case", sort=False):  # in the order of their first patch
        others = patches.loc[label == 0, "row"].to_numpy()
        for turn, right in enumerate(patches.loc[label == 1, "row"]):
            three = others[_NUM_OTHERS * turn : _NUM_OTHERS * (turn + 1)]
            if len(three) == _NUM_OTHERS:
                found.append((turn, str(case), right, three))
    taken = sorted(found, key=lambda each: each[0])[:num_mosaics]  # stable: cases in turn
    cells = np.arange(len(taken)) % 4
    return MosaicPlan(
        rows=np.array(
            [
                np.insert(three, cell, right)
                for cell, (_, _, right, three) in zip(cells, taken, strict=True)
            ],
            np.int64,
        ).reshape(-1, 4),
        right_cell=cells,
        case=np.array([case for _, case, _, _ in taken], str),
        num_cases_left_out=int(test["case"].nunique()) - len({case for _, case, _, _ in found}),
    )


def join_mosaics(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mosaics as pictures, uint8 (mosaics, 100, 100, 3).

    Args:
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: int (mosaics, 4), as in a `MosaicPlan`.
    """
    cells = pixels[rows.ravel()].reshape(-1, 2, 2, PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
    edge = 2 * PATCH_SIZE_PX
    return np.ascontiguousarray(cells.transpose(0, 1, 3, 2, 4, 5)).reshape(-1, edge, edge, 3)


def pointing_share(maps: np.ndarray, right_cell: np.ndarray) -> np.ndarray:
    """Return the share of each map's mass in the right cell, float64 (mosaics,) in 0-1.

    A map without mass points nowhere: it counts as chance.

    Args:
        maps: float (mosaics, 100, 100).
        right_cell: int (mosaics,).
    """
    quadrants = (np.arange(maps.shape[1]) // PATCH_SIZE_PX)[:, np.newaxis] * 2
    quadrants = quadrants + np.arange(maps.shape[2]) // PATCH_SIZE_PX
    share = mass_share(maps, quadrants == right_cell[:, np.newaxis, np.newaxis])
    return np.where(np.isnan(share), CHANCE, share)


def find_unreliable(
    names: Sequence[str], on_mosaics: np.ndarray, on_cells: np.ndarray
) -> list[str]:
    """Return the members that answer mosaics out of proportion to their cells.

    Args:
        names: The members.
        on_mosaics: Their contributions to the logit, float (mosaics, members).
        on_cells: Those of the single patches, float (4 * mosaics, members).
    """
    strength = np.abs(on_mosaics).mean(axis=0)
    usual = np.abs(on_cells).mean(axis=0)
    return [name for name, off in zip(names, strength > MAX_PROPORTION * usual, strict=True) if off]
