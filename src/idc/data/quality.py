"""Quality flags of patches: measured on a whole chunk at once, decided by stated shares.

Limits were set by eye on 25,354 public patches. Of the whole ones, `out_of_focus` there marks 42:
slide edges, blur, and two or three of flat eosin; `ink` marks 242: blue, green and black margins,
and a few very dark folds.
"""

import cv2
import numpy as np

from idc.data.patches import PATCH_SIZE_PX

_WHITE_LEVEL = 220  # a pixel whose darkest channel is above this counts as white
_NEAR_BLANK_SHARE = 0.75
_BLANK_SHARE = 0.90
_FOCUS_LIMIT = 200.0  # variance of the Laplacian of 8-bit grey; sharp tissue starts near 230
_INK_SHARE = 0.05
# haematoxylin and eosin both absorb more green than red: more green than red is no stain
_GREEN_OVER_RED = 15
_BLACK_LEVEL = 60  # no stain darkens all three channels this far


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
    white = _share(cv2.min(cv2.min(red, green), blue) > _WHITE_LEVEL, num_patches)
    black = cv2.max(cv2.max(red, green), blue) < _BLACK_LEVEL
    marked = _share(black | (cv2.subtract(green, red) > _GREEN_OVER_RED), num_patches)
    near_blank = white > _NEAR_BLANK_SHARE
    return {
        "near_blank": near_blank,
        "blank": white > _BLANK_SHARE,
        "out_of_focus": (_focus(tall, num_patches) < _FOCUS_LIMIT) & ~near_blank,
        "ink": marked >= _INK_SHARE,
    }


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
