"""The names of patches and the store that ingest makes of them.

A patch of the published archive is called `<case>_idx5_x<X>_y<Y>_class<0|1>.png`: X and Y are the
column and row of its top-left corner on the downsampled slide, in steps of 50 px.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from idc.errors import InputError

PATCH_SIZE_PX = 50

_NAME = re.compile(r"(?P<case>[^_/\\]+)_idx5_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[01])\.png")


@dataclass(frozen=True, order=True)
class PatchName:
    """What the name of a patch says: case, corner in pixels, label (0 = IDC-, 1 = IDC+)."""

    case: str
    x: int
    y: int
    label: int

    def __str__(self) -> str:
        return f"{self.case}_idx5_x{self.x}_y{self.y}_class{self.label}.png"


def parse_patch_name(name: str) -> PatchName:
    """Read a patch's file name.

    Example: `parse_patch_name("10253_idx5_x1001_y1051_class0.png")` is
    `PatchName("10253", 1001, 1051, 0)`.

    Raises:
        InputError: If the name is off the published grammar.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is not named <case>_idx5_x<X>_y<Y>_class<0|1>.png")
    return PatchName(match["case"], int(match["x"]), int(match["y"]), int(match["label"]))


def load_index(path: Path) -> pd.DataFrame:
    """Read the index: row i describes `pixels[i]`.

    Columns: `case` str, `x` and `y` int32 (px), `label` int8, `height_px` and `width_px` int16
    (as archived), `sha256` str (of the decoded pixels before padding), and the quality flags
    `sliver`, `near_blank`, `blank` bool.

    Raises:
        InputError: If there is none.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro ingest`")
    return pd.read_parquet(path)


def load_pixels(path: Path) -> np.ndarray:
    """Open the pixel store, uint8 (patches, 50, 50, 3) RGB, memory-mapped and read-only.

    Raises:
        InputError: If there is none.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: run `dvc repro ingest`")
    pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels
