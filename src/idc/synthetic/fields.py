"""Random fields per pixel, computed a band of rows at a time so that no slide fills the memory."""

import cv2
import numpy as np
from scipy.special import ndtri

_NODES_PER_SIGMA = 2.0  # a smooth field is drawn on a grid no finer than it needs
_STRAND_STEP_PX = 4  # along a strand little changes from pixel to pixel
_STRAND_LENGTH_PX = 9.0
_STRAND_WIDTH_PX = 0.8
# a random byte as a standard normal number: eight bits are enough for a few grey levels of noise
_NORMAL_OF_BYTE = ndtri((np.arange(256) + 0.5) / 256).astype(np.float32)


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw independent float32 numbers of mean 0 and SD 1."""
    return np.asarray(cv2.LUT(rng.integers(0, 256, shape, np.uint8), _NORMAL_OF_BYTE))


def smooth_nodes(rng: np.random.Generator, side: int, sigma: float) -> np.ndarray:
    """Draw float32 (side, side) of mean 0 and SD 1, correlated within about `sigma` nodes."""
    margin = int(np.ceil(3 * sigma))  # cut off: the blur mirrors what lies at the border
    noise = rng.standard_normal((side + 2 * margin, side + 2 * margin), dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma)[margin:-margin, margin:-margin]
    # white noise blurred by a Gaussian keeps 1 / (2 sigma sqrt(pi)) of its SD
    return np.asarray(blurred * np.float32(2 * sigma * np.sqrt(np.pi)))


def smooth_field(rng: np.random.Generator, size_px: int, sigma_px: float) -> "PixelField":
    """Draw a field of mean 0 and SD 1 over a slide, correlated within about `sigma_px`."""
    step_px = max(1.0, sigma_px / _NODES_PER_SIGMA)
    nodes = smooth_nodes(rng, int(np.ceil(size_px / step_px)), sigma_px / step_px)
    return PixelField(nodes, size_px)


class PixelField:
    """A coarse grid of nodes laid over a square of pixels, interpolated between the nodes.

    Rows are interpolated once, columns when a band is requested: all bands belong to one surface,
    and nothing as large as the slide is kept in memory.
    """

    def __init__(self, nodes: np.ndarray, size_px: int) -> None:
        self._size_px = size_px
        self._tall = cv2.resize(
            np.asarray(nodes, np.float32), (nodes.shape[1], size_px), interpolation=cv2.INTER_CUBIC
        )

    def band(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the values of these pixels, float32 (rows, columns)."""
        tall = self._tall[rows]
        wide = cv2.resize(tall, (self._size_px, len(tall)), interpolation=cv2.INTER_LINEAR)
        return np.asarray(wide[:, columns])


class Fibres:
    """Wavy strands of mean about 0 and SD about 1, like collagen."""

    def __init__(
        self, rng: np.random.Generator, size_px: int, *, wave_px: float, wave_sigma_px: float
    ) -> None:
        num_nodes = int(np.ceil(size_px / _STRAND_STEP_PX))
        noise = rng.standard_normal((size_px, num_nodes), dtype=np.float32)
        sigma = _STRAND_LENGTH_PX / _STRAND_STEP_PX
        strands = cv2.GaussianBlur(noise, (0, 0), sigma, sigmaY=_STRAND_WIDTH_PX)
        self._strands = strands / strands.std()
        self._wave = smooth_field(rng, size_px, wave_sigma_px)
        self._wave_px = np.float32(wave_px)
        self._upright = rng.random() < 0.5

    def band(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the strands of these pixels, float32 (rows, columns)."""
        down, right = np.mgrid[rows, columns].astype(np.float32)
        along, across = (down, right) if self._upright else (right, down)
        across += self._wave_px * self._wave.band(rows, columns)
        along /= _STRAND_STEP_PX
        bent = cv2.remap(self._strands, along, across, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT)
        return np.asarray(bent)


class Mosaic:
    """Polygons around scattered points, drawn once on a tile that is repeated over the slide."""

    def __init__(self, rng: np.random.Generator, *, pitch_px: int, tile_px: int) -> None:
        margin = round(1.5 * pitch_px)  # no pixel is farther from its point
        points = np.pad(_scatter_points(rng, pitch_px, tile_px), margin, mode="wrap")
        distance, polygon = cv2.distanceTransformWithLabels(
            points, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        number = rng.random(int(polygon.max()) + 1, dtype=np.float32)[polygon]
        border = np.zeros(points.shape, np.float32)
        border[:-1] = polygon[:-1] != polygon[1:]
        border[:, :-1][polygon[:, :-1] != polygon[:, 1:]] = 1
        membrane = np.minimum(1.35 * cv2.GaussianBlur(border, (0, 0), 0.6), 1)
        tile = np.stack([distance, 1 - membrane, number], axis=-1)
        self._tile = tile[margin:-margin, margin:-margin]

    def band(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return three properties of these pixels, float32 (rows, columns) each.

        Returns:
            Distance to the polygon's point in px; 1 inside the polygon and down to 0 on its
            border; a random number of the polygon, 0-1.
        """
        down = np.arange(rows.start, rows.stop) % len(self._tile)
        right = np.arange(columns.start, columns.stop) % len(self._tile)
        distance, interior, number = cv2.split(self._tile[down][:, right])
        return distance, interior, number


def _scatter_points(rng: np.random.Generator, pitch_px: int, tile_px: int) -> np.ndarray:
    """Return uint8 (tile, tile), 0 at points scattered about `pitch_px` apart and 1 elsewhere."""
    count = round(tile_px / pitch_px)
    places = np.mgrid[:count, :count].reshape(2, -1) + rng.uniform(0.1, 0.9, (2, count**2))
    rows, columns = (places * (tile_px / count)).astype(int)
    points = np.ones((tile_px, tile_px), np.uint8)
    points[rows, columns] = 0
    return points
