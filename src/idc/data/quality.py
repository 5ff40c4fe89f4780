"""Quality of patches: measured on a whole chunk at once; flags are decided by stated shares.

Limits were set by eye on 25,354 public patches. Of the whole ones, `out_of_focus` there marks 42:
slide edges, blur, and two or three of flat eosin; `ink` marks 242: blue, green and black margins,
and a few very dark folds.
"""

import cv2
import numpy as np
import pandas as pd

from idc.data.patches import PATCH_SIZE_PX

_WHITE_LEVEL = 220  # a pixel whose darkest channel is above this counts as white
_NEAR_BLANK_SHARE = 0.75
_BLANK_SHARE = 0.90
_FOCUS_LIMIT = 200.0  # variance of the Laplacian of 8-bit grey; sharp tissue starts near 230
_INK_SHARE = 0.05
# haematoxylin and eosin both absorb more green than red: more green than red is no stain
_GREEN_OVER_RED = 15
_BLACK_LEVEL = 60  # no stain darkens all three channels this far
_FULL_LIGHT = 255
# level 0 would be infinitely dense: it counts as level 1
_DENSITIES = -np.log10(np.maximum(np.arange(256), 1) / _FULL_LIGHT).astype(np.float32)
_ROWS_PER_CHUNK = 2048


def flag_quality(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Judge every patch of a chunk.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, C-contiguous.

    Returns:
        bool (patches,) per flag: `near_blank` (over 75 % of the pixels white), `blank` (over
        90 %), `out_of_focus` (variance of the Laplacian of grey under 200, after Pech-Pacheco et
        al. 2000; not judged where near-blank), `ink` (at least 5 % of the pixels greener than red,
        or black).
    """
    num_patches = len(pixels)
    # one tall picture: OpenCV then works on the whole chunk in one call
    tall = pixels.reshape(num_patches * PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
    red, green, blue = cv2.split(tall)
    white = _share(_find_white(red, green, blue), num_patches)
    black = cv2.max(cv2.max(red, green), blue) < _BLACK_LEVEL
    marked = _share(black | (cv2.subtract(green, red) > _GREEN_OVER_RED), num_patches)
    near_blank = white > _NEAR_BLANK_SHARE
    return {
        "near_blank": near_blank,
        "blank": white > _BLANK_SHARE,
        "out_of_focus": (_focus(tall, num_patches) < _FOCUS_LIMIT) & ~near_blank,
        "ink": marked >= _INK_SHARE,
    }


def describe_pixels(pixels: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Measure stain and white of some patches, a chunk at a time.

    Optical density is -log10(level / 255), level 0 taken as 1: by Lambert and Beer it grows with
    the amount of stain, as levels do not (Ruifrok & Johnston 2001). White pixels are left out of
    it, so that it tells how strongly tissue is stained and not how much of it there is; only where
    all pixels are white are all taken.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        rows: Which patches, int (n,), in any order.

    Returns:
        One row per entry of `rows`, in their order, float64: `mean_optical_density`, at least 0,
        over all three channels; `white_share`, in [0, 1], white as for `near_blank`.
    """
    density, white_share = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        part = slice(start, start + _ROWS_PER_CHUNK)
        chunk = np.ascontiguousarray(pixels[rows[part]])
        density[part], white_share[part] = _measure_stain(chunk)
    return pd.DataFrame({"mean_optical_density": density, "white_share": white_share})


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """Return -log10(level / 255) of every value, level 0 taken as 1; float32, at least 0.

    Args:
        pixels: uint8, any shape.
    """
    return np.asarray(_DENSITIES[pixels])


def find_white(pixels: np.ndarray) -> np.ndarray:
    """Say which pixels are white, as for `near_blank`: bool (..., height, width).

    Args:
        pixels: uint8 (..., height, width, 3) RGB.
    """
    return np.asarray(pixels.min(axis=-1) > _WHITE_LEVEL)


def _measure_stain(chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tall = chunk.reshape(-1, PATCH_SIZE_PX, 3)
    is_white = _find_white(*cv2.split(tall)).reshape(len(chunk), PATCH_SIZE_PX**2)
    num_white = np.count_nonzero(is_white, axis=1)
    counted = ~is_white | (num_white == PATCH_SIZE_PX**2)[:, np.newaxis]
    # a matrix product sums the channels of each pixel at once
    densities = cv2.LUT(tall, _DENSITIES).reshape(-1, 3) @ np.ones(3, np.float32)
    summed = np.einsum(
        "ij,ij->i", densities.reshape(counted.shape).astype(np.float64), counted.astype(np.float64)
    )
    return summed / (3 * np.count_nonzero(counted, axis=1)), num_white / PATCH_SIZE_PX**2


def _find_white(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.min(cv2.min(red, green), blue) > _WHITE_LEVEL)


def _share(mask: np.ndarray, num_patches: int) -> np.ndarray:
    flat = mask.reshape(num_patches, PATCH_SIZE_PX**2)
    return np.asarray(np.count_nonzero(flat, axis=1) / PATCH_SIZE_PX**2)


def _focus(tall: np.ndarray, num_patches: int) -> np.ndarray:
    """Return the variance of the Laplacian per patch, its border row and column left out."""
    edges = cv2.Laplacian(cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    inner = edges.reshape(num_patches, PATCH_SIZE_PX, PATCH_SIZE_PX)[:, 1:-1, 1:-1]
    flat = np.ascontiguousarray(inner).reshape(num_patches, -1)
    mean = flat.mean(axis=1)
    return np.asarray(np.einsum("ij,ij->i", flat, flat) / flat.shape[1] - mean**2)
