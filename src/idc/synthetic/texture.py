"""Slides whose classes differ in texture, not in colour.

IDC differs from benign tissue in the size, the variety and the arrangement of nuclei, while nuclei
cover the same share of both and are stained alike: texture is informative, colour is not.
"""

import cv2
import numpy as np
from scipy.special import ndtr

from idc.data.patches import PATCH_SIZE_PX
from idc.synthetic.fields import Fibres, smooth_field, smooth_nodes
from idc.synthetic.layout import Layout, tissue_bands
from idc.synthetic.stain import Stain

# optical density of red, green, blue per unit of stain (Ruifrok & Johnston 2001)
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])
_SPREAD = 0.10  # SD over cases, relative
_NOISE = 3.0

_NUCLEAR_COVER = 0.20  # share of the area that nuclei cover, in both classes
_BENIGN_RADIUS_PX = 1.9
_IDC_RADIUS_PX = 3.9
# Large nuclei lose less contrast to blur and overlap more; these settings compensate for both, so
# that neither the mean nor the spread of a patch's colour reveals the class.
_IDC_GREY = (115, 205)
_BENIGN_GREY = (145, 210)
_IDC_OVERLAP = 1.8
_SUBPIXEL_BITS = 4
_ALIKE_CELLS = 2.0  # the distance over which neighbours resemble each other within a class
_CONTOUR_ERROR = 0.04  # share of cells whose tissue contradicts their label


def draw_texture(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Draw the slide of a layout.

    Returns:
        RGB, uint8 (size, size, 3), and the tumour nests, uint8 (size, size), 255 inside and 0
        outside; size is 50 px per cell.
    """
    # annotations are coarse contours: some cells look like the other side of the border
    wrong = rng.random(layout.idc.shape) < _CONTOUR_ERROR
    looks_idc = layout.tissue & (layout.idc ^ wrong)
    nests = _nest_mask(rng, looks_idc, layout.size_px)
    nuclei = np.zeros((layout.size_px, layout.size_px), np.uint8)
    # cellularity and staining vary more within a class than between the two
    covers = _NUCLEAR_COVER * np.clip(
        np.exp(0.4 * smooth_nodes(rng, layout.side, _ALIKE_CELLS)), 0.3, 2.0
    )
    shades = 0.7 + 0.4 * ndtr(smooth_nodes(rng, layout.side, _ALIKE_CELLS))
    for row, column in np.argwhere(layout.tissue).tolist():
        origin = np.array([column, row]) * PATCH_SIZE_PX
        cover, shade = float(covers[row, column]), float(shades[row, column])
        if looks_idc[row, column]:
            _draw_idc(rng, nuclei, nests, origin, cover, shade)
        else:
            _draw_benign(rng, nuclei, origin, cover, shade)
    return _stain(rng, layout, nuclei), nests


def _nest_mask(rng: np.random.Generator, idc: np.ndarray, size_px: int) -> np.ndarray:
    """Return the tumour nests by pixel: the IDC cells, with gaps of stroma between nests."""
    gaps = smooth_field(rng, size_px, 6.0)
    nests = np.zeros((size_px, size_px), np.uint8)
    for rows, columns in tissue_bands(idc):
        cells = idc[rows.start // PATCH_SIZE_PX].repeat(PATCH_SIZE_PX)[columns]
        nests[rows, columns] = np.where(cells & (gaps.band(rows, columns) <= 1.0), 255, 0)
    return nests


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
    corners = places[:, None] + reach * _EIGHT_DIRECTIONS
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
    corners = places[:, None] + radii * _TWELVE_DIRECTIONS
    _fill_outlines(nuclei, corners, shade * rng.uniform(*_BENIGN_GREY, len(places)))


def _fill_outlines(nuclei: np.ndarray, corners: np.ndarray, greys: np.ndarray) -> None:
    """Fill nuclei given as (count, corners, 2) in px: cv2.circle draws diamonds this small."""
    points = np.round(corners * 2**_SUBPIXEL_BITS).astype(np.int32)
    for outline, grey in zip(points, greys.astype(int).tolist(), strict=True):
        cv2.fillPoly(nuclei, [outline], grey, cv2.LINE_AA, _SUBPIXEL_BITS)


def _corner_directions(count: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


_EIGHT_DIRECTIONS = _corner_directions(8)
_TWELVE_DIRECTIONS = _corner_directions(12)


def _stain(rng: np.random.Generator, layout: Layout, nuclei: np.ndarray) -> np.ndarray:
    """Turn nuclei, uint8 (size, size), into uint8 RGB; the stain differs from case to case."""
    size_px = layout.size_px
    stain = Stain(
        haematoxylin=_HAEMATOXYLIN * rng.normal(1, _SPREAD, 3) * rng.uniform(0.8, 1.3),
        eosin=_EOSIN * rng.normal(1, _SPREAD, 3) * rng.uniform(0.7, 1.3),
        white=255 * rng.uniform(0.95, 0.98),
        noise=_NOISE,
    )
    fat_field = smooth_field(rng, size_px, 9.0)
    stroma_field = smooth_field(rng, size_px, 7.0)
    fibres = Fibres(rng, size_px, wave_px=25, wave_sigma_px=22)
    rgb = np.zeros((size_px, size_px, 3), np.uint8)
    for band in tissue_bands(layout.tissue):
        fat = np.clip(2.5 * fat_field.band(*band) - 4.2, 0, 1)
        stroma = 0.42 + 0.07 * stroma_field.band(*band) + 0.06 * fibres.band(*band)
        sharp = nuclei[band].astype(np.float32) / 255
        eosin = np.maximum(stroma, 0.05) * (1 - 0.9 * fat) * (1 - 0.5 * sharp)
        haematoxylin = cv2.GaussianBlur(sharp, (0, 0), 0.6) * (1 - 0.8 * fat)
        rgb[band] = stain.colour(rng, haematoxylin, eosin)
    return rgb
