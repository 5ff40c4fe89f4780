"""One case as a slide, and the patches cut from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from idc.data.patches import PATCH_SIZE_PX, PatchName
from idc.synthetic.layout import Layout, draw_layout
from idc.synthetic.real import draw_real
from idc.synthetic.texture import draw_texture

Difficulty = Literal["texture", "real"]

_DRAWINGS = {"texture": draw_texture, "real": draw_real}
# archives of `texture` may be tiny and should show slivers all the same
_MIN_SLIVERS = {"texture": 1, "real": 0}


@dataclass(frozen=True)
class Slide:
    """One drawn case.

    Attributes:
        rgb: uint8 (size, size, 3), 50 px per cell; undefined outside the cells of tissue.
        nests: uint8 (size, size), 255 inside tumour nests and 0 outside.
        layout: Where the cells have tissue and IDC.
    """

    rgb: np.ndarray
    nests: np.ndarray
    layout: Layout


def draw_slide(
    rng: np.random.Generator, num_patches: int, *, burden: float, difficulty: Difficulty
) -> Slide:
    """Draw a slide of `num_patches` cells of tissue, at least 2, `burden` (0-1) of them IDC."""
    layout = draw_layout(rng, num_patches, burden, min_slivers=_MIN_SLIVERS[difficulty])
    rgb, nests = _DRAWINGS[difficulty](rng, layout)
    return Slide(rgb, nests, layout)


def cut_patches(
    case: str, slide: Slide, labels: np.ndarray
) -> Iterator[tuple[PatchName, np.ndarray, np.ndarray]]:
    """Yield name, RGB pixels and nest mask of each cell of tissue, row by row.

    Args:
        case: The case's id.
        slide: The case's slide.
        labels: bool (side, side), the label of each cell.
    """
    layout = slide.layout
    for row, column in np.argwhere(layout.tissue).tolist():
        y, x = row * PATCH_SIZE_PX, column * PATCH_SIZE_PX
        part = np.s_[y : y + layout.height_px[row, column], x : x + layout.width_px[row, column]]
        name = PatchName(case, x + 1, y + 1, int(labels[row, column]))
        yield name, slide.rgb[part], slide.nests[part]
