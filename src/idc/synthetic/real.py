"""Slides that follow the statistics measured on the published patches.

At their scale of 4 um per pixel a nucleus is two or three pixels wide, so nuclei are points,
scattered at a density per pixel and blurred. Colour is informative but misleading in places:
lymphocytes, lobules and filled ducts are dark without being IDC, IDC may be pale and fibrous, and
contours are coarse.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from idc.synthetic.fields import Fibres, Mosaic, PixelField, smooth_field, white_noise
from idc.synthetic.layout import Layout, tissue_bands
from idc.synthetic.stain import Stain

# optical density of red, green, blue per unit of stain (Macenko et al. 2009, on published patches)
_HAEMATOXYLIN = np.array([0.62, 0.72, 0.40])
_EOSIN = np.array([0.15, 0.80, 0.56])
_HAEMATOXYLIN_SPREAD = (0.07, 0.05, 0.12)  # SD over cases, relative
_EOSIN_SPREAD = (0.25, 0.07, 0.13)
_WHITE = 243.0
_NOISE = 2.0
_GRAIN = 0.12  # SD of eosin from pixel to pixel, relative
_OUTER_SHARE = 0.045  # of the cells have their middle beyond the tissue's outline,
_OUTER_CELLS = 0.7  # by no more than this

_Band = tuple[slice, slice]


@dataclass(frozen=True)
class _Traits:
    """What makes one case differ from another.

    Attributes:
        fat: Level of its field above which tissue is fat; lower means more.
        lobules: The same for lobules.
        lymphocytes: The same for clusters of lymphocytes.
        ducts: Share of the possible places for a duct that have none.
        solidity: IDC grows in sheets where it is high, in few cords where it is low.
        crowding: Nuclei per pixel of IDC.
        basophilia: Haematoxylin of the cytoplasm of IDC.
        overdrawn_cells: By how much the annotators' contours are too wide.
        stroma: Eosin of plain stroma.
    """

    fat: float
    lobules: float
    lymphocytes: float
    ducts: float
    solidity: float
    crowding: float
    basophilia: float
    overdrawn_cells: float
    stroma: float


@dataclass(frozen=True)
class _Parts:
    """What a band of pixels consists of, float32 (rows, columns) each; 0-1 except stroma, shade.

    Attributes:
        idc: Within the region of IDC.
        epithelium: Nests of IDC.
        acini: Walls of the glands in lobules.
        lobules: Lobules with their own stroma.
        ducts: Ducts filled with cells that are large but not invasive.
        lymphocytes: Clusters of lymphocytes.
        solid: Not white.
        stroma: Eosin of the stroma.
        shade: Thickness of the section, about 1.
    """

    idc: np.ndarray
    epithelium: np.ndarray
    acini: np.ndarray
    lobules: np.ndarray
    ducts: np.ndarray
    lymphocytes: np.ndarray
    solid: np.ndarray
    stroma: np.ndarray
    shade: np.ndarray


def draw_real(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Draw the slide of a layout.

    Returns:
        RGB, uint8 (size, size, 3), and the tumour nests, uint8 (size, size), 255 inside and 0
        outside; size is 50 px per cell.
    """
    stain, traits = _draw_stain(rng), _draw_traits(rng)
    tissue = _Tissue(rng, layout, traits)
    rgb = np.zeros((layout.size_px, layout.size_px, 3), np.uint8)
    nests = np.zeros((layout.size_px, layout.size_px), np.uint8)
    for band in tissue_bands(layout.tissue):
        parts = tissue.parts(band)
        haematoxylin, eosin = _take_up_stain(rng, parts, traits)
        rgb[band] = stain.colour(rng, haematoxylin, eosin)
        nests[band] = np.where(parts.epithelium * parts.solid > 0.5, 255, 0)
    return rgb, nests


def _draw_stain(rng: np.random.Generator) -> Stain:
    return Stain(
        haematoxylin=_HAEMATOXYLIN * rng.normal(1, _HAEMATOXYLIN_SPREAD) * rng.uniform(0.75, 1.3),
        eosin=_EOSIN * rng.normal(1, _EOSIN_SPREAD) * rng.uniform(0.75, 1.3),
        white=_WHITE,
        noise=_NOISE,
    )


def _draw_traits(rng: np.random.Generator) -> _Traits:
    return _Traits(
        fat=rng.normal(0.6, 0.25),
        lobules=rng.normal(1.35, 0.35),
        lymphocytes=rng.normal(1.65, 0.35),
        ducts=rng.uniform(0.6, 0.95),
        solidity=rng.normal(0.0, 0.5),
        crowding=rng.uniform(0.06, 0.12),
        basophilia=rng.uniform(0.1, 0.4),
        overdrawn_cells=rng.normal(0.2, 0.3),
        stroma=rng.uniform(0.38, 0.55),
    )


class _Tissue:
    """The fields a slide is made of; each varies at the scale of the structure it represents."""

    def __init__(self, rng: np.random.Generator, layout: Layout, traits: _Traits) -> None:
        size_px = layout.size_px
        self._traits = traits
        self._outside = PixelField(_cells_beyond_outline(layout), size_px)
        self._idc = PixelField(_cells_within_idc(layout) - traits.overdrawn_cells, size_px)
        self._outline = smooth_field(rng, size_px, 9)
        self._fat = smooth_field(rng, size_px, 55)
        self._lobules = smooth_field(rng, size_px, 38)
        self._lymphocytes = smooth_field(rng, size_px, 14)
        self._growth = smooth_field(rng, size_px, 110)
        self._nests = smooth_field(rng, size_px, 4)
        self._looseness = smooth_field(rng, size_px, 70)
        self._thickness = smooth_field(rng, size_px, 150)
        self._fibres = Fibres(rng, size_px, wave_px=35, wave_sigma_px=60)
        # tiles of a prime number of pixels: their copies meet the grid of patches differently
        self._fat_cells = Mosaic(rng, pitch_px=14, tile_px=307)
        self._acini = Mosaic(rng, pitch_px=11, tile_px=241)
        self._ducts = Mosaic(rng, pitch_px=70, tile_px=613)

    def parts(self, band: _Band) -> _Parts:
        """Say what these pixels consist of."""
        outline = self._outline.band(*band)
        fibres = self._fibres.band(*band)
        idc = _ramp(self._idc.band(*band) + 0.35 * outline, 4.0)
        growth = self._traits.solidity + self._growth.band(*band)
        lobules, acini = self._glands(band, 1 - idc)
        stroma = self._traits.stroma + 0.13 * self._looseness.band(*band) + 0.07 * fibres
        return _Parts(
            idc=idc,
            epithelium=idc * _ramp(self._nests.band(*band) + growth, 3.0),
            acini=acini,
            lobules=lobules,
            ducts=self._filled_ducts(band, outline) * (1 - idc),
            lymphocytes=_ramp(self._lymphocytes.band(*band) - self._traits.lymphocytes, 4.0),
            solid=1 - self._white(band, idc, outline, fibres),
            stroma=np.maximum(stroma, 0.2),
            shade=np.exp(0.18 * self._thickness.band(*band)),
        )

    def _glands(self, band: _Band, benign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lobules and, in them, the round walls of their glands."""
        lobules = benign * _ramp(self._lobules.band(*band) - self._traits.lobules, 6.0)
        distance, _, _ = self._acini.band(*band)
        return lobules, lobules * _ramp(4.3 - distance, 2.0) * _ramp(distance - 1.5, 2.0)

    def _filled_ducts(self, band: _Band, outline: np.ndarray) -> np.ndarray:
        distance, _, number = self._ducts.band(*band)
        return np.asarray(_ramp(19 + 3 * outline - distance, 1.0) * (number > self._traits.ducts))

    def _white(
        self, band: _Band, idc: np.ndarray, outline: np.ndarray, fibres: np.ndarray
    ) -> np.ndarray:
        """Return fat cells, clefts between fibres, and the glass around the tissue."""
        _, interior, number = self._fat_cells.band(*band)
        fat = self._fat.band(*band) + 1.5 * (number - 0.5) - 1.2 * idc
        vacuoles = interior * (fat > self._traits.fat)
        clefts = 0.9 * _ramp(-fibres - 2.3 - 0.5 * idc, 3.0)
        glass = _ramp(self._outside.band(*band) + 0.12 * outline, 12.0)
        return np.asarray(np.maximum(np.maximum(vacuoles, clefts), glass))


def _cells_beyond_outline(layout: Layout) -> np.ndarray:
    """Return how far each cell's middle lies beyond the tissue's outline, in cells."""
    of_tissue = layout.outside[layout.tissue]
    outline = max(np.quantile(of_tissue, 1 - _OUTER_SHARE), of_tissue.max() - _OUTER_CELLS)
    return np.asarray(layout.outside - outline)


def _cells_within_idc(layout: Layout) -> np.ndarray:
    """Return about how far each cell's middle lies within the region of IDC, in cells."""
    if not layout.idc.any():
        return np.full(layout.idc.shape, -float(layout.side))
    slope = np.mean([np.abs(np.diff(layout.malignancy, axis=axis)).mean() for axis in (0, 1)])
    return np.asarray((layout.malignancy - layout.malignancy[layout.idc].min()) / slope)


def _take_up_stain(
    rng: np.random.Generator, parts: _Parts, traits: _Traits
) -> tuple[np.ndarray, np.ndarray]:
    """Return the amounts of haematoxylin and eosin, float32 (rows, columns) each."""
    between_nests = parts.idc * (1 - parts.epithelium)
    small = 0.005 + 0.008 * between_nests + 0.22 * parts.acini + 0.20 * parts.lymphocytes
    large = traits.crowding * parts.epithelium + 0.075 * parts.ducts
    nuclei = _scatter_nuclei(rng, small * parts.solid, sigma_px=0.65, strength=2.4)
    nuclei += _scatter_nuclei(rng, large * parts.solid, sigma_px=0.95, strength=4.2)
    cytoplasm = traits.basophilia * parts.epithelium + 0.3 * (parts.ducts + parts.lymphocytes)
    amount = parts.solid * parts.shade
    haematoxylin = amount * (np.minimum(nuclei, 1.7) + cytoplasm + 0.2 * parts.lobules)
    eosin = amount * parts.stroma * (1 - 0.3 * np.minimum(nuclei, 1))
    eosin *= (1 - 0.35 * parts.epithelium) * (1 + _GRAIN * white_noise(rng, eosin.shape))
    return haematoxylin, eosin


def _scatter_nuclei(
    rng: np.random.Generator, density: np.ndarray, *, sigma_px: float, strength: float
) -> np.ndarray:
    """Scatter nuclei at a density per pixel and return them blurred, float32."""
    limit = density * np.float32(2**16)
    nuclei = (rng.integers(0, 2**16, density.shape, np.uint16) < limit).astype(np.float32)
    nuclei *= np.float32(strength)
    return np.asarray(cv2.GaussianBlur(nuclei, (0, 0), sigma_px))


def _ramp(values: np.ndarray, steepness: float) -> np.ndarray:
    """Return 0 for low values, 1 for high ones and a straight line around 0."""
    return np.asarray(np.clip(np.float32(steepness) * values + np.float32(0.5), 0, 1))
