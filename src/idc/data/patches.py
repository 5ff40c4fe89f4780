"""The names of patches and the store that ingest makes of them.

A patch of the published archive is called `<case>_idx5_x<X>_y<Y>_class<0|1>.png`: X and Y are the
column and row of its top-left corner on the downsampled slide, in steps of 50 px.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idc.core.errors import InputError

PATCH_SIZE_PX = 50
PATCH_SHAPE = (PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
"""Height, width and RGB of one patch in the pixel store."""

FLAGS = ("sliver", "near_blank", "blank", "out_of_focus", "ink")
"""Quality flags: `sliver` by the archived size, the others by `idc.data.quality`."""


@dataclass(frozen=True, order=True)
class PatchName:
    """What the name of a patch says: case, corner in pixels, label (0 = IDC-, 1 = IDC+)."""

    case: str
    x: int
    y: int
    label: int

    def __str__(self) -> str:
        return f"{self.case}_idx5_x{self.x}_y{self.y}_class{self.label}.png"


def load_pixels(path: Path) -> np.ndarray:
    """Open the pixel store, uint8 (patches, 50, 50, 3) RGB, memory-mapped and read-only.

    Raises:
        InputError: If there is none.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro ingest`")
    pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def evenly_spaced_rows(rows: np.ndarray, number: int) -> np.ndarray:
    """Return at most so many of the rows, evenly spread over them: the same ones each time."""
    if len(rows) <= number:
        return rows
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, number).round().astype(np.int64)]
    return chosen
