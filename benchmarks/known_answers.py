"""Synthetic patches on which it is known where the evidence lies, and how well a map finds it."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from idc.core.config import Params
from idc.core.layout import CASE_LISTS
from idc.data.ingest.archive import find_sources, list_members
from idc.data.ingest.pixel_store import store_patches
from idc.data.manifest.sampling import draw_manifest
from idc.data.patches import PATCH_SIZE_PX, PatchName
from idc.data.ranking import rank_patches
from idc.data.split.splitting import assign_cases, split_patches
from idc.explain.scores.map_traits import mass_share
from idc.synthetic import CUE, NESTS, ArchivePlan, create_archive

TOLERANCE_PX = 2
"""A maximum this near a mask still hits it."""

# Seams beside the middle of a window: one through it would make a blob in the centre always hit.
_SEAMS_PX = (15, 35)
_NEST_SHARES = (0.1, 0.6)  # of a view: with more of it, hitting the nest is no achievement


@dataclass(frozen=True)
class Space:
    """A synthetic archive, ingested and split.

    Attributes:
        pixels: uint8 (patches, 50, 50, 3).
        index: As `idc.data.tables.INDEX_SCHEMA` says.
        splits: As `idc.data.tables.SPLITS_SCHEMA` says.
        masks: Folder that `create_archive` wrote masks to.
    """

    pixels: np.ndarray
    index: pd.DataFrame
    splits: pd.DataFrame
    masks: Path

    @property
    def test(self) -> pd.DataFrame:
        """The index of the whole patches on the test set, under their rows."""
        rows = self.splits.loc[self.splits["split"] == "test", "row"]
        test = self.index.loc[rows]
        return test[~test["sliver"]]

    def load_masks(self, of: str, patches: pd.DataFrame) -> np.ndarray:
        """Return the masks of whole patches, bool (patches, 50, 50); False where there is none."""
        masks = np.zeros((len(patches), PATCH_SIZE_PX, PATCH_SIZE_PX), bool)
        columns = (patches[name] for name in ("case", "x", "y", "label"))
        for mask, *values in zip(masks, *columns, strict=True):
            name = PatchName(*values)
            drawn = cv2.imread(str(self.masks / of / name.case / str(name)), cv2.IMREAD_GRAYSCALE)
            if drawn is not None:
                mask[:] = drawn > 0
        return masks


@dataclass(frozen=True)
class Views:
    """Pictures to explain: uint8 (n, 50, 50, 3), where the answer is, bool (n, 50, 50), and cases.

    `rows` are rows of the pixel store, -1 for windows across two patches.
    """

    pixels: np.ndarray
    masks: np.ndarray
    case: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def create_space(folder: Path, params: Params, plan: ArchivePlan) -> Space:
    """Draw an archive, ingest it, draw the manifest and assign the cases, as the stages do.

    Args:
        folder: New folder for archive, masks and pixel store.
        params: Sections `sample` and `split`.
        plan: The archive. With the same seed and sizes the subsets are the same too.
    """
    create_archive(folder / "raw/archive.zip", plan, masks=folder / "masks")
    pixels = folder / "pixels.npy"
    index = store_patches(list_members(find_sources(folder / "raw")), pixels, num_processes=1).index
    manifest = draw_manifest(index, params.sample, params.seeds.data)
    subsets = assign_cases(index, params.split.fractions, params.seeds.data)
    splits = split_patches(
        index,
        manifest,
        params.split,
        params.seeds.data,
        case_lists=CASE_LISTS,
        case_subsets=subsets,
    )
    return Space(np.load(pixels), index, splits, folder / "masks")


def draw_nest_views(space: Space, count: int, seed: int) -> Views:
    """Draw test patches and windows of which tumour nests fill a part, the cases in turn.

    Taken are IDC+ patches, and windows across the border between two touching patches of different
    label (15 px of one and 35 px of the other, as they lie on the slide), where nests fill 10 to
    60 %.
    """
    test = space.test
    nests = space.load_masks(NESTS, test)
    idc = np.flatnonzero(test["label"] == 1)
    pixels = [space.pixels[test.index[idc]]]
    masks, first = [nests[idc]], [idc]
    for axis in (0, 1):  # below each other, beside each other
        before, after = _find_borders(test, axis)
        windows = space.pixels[test.index[before]], space.pixels[test.index[after]]
        pixels.append(_join(*windows, axis=axis + 1))
        masks.append(_join(nests[before], nests[after], axis=axis + 1))
        first.append(before)
    places = np.concatenate(first)
    rows = np.where(np.arange(len(places)) < len(idc), test.index[places], -1)
    all_masks = np.concatenate(masks)
    share = all_masks.mean(axis=(1, 2))
    fits = np.flatnonzero((share >= _NEST_SHARES[0]) & (share <= _NEST_SHARES[1]))
    order = fits[_cases_in_turn(test.iloc[places[fits]], seed)][:count]
    return Views(
        np.concatenate(pixels)[order],
        all_masks[order],
        test["case"].to_numpy()[places[order]],
        rows[order],
    )


def draw_cue_views(space: Space, count: int, seed: int) -> Views:
    """Draw IDC- test patches that carry the cue, the cases in turn.

    In them nothing but the cue, and what else the network mistakes, speaks for IDC+.
    """
    test = space.test[space.test["label"] == 0]
    cues = space.load_masks(CUE, test)
    carries = np.flatnonzero(cues.any(axis=(1, 2)))
    order = carries[_cases_in_turn(test.iloc[carries], seed)][:count]
    rows = test.index.to_numpy()[order]
    return Views(space.pixels[rows], cues[order], test["case"].to_numpy()[order], rows)


def pointing_hits(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return whether each map's maximum lies in the mask, float64 (views,), 0 or 1.

    The pointing game (Zhang et al. 2018, IJCV 126:1084) with a tolerance of 2 px. Of several equal
    maxima the share that hits counts; a map without positive value misses.

    Args:
        maps: float (views, height, width).
        masks: bool, the same shape.
    """
    reach = 2 * TOLERANCE_PX + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    hits = np.zeros(len(maps))
    for view, (heat, mask) in enumerate(zip(maps, masks, strict=True)):
        wide = cv2.dilate(mask.astype(np.uint8), kernel) > 0
        if heat.max() > 0:
            hits[view] = wide[heat == heat.max()].mean()
    return hits


def relevance_mass(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of the positive evidence inside the mask, float64 (views,), 0-1.

    Relevance mass accuracy (Arras et al. 2022, Information Fusion 81:14); 0 for a map without any.
    """
    return np.nan_to_num(mass_share(maps, masks), nan=0.0)


def area_iou(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the overlap with the mask of each map's highest pixels, as many as the mask has.

    Intersection over union, float64 (views,), 0-1. Pixels that tie for the last places count by
    their share, so a flat map gets what chance gives.
    """
    overlaps = np.zeros(len(maps))
    for view, (heat, mask) in enumerate(zip(maps, masks, strict=True)):
        area = int(mask.sum())
        lowest = np.partition(heat, -area, axis=None)[-area]
        above, ties = heat > lowest, heat == lowest
        inside = mask[above].sum() + (area - above.sum()) * mask[ties].mean()
        overlaps[view] = inside / (2 * area - inside)
    return overlaps


MEASURES = {
    "pointing": pointing_hits,
    "relevance mass": relevance_mass,
    "IoU": area_iou,
}
"""How well maps find masks, by name; each is at best 1."""


def _find_borders(test: pd.DataFrame, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of touching patches of other labels: upper and lower, or left and right.

    Args:
        test: Index of whole patches.
        axis: 0 for patches below each other, 1 for those beside each other.
    """
    step = ((0, PATCH_SIZE_PX), (PATCH_SIZE_PX, 0))[axis]
    places = list(zip(test["case"], test["x"], test["y"], strict=True))
    position = {place: number for number, place in enumerate(places)}
    label = test["label"].to_numpy()
    pairs = [
        (number, position[(case, x + step[0], y + step[1])])
        for number, (case, x, y) in enumerate(places)
        if (case, x + step[0], y + step[1]) in position
    ]
    borders = [(first, second) for first, second in pairs if label[first] != label[second]]
    before, after = np.array(borders, dtype=int).reshape(-1, 2).T
    return before, after


def _join(before: np.ndarray, after: np.ndarray, *, axis: int) -> np.ndarray:
    """Return windows across the seams of touching patches, (windows, 50, 50, ...).

    Args:
        before: The upper or left patches, (windows, 50, 50, ...).
        after: The lower or right ones.
        axis: 1 where they lie below each other, 2 where beside each other.
    """
    long = np.concatenate([before, after], axis=axis)
    windows = np.empty_like(before)
    for number, pair in enumerate(long):
        seam_px = _SEAMS_PX[number % 2]
        first = PATCH_SIZE_PX - seam_px
        windows[number] = np.take(pair, np.arange(first, first + PATCH_SIZE_PX), axis - 1)
    return windows


def _cases_in_turn(patches: pd.DataFrame, seed: int) -> np.ndarray:
    """Return an order by seeded rank that takes one patch of each case, then the next of each."""
    ranked = patches.reset_index(drop=True).assign(rank=rank_patches(patches, seed))
    # two windows of one patch have one rank: the order of the rows decides
    ranked = ranked.sort_values("rank", kind="stable")
    turn = ranked.groupby("case").cumcount()
    key = [zlib.crc32(f"{seed}:{case}".encode()) for case in ranked["case"]]
    return ranked.assign(turn=turn, key=key).sort_values(["turn", "key"]).index.to_numpy()
