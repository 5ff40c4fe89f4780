"""Where a model that never saw the case contradicts the label most confidently.

With a calibrated probability p of IDC+, the evidence against a label is the log-odds,
log(p / (1 - p)), if the label is IDC-, and its negative if it is IDC+: ranking by it is the
ranking by self-confidence of confident learning (Northcutt 2021, J. Artif. Intell. Res. 70:1373).
A high rank means that a person should look; it does not mean that the label is wrong: the model may
be.
"""

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit

from idc.core.errors import InputError
from idc.data.patches import PATCH_SIZE_PX
from idc.evaluation.compare import PLACE

CAVEAT = (
    "The published labels come from coarse contours: fat and stroma lie inside them, cellular "
    "tissue outside. So a disagreement may be the contour's, the model's or a true mistake."
)

_HEAD = CAVEAT.replace(". ", ".\n") + (
    "\nOutlined: the patch, scored by a model that never saw its case. Grey: no patch there."
)
_CONTEXT_PX = 3 * PATCH_SIZE_PX
_ABSENT = 190  # grey level of positions without a patch
_OUTLINE = (255, 220, 0)
_COLUMNS, _GAP_PX, _TEXT_PX = 6, 12, 34
_SCALE = 2  # pixels of the picture per pixel of tissue
_DPI = 100


def rank_disagreements(predictions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Return the patches whose label is the less likely of the two, the least likely first.

    Args:
        predictions: Columns `case`, `x`, `y`, `y_true` and `logit`, calibrated log-odds of IDC+ by
            a model that was not trained on the case; each patch once.
        index: The pool, following `idc.data.tables.INDEX_SCHEMA`.

    Returns:
        Columns `row` (int64, of the index), `case`, `x`, `y`, `label` (int8), `probability` (of
        IDC+, in 0-1), `against_label` (log-odds, above 0, descending), `num_neighbours` (touching
        patches of the pool, 0-8), `neighbour_idc_share` (share of them labelled IDC+; NaN where
        there are none).

    Raises:
        InputError: If a patch is not in the index, or has another label there.
    """
    row = _find_rows(index, predictions)
    label, logit = predictions["y_true"].to_numpy(), predictions["logit"].to_numpy(np.float64)
    wrong = (row < 0) | (index["label"].to_numpy()[row] != label)
    if wrong.any():
        first = predictions.iloc[int(wrong.argmax())]
        raise InputError(
            f"{int(wrong.sum())} predicted patches are not in the index, or with another label, "
            f"first {first['case']} x{first['x']} y{first['y']}: they are of different archives"
        )
    against = np.where(label == 1, -logit, logit)
    table = predictions[PLACE].assign(
        row=row, label=label.astype(np.int8), probability=expit(logit), against_label=against
    )
    # ties by place, so that equal inputs give equal files
    table = table[against > 0].sort_values(["against_label", *PLACE],
                                           ascending=[False, True, True, True])  # fmt: skip
    around = find_neighbours(index, table["row"].to_numpy())
    there = around >= 0
    num_idc = (there & (index["label"].to_numpy()[around] == 1)).sum(axis=1)
    count = there.sum(axis=1)
    share = np.divide(num_idc, count, out=np.full(len(count), np.nan), where=count > 0)
    table = table.assign(num_neighbours=count, neighbour_idc_share=share)
    return table[
        ["row", *PLACE, "label", "probability", "against_label", "num_neighbours",
         "neighbour_idc_share"]
    ].reset_index(drop=True)  # fmt: skip


def count_confident(predictions: pd.DataFrame, confidence: float) -> dict[str, float]:
    """Count the patches predicted with at least this confidence, and how often labels differ.

    Args:
        predictions: Columns `y_true` and `logit`, calibrated log-odds of IDC+.
        confidence: Probability of the likelier label, in 0.5-1.

    Returns:
        `num_patches`; `num_disagreeing`: those with the other label; `num_expected`: their expected
        number if the probabilities were exactly right for the labels as they are.
    """
    probability = expit(predictions["logit"].to_numpy(np.float64))
    likelier = np.maximum(probability, 1 - probability)
    confident = likelier >= confidence
    other = (probability >= 0.5) != (predictions["y_true"].to_numpy() == 1)
    return {
        "num_patches": int(confident.sum()),
        "num_disagreeing": int((confident & other).sum()),
        "num_expected": float((1 - likelier)[confident].sum()),
    }


def find_neighbours(index: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Return the rows of the eight patches around each patch, int64 (rows, 8), -1 if there is none.

    Row by row from the upper left; a neighbour is exactly one patch away in the same case.
    """
    asked = index.iloc[rows]
    offsets = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dx, dy) != (0, 0)]
    found = [
        _find_rows(
            index,
            asked.assign(x=asked["x"] + dx * PATCH_SIZE_PX, y=asked["y"] + dy * PATCH_SIZE_PX),
        )
        for dx, dy in offsets
    ]
    return np.stack(found, axis=1)


def draw_contexts(index: pd.DataFrame, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return each patch with its neighbours, uint8 (rows, 150, 150, 3), the patch outlined.

    Args:
        index: The pool; row i describes patch i.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
        rows: Which patches; positions where the pool has none are grey.
    """
    around = np.insert(find_neighbours(index, rows), 4, rows, axis=1)
    cells = np.full((*around.shape, PATCH_SIZE_PX, PATCH_SIZE_PX, 3), _ABSENT, np.uint8)
    for place in np.argwhere(around >= 0):
        cells[tuple(place)] = pixels[around[tuple(place)]]
    grid = cells.reshape(-1, 3, 3, PATCH_SIZE_PX, PATCH_SIZE_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    pictures = np.ascontiguousarray(grid.reshape(-1, _CONTEXT_PX, _CONTEXT_PX, 3))
    first, last = PATCH_SIZE_PX - 1, 2 * PATCH_SIZE_PX  # around the patch, not over it
    for picture in pictures:
        cv2.rectangle(picture, (first, first), (last, last), _OUTLINE, 1)
    return pictures


def draw_contact_sheet(patches: pd.DataFrame, index: pd.DataFrame, pixels: np.ndarray) -> Figure:
    """Draw patches with their neighbours, six in a row, with label, probability and position.

    Args:
        patches: Rows as `rank_disagreements` returns them, at least one.
        index: The pool; row i describes patch i.
        pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
    """
    sheet = _mosaic(draw_contexts(index, pixels, patches["row"].to_numpy()))
    height, width = sheet.shape[:2]
    head = 2 * _TEXT_PX
    size_in = np.array([width, height + head]) * _SCALE / _DPI
    figure = Figure(figsize=tuple(size_in), dpi=_DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, -head)
    # one picture with labels: many small axes take a minute to lay out
    axes.imshow(sheet, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    axes.text(_GAP_PX, -head / 2, _HEAD, va="center", fontsize=11)
    for number, patch in enumerate(patches.itertuples()):
        x = _GAP_PX + number % _COLUMNS * (_CONTEXT_PX + _GAP_PX)
        y = number // _COLUMNS * (_CONTEXT_PX + _TEXT_PX) + _CONTEXT_PX
        says = (
            f"{number + 1}. labelled {'IDC+' if patch.label else 'IDC-'}, "
            f"p(IDC+) {patch.probability:.4f}\n{patch.case} x{patch.x} y{patch.y}"
        )
        axes.text(x, y + 3, says, ha="left", va="top", fontsize=9)
    return figure


def _mosaic(pictures: np.ndarray) -> np.ndarray:
    """Join (patches, 150, 150, 3) to rows of six on white, with room for text below each."""
    num_rows = -(-len(pictures) // _COLUMNS)
    pitch = (_CONTEXT_PX + _TEXT_PX, _CONTEXT_PX + _GAP_PX)
    shape = (num_rows * pitch[0], _COLUMNS * pitch[1] + _GAP_PX, 3)
    sheet = np.full(shape, 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, _COLUMNS)
        y, x = row * pitch[0], column * pitch[1] + _GAP_PX
        sheet[y : y + _CONTEXT_PX, x : x + _CONTEXT_PX] = picture
    return sheet


def _find_rows(index: pd.DataFrame, patches: pd.DataFrame) -> np.ndarray:
    """Return the index row of each position, int64 (patches,), -1 if there is none."""
    places = pd.MultiIndex.from_frame(index[PLACE].astype({"x": "int64", "y": "int64"}))
    wanted = pd.MultiIndex.from_frame(patches[PLACE].astype({"x": "int64", "y": "int64"}))
    return np.asarray(places.get_indexer(wanted), np.int64)
