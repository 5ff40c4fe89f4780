"""Labels that somebody corrected, in a small file that belongs into the user's git.

They are for training alone: val, gate and test keep the archive's labels, or whoever corrects
labels after looking at a model's errors would correct the figures as well.
"""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from idc.core.errors import InputError

COLUMNS = ["case", "x", "y", "label", "reason"]

_PLACE = ["case", "x", "y"]


def load_label_overrides(path: Path, index: pd.DataFrame) -> pd.DataFrame:
    """Read the corrected labels; a file with the header alone holds none.

    Args:
        path: CSV with the columns `case`, `x`, `y` (px), `label` (0 or 1, not the archive's) and
            `reason` (any text but none).
        index: The pool, as `idc.data.tables.INDEX_SCHEMA` says.

    Returns:
        Columns `row` (int64, of the index), `label` (int8) and `reason` (str), as in the file.

    Raises:
        InputError: If the file is missing or no such table, or a line names no patch of the pool,
            one named before, a wrong label, or no reason; with the line's number.
    """
    table = _read_text(path)
    _require(path, ~table["x"].str.fullmatch(r"[0-9]{1,7}"), table, "x {x!r} is no place in px")
    _require(path, ~table["y"].str.fullmatch(r"[0-9]{1,7}"), table, "y {y!r} is no place in px")
    _require(path, ~table["label"].isin(["0", "1"]), table,
             "label {label!r} must be 0 (IDC-) or 1 (IDC+)")  # fmt: skip
    _require(path, table["reason"].str.strip() == "", table, "no reason is given: add it")
    found = table.astype({"x": "int32", "y": "int32", "label": "int8"})
    _require(path, found.duplicated(_PLACE), table, "the patch is there twice: keep one line")
    rows = pd.MultiIndex.from_frame(index[_PLACE]).get_indexer(
        pd.MultiIndex.from_frame(found[_PLACE])
    )
    _require(path, rows < 0, table, "the archive has no such patch: fix case, x or y")
    same = index["label"].to_numpy()[rows] == found["label"].to_numpy()
    _require(path, same, table, "label {label} is the archive's own: remove the line")
    return found[["label", "reason"]].assign(row=rows.astype(np.int64))[["row", "label", "reason"]]


def relabel(manifest: pd.DataFrame, overrides: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with the corrected labels; which patches it holds does not change.

    Args:
        manifest: As `idc.data.manifest.sampling.draw_manifest` returns it.
        overrides: As `load_label_overrides` returns it.
    """
    label = manifest["row"].map(overrides.set_index("row")["label"])
    return manifest.assign(label=label.fillna(manifest["label"]).astype("int8"))


def _read_text(path: Path) -> pd.DataFrame:
    try:
        # spreadsheets put a byte-order mark in front
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: restore it, or write the line {','.join(COLUMNS)} into it"
        ) from None
    except (ValueError, OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if header != COLUMNS:
        raise InputError(f"{path} must begin with the line {','.join(COLUMNS)}")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(COLUMNS):
            raise InputError(
                f"{path}: override {number} has {len(line)} fields instead of {len(COLUMNS)}: "
                "write a reason with commas in quotes"
            )
    return pd.DataFrame(lines, columns=COLUMNS, dtype=str)


def _require(path: Path, wrong: pd.Series | np.ndarray, table: pd.DataFrame, fault: str) -> None:
    places = np.flatnonzero(np.asarray(wrong))
    if len(places):
        line = table.iloc[places[0]]
        raise InputError(
            f"{path}: override {places[0] + 1} ({line['case']} x{line['x']} y{line['y']}): "
            f"{fault.format(**line)}"
        )
