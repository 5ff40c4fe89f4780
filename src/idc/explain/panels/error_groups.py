"""What errors have in common: neighbours in embedding space, with their traits and examples.

False positives and false negatives are grouped apart, by Ward's method (1963) on the backbones' own
embeddings: what lies close there looks alike to them. Each backbone's part is scaled to unit mean
square, so that the widest does not decide alone. The number of groups, 2 to 5, is the one with the
best silhouette (Rousseeuw 1987), so nothing is drawn by chance; few errors are one group.
"""

from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_score

from idc.evaluation.cases.context import distance_to_border

KINDS = {"fp": "IDC-, predicted IDC+", "fn": "IDC+, predicted IDC-"}
"""Kinds of errors, and how they read."""

_TRAITS = ("y_score", "burden", "mean_optical_density", "white_share")
_MAX_GROUPS = 5
_MIN_PER_GROUP = 4  # on average: fewer errors than two such groups are not divided
_CELL_PX = 100
_GAP_PX = 6
_HEAD_PX = 40
_TEXT_PX = 230


def find_errors(test: pd.DataFrame, *, max_errors: int) -> pd.DataFrame:
    """Return the most confident errors of each kind, the most confident first.

    Args:
        test: All pool patches of the test set: columns `case`, `x`, `y`, `y_true`, `y_pred`,
            `y_score`, and whatever else is to be kept.
        max_errors: At most so many of each kind.

    Returns:
        Those rows with `kind`; `burden`, the IDC+ share of the patch's case; and `is_border`,
        whether it touches a patch of the other label.
    """
    place = (test[name].to_numpy() for name in ("case", "x", "y", "y_true"))
    border = distance_to_border(*place, max_distance=1)["is_border"].to_numpy()
    burden = test.groupby("case")["y_true"].transform("mean")
    described = test.assign(burden=burden, is_border=border)
    idc, called = (described[name] == 1 for name in ("y_true", "y_pred"))
    wrong = {"fp": (~idc & called, False), "fn": (idc & ~called, True)}
    parts = [
        described[chosen]
        .assign(kind=kind)
        .sort_values(["y_score", "case", "x", "y"], ascending=[rising, True, True, True])
        .head(max_errors)
        for kind, (chosen, rising) in wrong.items()
    ]
    return pd.concat(parts, ignore_index=True)


def group_errors(errors: pd.DataFrame, embeddings: list[np.ndarray]) -> pd.DataFrame:
    """Add the column `group`, numbered from 1 within each kind, the largest first.

    Args:
        errors: As `find_errors` returns them.
        embeddings: One float (errors, features) per backbone, in the same order.
    """
    if errors.empty:
        return errors.assign(group=np.zeros(0, np.int64))
    scaled = np.hstack([_scale(each) for each in embeddings])
    group = np.zeros(len(errors), np.int64)
    for kind in KINDS:
        chosen = np.flatnonzero(errors["kind"] == kind)
        if len(chosen):
            group[chosen] = _rank_by_size(_cluster(scaled[chosen]))
    return errors.assign(group=group)


def describe_groups(grouped: pd.DataFrame, colours: np.ndarray) -> list[dict[str, Any]]:
    """Return what is typical of each group, plain data in the order kind, group.

    Args:
        grouped: As `group_errors` returns them, with `mean_optical_density` and `white_share`.
        colours: Mean red, green and blue of each patch, float (errors, 3) in 0-255.

    Returns:
        Per group: `kind`, `group`, `num_patches`, `num_cases`, `largest_case` with
        `largest_case_share`, the means of `y_score`, `burden`, `mean_optical_density`,
        `white_share`, the share `touching_other_label`, and `mean_colour`.
    """
    return [
        {"kind": kind, "group": number} | _describe(part, colours[part.index])
        for kind in KINDS
        for number, (_, part) in enumerate(
            grouped[grouped["kind"] == kind].groupby("group"), start=1
        )
    ]


def draw_groups(grouped: pd.DataFrame, pixels: np.ndarray, *, num_examples: int) -> Figure:
    """Draw one kind of errors: a row per group with its strongest examples.

    Args:
        grouped: Rows of one kind, at least one, the most confident first.
        pixels: uint8 (rows, 50, 50, 3), in the same order.
        num_examples: At most so many of each group.
    """
    groups = sorted(grouped["group"].unique())
    pitch = _CELL_PX + _GAP_PX
    width = _TEXT_PX + num_examples * pitch
    sheet = np.full((len(groups) * (pitch + _HEAD_PX), width, 3), 255, np.uint8)
    figure = Figure(figsize=(sheet.shape[1] / 96, sheet.shape[0] / 96))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for row, group in enumerate(groups):
        inside = np.flatnonzero(grouped["group"] == group)
        top = row * (pitch + _HEAD_PX)
        part = grouped.iloc[inside]
        patches = _count(len(part), "patch", "patches")
        says = f"Group {group}\n{patches} of {_count(part['case'].nunique(), 'case', 'cases')}"
        axes.text(8, top + _CELL_PX / 2, says, va="center", fontsize=9)
        for column, number in enumerate(inside[:num_examples]):
            left = _TEXT_PX + column * pitch
            sheet[top : top + _CELL_PX, left : left + _CELL_PX] = cv2.resize(
                pixels[number], (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_LINEAR
            )
            patch = grouped.iloc[number]
            label = f"p = {patch['y_score']:.2f}\n{patch['case']} x{patch['x']} y{patch['y']}"
            axes.text(left, top + _CELL_PX + 3, label, va="top", fontsize=5.5)
    axes.set_xlim(0, sheet.shape[1])
    axes.set_ylim(sheet.shape[0], 0)
    axes.imshow(sheet, extent=(0, sheet.shape[1], sheet.shape[0], 0), aspect="auto")
    return figure


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _describe(group: pd.DataFrame, colours: np.ndarray) -> dict[str, Any]:
    cases, counts = np.unique(group["case"].to_numpy(str), return_counts=True)
    largest = int(counts.argmax())
    means = {name: group[name].mean() for name in _TRAITS} | {
        "touching_other_label": group["is_border"].mean()
    }
    return {
        "num_patches": len(group),
        "num_cases": len(cases),
        "largest_case": str(cases[largest]),
        "largest_case_share": round(float(counts[largest] / len(group)), 6),
        **{name: round(float(value), 6) for name, value in means.items()},
        "mean_colour": [round(float(value), 1) for value in colours.mean(axis=0)],
    }


def _scale(embedding: np.ndarray) -> np.ndarray:
    centred = embedding - embedding.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    return np.asarray(centred / max(size, 1e-12))


def _cluster(points: np.ndarray) -> np.ndarray:
    """Return the group of each point, from 0."""
    best, best_silhouette = np.zeros(len(points), np.int64), -np.inf
    for number in range(2, min(_MAX_GROUPS, len(points) // _MIN_PER_GROUP) + 1):
        found = AgglomerativeClustering(number, linkage="ward").fit_predict(points)
        silhouette = silhouette_score(points, found)
        if silhouette > best_silhouette:
            best, best_silhouette = found, silhouette
    return best


def _rank_by_size(group: np.ndarray) -> np.ndarray:
    """Number the groups from 1, the largest first; of equal ones that with the first patch."""
    names, first, counts = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(1, len(names) + 1)
    return number[np.searchsorted(names, group)]
