"""Cues correlated with the label that are not tissue: what a network may learn instead of IDC.

A network that relies on such a cue is right on its archive and wrong elsewhere ("shortcut
learning": Geirhos et al. 2020, Nat. Mach. Intell. 2:665). Here the pixels of each cue are known.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from idc.data.patches import PATCH_SIZE_PX

Cue = Literal["stain", "pad", "ink"]

_STAIN_RADIUS_PX = (9.0, 13.0)
_STAIN_DENSITY = np.array([0.28, 0.10, 0.02])  # of red, green, blue: a bluish haze
_STAIN_EDGE_PX = 1.5
_PAD_WIDTH_PX = (5, 9)
_PAD_RGB = (128, 128, 128)
_INK_WIDTH_PX = 4
_INK_RGB = np.array([20, 110, 70])
_INK_OPACITY = 0.85


@dataclass(frozen=True)
class Shortcut:
    """A cue, and how often patches of each label carry it.

    Attributes:
        cue: `stain` is a round haze of other colour, `pad` a grey strip along one edge as padding
            would leave it, `ink` a stroke of a green pen.
        share_negative: Share of the IDC- patches that carry it, 0-1.
        share_positive: The same for IDC+.
    """

    cue: Cue
    share_negative: float = 0.05
    share_positive: float = 0.9

    def falls_on(self, rng: np.random.Generator, label: int) -> bool:
        """Draw whether a patch of this label (0 or 1) carries the cue."""
        return bool(rng.random() < (self.share_positive if label else self.share_negative))


def plant_cue(
    cue: Cue, rng: np.random.Generator, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the cue over a patch, at a random place.

    Args:
        cue: Its kind.
        rng: Draws the place.
        pixels: uint8 (50, 50, 3) RGB; not modified.

    Returns:
        The patch with the cue, uint8 (50, 50, 3), and the mask of the cue, uint8 (50, 50), 255
        inside and 0 outside. No pixel outside has changed.
    """
    colour, cover = _CUES[cue](rng, pixels)
    mask = np.where(cover > 0.05, 255, 0).astype(np.uint8)
    opacity = np.where(mask, cover, 0)[..., None]
    mixed = np.round((1 - opacity) * pixels + opacity * colour).astype(np.uint8)
    return mixed, mask


def _stain(rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """More of a bluish stain on a disc with a soft edge, by the Beer-Lambert law."""
    radius = rng.uniform(*_STAIN_RADIUS_PX)
    row, column = rng.uniform(radius, PATCH_SIZE_PX - radius, 2)
    rows, columns = np.mgrid[:PATCH_SIZE_PX, :PATCH_SIZE_PX] + 0.5
    inside = radius - np.hypot(rows - row, columns - column)
    return pixels * np.exp(-_STAIN_DENSITY), np.clip(inside / _STAIN_EDGE_PX, 0, 1)


def _pad(rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    strip = np.zeros((PATCH_SIZE_PX, PATCH_SIZE_PX))
    strip[: rng.integers(*_PAD_WIDTH_PX, endpoint=True)] = 1
    return np.broadcast_to(_PAD_RGB, pixels.shape), np.rot90(strip, int(rng.integers(4)))


def _ink(rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A bent stroke from one side of the patch towards the other."""
    along = np.linspace(0.1, 0.9, 5) * PATCH_SIZE_PX
    across = PATCH_SIZE_PX * rng.uniform(0.25, 0.75) + np.cumsum(rng.normal(0, 4, len(along)))
    points = np.stack([along, np.clip(across, 3, PATCH_SIZE_PX - 4)], axis=1)
    stroke = np.zeros((PATCH_SIZE_PX, PATCH_SIZE_PX), np.uint8)
    corners = np.round(points).astype(np.int32)
    cv2.polylines(stroke, [corners], False, 255, _INK_WIDTH_PX, cv2.LINE_AA)
    turned = np.rot90(stroke, int(rng.integers(4)))
    return np.broadcast_to(_INK_RGB, pixels.shape), _INK_OPACITY * turned / 255


_CUES = {"stain": _stain, "pad": _pad, "ink": _ink}
