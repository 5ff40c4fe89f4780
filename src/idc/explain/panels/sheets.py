"""Sheets of explained patches: a row per patch, the patch first, then every map over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from idc.figures.style import DPI, INK, MUTED, PALETTE

_CELL_PX = 90
_PITCH_PX = 96  # a cell and the gap behind it
_LABEL_PX = 170
_HEAD_PX = 92
_FOOT_PX = 40
_OPACITY = 0.8

Meaning = Literal["for", "against", "neither"]

COLOURS: Mapping[Meaning, str] = {"for": PALETTE[1], "against": PALETTE[0], "neither": PALETTE[2]}
_SAYS: Mapping[Meaning, str] = {
    "for": "evidence for IDC+",
    "against": "evidence against IDC+",
    "neither": "matters, for or against",
}


@dataclass(frozen=True)
class Column:
    """One method's maps of the patches of a sheet."""

    title: str
    maps: np.ndarray
    """float32 (patches, height, width); a patch whose map is NaN gets an empty cell."""
    meaning: Meaning
    """What values above 0 stand for; those below stand for evidence against IDC+."""


def draw_sheet(
    heading: str, labels: Sequence[str], pixels: np.ndarray, columns: Sequence[Column]
) -> Figure:
    """Draw a row per patch.

    Every map is scaled by itself, its 99th percentile being opaque: colours tell where, not how
    much.

    Args:
        heading: What the patches have in common.
        labels: Up to four short lines per patch.
        pixels: uint8 (patches, height, width, 3), one patch or more.
        columns: At least one.
    """
    cells = [[_enlarge(patch) for patch in pixels]]
    cells += [
        [
            _overlay(patch, heat, column.meaning)
            for patch, heat in zip(pixels, column.maps, strict=True)
        ]
        for column in columns
    ]
    mosaic = _join(cells)
    height_px, width_px = mosaic.shape[:2]
    figure = Figure(figsize=((width_px + _LABEL_PX) / DPI, (height_px + _HEAD_PX + _FOOT_PX) / DPI))
    # one picture of the whole sheet: hundreds of small axes would take a minute to lay out
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.imshow(mosaic, extent=(0, width_px, height_px, 0), interpolation="nearest")
    axes.set_xlim(-_LABEL_PX, width_px)
    axes.set_ylim(height_px + _FOOT_PX, -_HEAD_PX)
    axes.text(
        8 - _LABEL_PX, 12 - _HEAD_PX, heading, va="top", fontsize=9, fontweight="bold", color=INK
    )
    for row, label in enumerate(labels):
        middle = row * _PITCH_PX + _CELL_PX / 2
        axes.text(8 - _LABEL_PX, middle, label, va="center", fontsize=5.5, color=INK)
    colours = [INK, *(COLOURS[column.meaning] for column in columns)]
    titles = ["Patch", *(column.title for column in columns)]
    for place, (title, colour) in enumerate(zip(titles, colours, strict=True)):
        middle = place * _PITCH_PX + _CELL_PX / 2
        text = title.replace(" ", "\n", 1)
        axes.text(middle, -6, text, ha="center", va="bottom", fontsize=6, color=colour)
    _explain_colours(axes, height_px + 20, columns)
    return figure


def _explain_colours(axes: Axes, y: float, columns: Sequence[Column]) -> None:
    shown = {column.meaning for column in columns}
    if any((column.maps < 0).any() for column in columns):
        shown.add("against")
    texts = [(text, COLOURS[meaning]) for meaning, text in _SAYS.items() if meaning in shown]
    for place, (text, colour) in enumerate([*texts, ("each map on its own scale", MUTED)]):
        x = 8 - _LABEL_PX + place * 290
        axes.text(x, y, text, va="center", fontsize=6, color=colour)


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Return (90, 90, ...)."""
    size = (_CELL_PX, _CELL_PX)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))


def _overlay(patch: np.ndarray, heat: np.ndarray, meaning: Meaning) -> np.ndarray:
    """Lay a map over a grey patch, uint8 (90, 90, 3)."""
    if np.isnan(heat).any():
        return np.full((_CELL_PX, _CELL_PX, 3), 255, np.uint8)
    grey = _enlarge(patch).mean(axis=2, keepdims=True)
    top = float(np.quantile(np.abs(heat), 0.99)) or float(np.abs(heat).max()) or 1.0
    strength = _enlarge(heat.astype(np.float32) / top)[..., None].clip(-1, 1)
    colour = np.where(
        strength < 0,
        255 * np.array(to_rgb(COLOURS["against"])),
        255 * np.array(to_rgb(COLOURS[meaning])),
    )
    opacity = _OPACITY * np.abs(strength)
    return np.asarray((1 - opacity) * grey + opacity * colour, np.uint8)


def _join(columns: list[list[np.ndarray]]) -> np.ndarray:
    """Join columns of cells to one picture with white gaps."""
    cells = np.stack([np.stack(column) for column in columns], axis=1)
    gap = _PITCH_PX - _CELL_PX
    padded = np.pad(cells, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    rows, places = padded.shape[:2]
    return padded.transpose(0, 2, 1, 3, 4).reshape(rows * _PITCH_PX, places * _PITCH_PX, 3)
