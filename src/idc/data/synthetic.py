"""A synthetic archive in the published layout, so that nothing here needs patient data.

Each case is one slide, drawn in two stain concentrations and turned into colour by the
Beer-Lambert law. IDC differs from benign tissue in the size, the variety and the arrangement of
nuclei, while nuclei cover the same share of both and are stained alike: colour tells little,
texture tells.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from idc.data.patches import PATCH_SIZE_PX, PatchName
from idc.errors import InputError
from idc.files import replacing_file

# optical density of red, green, blue per unit of stain (Ruifrok & Johnston 2001)
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])

_NUCLEAR_COVER = 0.20  # share of the area that nuclei cover, in both classes
_BENIGN_RADIUS_PX = 1.9
_IDC_RADIUS_PX = 3.9
# Large nuclei lose less contrast to blur and overlap more; these settings even both out, so that
# neither the mean nor the spread of a patch's colour gives the class away.
_IDC_GREY = (115, 205)
_BENIGN_GREY = (145, 210)
_IDC_OVERLAP = 1.8
_SUBPIXEL_BITS = 4
_FIRST_CASE = 90001
NESTED_FOLDER = "IDC_regular_ps50_idx5"
_SLIVER_SHARE = 0.01
_CONTOUR_ERROR = 0.04  # share of cells whose tissue contradicts their label
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date keeps the zip's bytes the same


@dataclass(frozen=True)
class Slide:
    """One drawn case: `rgb` and `nests` by pixel, `tissue` and `idc` by grid cell."""

    rgb: np.ndarray
    nests: np.ndarray
    tissue: np.ndarray
    idc: np.ndarray


def create_archive(
    path: Path,
    *,
    num_cases: int,
    patches_per_case: int,
    seed: int,
    masks: Path | None = None,
    nested: bool = True,
) -> None:
    """Write a zip of 8-bit RGB PNG patches named and foldered like the published archive.

    Args:
        path: The zip to write; its bytes depend on the arguments alone.
        num_cases: Cases; case i does not depend on how many there are.
        patches_per_case: Mean number; single cases hold half to 1.6 times as many.
        seed: Seed of everything.
        masks: Folder for `<case>/<patch name>`, 255 inside tumour nests and 0 outside.
        nested: Whether the whole tree stands a second time below `IDC_regular_ps50_idx5/`.

    Raises:
        InputError: If there would be no case or hardly a patch in it.
    """
    if num_cases < 1:
        raise InputError(f"--cases {num_cases}: at least 1 is needed")
    if patches_per_case < 4:
        raise InputError(f"--patches-per-case {patches_per_case}: at least 4 are needed")
    with replacing_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for number in range(num_cases):
            case = str(_FIRST_CASE + number)
            rng = np.random.default_rng([seed, number])
            slide = draw_slide(rng, round(patches_per_case * rng.uniform(0.5, 1.6)))
            for name, pixels, mask in _cut_patches(case, slide, rng):
                content = _encode_png(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
                member = f"{case}/{name.label}/{name}"
                archive.writestr(zipfile.ZipInfo(member, _EPOCH), content)
                if nested:
                    copy = zipfile.ZipInfo(f"{NESTED_FOLDER}/{member}", _EPOCH)
                    archive.writestr(copy, content)
                if masks is not None:
                    file = masks / case / str(name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(_encode_png(mask))


def draw_slide(rng: np.random.Generator, num_patches: int) -> Slide:
    """Draw a slide whose tissue covers about `num_patches` grid cells of 50x50 px."""
    side = int(np.ceil(np.sqrt(num_patches / 0.7)))
    tissue = _tissue_cells(rng, side, num_patches)
    idc = _idc_cells(rng, tissue)
    size_px = side * PATCH_SIZE_PX
    # annotations are coarse contours: some cells look like the other side of the border
    looks_idc = tissue & (idc ^ (rng.random(idc.shape) < _CONTOUR_ERROR))
    nests = _nest_mask(rng, looks_idc, size_px)
    nuclei = np.zeros((size_px, size_px), np.uint8)
    for row, column in np.argwhere(tissue):
        origin = np.array([column, row]) * PATCH_SIZE_PX
        # cellularity and staining vary more within a class than between the two
        cover = _NUCLEAR_COVER * float(np.clip(rng.lognormal(0.0, 0.4), 0.3, 2.0))
        shade = rng.uniform(0.7, 1.1)
        if looks_idc[row, column]:
            _draw_idc(rng, nuclei, nests, origin, cover, shade)
        else:
            _draw_benign(rng, nuclei, origin, cover, shade)
    rgb = _stain(rng, nuclei.astype(np.float32) / 255)
    return Slide(rgb, nests, tissue, idc)


def _tissue_cells(rng: np.random.Generator, side: int, num_patches: int) -> np.ndarray:
    """Return the cells nearest to the centre, with a wavy border: one connected blob."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.hypot(rows, columns) + 0.8 * _smooth_field(rng, side, 2.0)
    cells = np.zeros(side * side, bool)
    cells[np.argsort(distance, axis=None, kind="stable")[:num_patches]] = True
    return cells.reshape(side, side)


def _idc_cells(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Return contiguous regions that hold the case's burden, mean .35 and SD .2."""
    burden = rng.beta(1.6, 3.0)
    if rng.random() < 0.06:
        burden = 0.0
    allowed = tissue.copy()
    last_row, last_column = np.argwhere(tissue).max(axis=0)
    allowed[last_row] = allowed[:, last_column] = False  # the published slivers are negative
    field = np.where(allowed, _smooth_field(rng, len(tissue), 1.6), -np.inf)
    num_idc = round(burden * int(tissue.sum()))
    cells = np.zeros(tissue.size, bool)
    cells[np.argsort(-field, axis=None, kind="stable")[:num_idc]] = True
    return cells.reshape(tissue.shape)


def _smooth_field(rng: np.random.Generator, side: int, sigma: float) -> np.ndarray:
    """Return a random (side, side) field of mean 0 and SD 1 whose neighbours are alike."""
    field = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), sigma)
    return np.asarray((field - field.mean()) / (field.std() + 1e-9))


def _nest_mask(rng: np.random.Generator, idc: np.ndarray, size_px: int) -> np.ndarray:
    """Return the tumour nests by pixel: the IDC cells, with gaps of stroma between nests."""
    cells = cv2.resize(idc.astype(np.uint8), (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    gaps = _smooth_field(rng, size_px, 6.0) > 1.0
    return np.where((cells == 1) & ~gaps, 255, 0).astype(np.uint8)


def _draw_idc(
    rng: np.random.Generator,
    nuclei: np.ndarray,
    nests: np.ndarray,
    origin: np.ndarray,
    cover: float,
    shade: float,
) -> None:
    """Large nuclei of varying size and outline, crowded in nests around a few centres."""
    centres = origin + rng.uniform(0, PATCH_SIZE_PX, (5, 2))
    area = _IDC_OVERLAP * cover * PATCH_SIZE_PX**2  # some overlap, some fall into gaps
    num_nuclei = 1 + round(area / (np.pi * _IDC_RADIUS_PX**2))
    places = centres[rng.integers(len(centres), size=num_nuclei)]
    places = origin + np.mod(places + rng.normal(0, 9.0, places.shape) - origin, PATCH_SIZE_PX)
    columns, rows = places.astype(int).T
    places = places[nests[rows, columns] > 0]
    radii = _IDC_RADIUS_PX * rng.lognormal(-0.05, 0.3, (len(places), 1, 1))
    stretch = np.ones((len(places), 1, 2))
    stretch[..., 0] = rng.uniform(0.75, 1.3, (len(places), 1))
    reach = radii * rng.normal(1.0, 0.16, (len(places), 8, 1)) * stretch
    corners = places[:, None] + reach * _corner_directions(8)
    _fill_outlines(nuclei, corners, shade * rng.uniform(*_IDC_GREY, len(places)))


def _draw_benign(
    rng: np.random.Generator, nuclei: np.ndarray, origin: np.ndarray, cover: float, shade: float
) -> None:
    """Small, round, equal nuclei: some line a duct, the others lie scattered in rows."""
    num_nuclei = round(1.12 * cover * PATCH_SIZE_PX**2 / (np.pi * _BENIGN_RADIUS_PX**2))
    num_lining = min(num_nuclei, int(rng.integers(14, 24)))
    centre = origin + rng.uniform(12, PATCH_SIZE_PX - 12, 2)
    angles = np.linspace(0, 2 * np.pi, num_lining, endpoint=False) + rng.uniform(0, 1)
    ring = centre + rng.uniform(10, 15) * np.stack([np.cos(angles), np.sin(angles)], 1)
    steps = np.arange(num_nuclei - num_lining)
    pitch = PATCH_SIZE_PX / np.sqrt(max(len(steps), 1))
    per_row = max(1, int(PATCH_SIZE_PX / pitch))
    grid = np.stack([steps % per_row, steps // per_row], 1) * pitch
    scattered = origin + np.mod(grid + rng.normal(0, 2.0, grid.shape), PATCH_SIZE_PX)
    places = np.concatenate([ring, scattered])
    radii = _BENIGN_RADIUS_PX * rng.normal(1.0, 0.06, (len(places), 1, 1))
    corners = places[:, None] + radii * _corner_directions(12)
    _fill_outlines(nuclei, corners, shade * rng.uniform(*_BENIGN_GREY, len(places)))


def _fill_outlines(nuclei: np.ndarray, corners: np.ndarray, greys: np.ndarray) -> None:
    """Fill nuclei given as (count, corners, 2) in px: cv2.circle draws diamonds this small."""
    points = np.round(corners * 2**_SUBPIXEL_BITS).astype(np.int32)
    for outline, grey in zip(points, greys.astype(int).tolist(), strict=True):
        cv2.fillPoly(nuclei, [outline], grey, cv2.LINE_AA, _SUBPIXEL_BITS)


def _corner_directions(count: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _stain(rng: np.random.Generator, nuclei: np.ndarray) -> np.ndarray:
    """Turn nuclei (0-1 by pixel) into uint8 RGB; the stain differs from case to case."""
    side = len(nuclei)
    haematoxylin = _HAEMATOXYLIN * rng.normal(1, 0.08, 3) * rng.uniform(0.8, 1.3)
    eosin = _EOSIN * rng.normal(1, 0.08, 3) * rng.uniform(0.7, 1.3)
    fat = np.clip(2.5 * _smooth_field(rng, side, 9.0) - 4.2, 0, 1)
    stroma = 0.42 + 0.07 * _smooth_field(rng, side, 7.0) + 0.06 * _fibres(rng, side)
    eosin_amount = np.clip(stroma, 0.05, None) * (1 - 0.9 * fat) * (1 - 0.5 * nuclei)
    nuclear_amount = cv2.GaussianBlur(nuclei, (0, 0), 0.6) * (1 - 0.8 * fat)
    density = (
        nuclear_amount[..., None] * haematoxylin
        + eosin_amount[..., None] * eosin
        + 0.05 * rng.uniform(0.4, 1.0)
    )
    rgb = 255 * np.exp(-density) + rng.normal(0, 3.0, (side, side, 3))
    return np.asarray(np.clip(rgb, 0, 255), dtype=np.uint8)


def _fibres(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return wavy collagen strands, (side, side), of mean about 0 and SD about 1."""
    strands = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 9.0, sigmaY=0.8)
    wave = 25 * _smooth_field(rng, side, 22.0).astype(np.float32)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    if rng.random() < 0.5:
        rows, columns = columns, rows
    bent = cv2.remap(
        strands / strands.std(), columns, rows + wave, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
    )
    return np.asarray(bent)


def _cut_patches(
    case: str, slide: Slide, rng: np.random.Generator
) -> Iterator[tuple[PatchName, np.ndarray, np.ndarray]]:
    """Yield name, RGB pixels and nest mask of each tissue cell; some edge cells are slivers."""
    slivers = _sliver_cells(slide, rng)
    for row, column in np.argwhere(slide.tissue):
        y, x = row * PATCH_SIZE_PX, column * PATCH_SIZE_PX
        height_px, width_px = slivers.get((int(row), int(column)), (PATCH_SIZE_PX, PATCH_SIZE_PX))
        part = np.s_[y : y + height_px, x : x + width_px]
        name = PatchName(case, int(x) + 1, int(y) + 1, int(slide.idc[row, column]))
        yield name, slide.rgb[part], slide.nests[part]


def _sliver_cells(slide: Slide, rng: np.random.Generator) -> dict[tuple[int, int], tuple[int, int]]:
    """Choose cells of the last column or row of tissue and what remains of them (height, width)."""
    axis = int(rng.integers(2))  # 0: the bottom edge cuts height, 1: the right edge cuts width
    cells = np.argwhere(slide.tissue)
    cells = cells[cells[:, axis] == cells[:, axis].max()]
    is_idc = slide.idc[cells[:, 0], cells[:, 1]]
    cells = cells if is_idc.all() else cells[~is_idc]
    wanted = max(1, round(_SLIVER_SHARE * int(slide.tissue.sum())))
    slivers = {}
    for row, column in rng.permutation(cells)[:wanted]:
        size = [PATCH_SIZE_PX, PATCH_SIZE_PX]
        size[axis] = int(rng.integers(6, 44))
        slivers[int(row), int(column)] = (size[0], size[1])
    return slivers


def _encode_png(pixels: np.ndarray) -> bytes:
    done, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, "an 8-bit array always encodes"
    return bytes(content)
