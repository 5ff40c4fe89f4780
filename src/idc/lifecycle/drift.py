"""New data against a model's training profile: stain, colour, class share, embedding.

Shifts are differences of means in standard deviations of single training patches (Cohen's d with
the training spread), so one limit serves all. The embedding's shift is the root mean square of the
shifts of its features: the distance of the mean new patch from the mean training patch as the model
sees them. There is no significance test: with thousands of patches of a few cases every shift would
be significant; its size is what matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from idc.core.config import DriftConfig
from idc.data.patches import evenly_spaced_rows
from idc.data.split.profile import measure_stain

_MAX_MEASURED = 20_000
_NUM_EMBEDDED = 1000  # new patches, and as many old ones: the standard error is 1/32 of an SD
_MAX_NAMED = 20


@dataclass(frozen=True)
class ModelView:
    """How a model embeds patches, and embedded those it was trained on."""

    embed: Callable[[np.ndarray], np.ndarray]
    """Rows of today's pixel store -> float32 (rows, features)."""
    mean_embedding: np.ndarray
    """Of the training patches, (features,)."""
    num_training_patches: Sequence[int]
    """Of IDC- and of IDC+, whose shares new patches are embedded in."""


def measure_drift(
    profile: dict[str, Any],
    index: pd.DataFrame,
    pixels: np.ndarray,
    view: ModelView,
    config: DriftConfig,
) -> dict[str, Any]:
    """Compare the patches of new and changed cases with the profile.

    Args:
        profile: As `idc.data.split.profile.build_profile` returns it.
        index: Today's, following `idc.data.tables.INDEX_SCHEMA`.
        pixels: Today's pixel store.
        view: The model's embedding.
        config: Limits.

    Returns:
        `num_new_cases`, `new_cases` (the first twenty), `num_changed_cases`,
        `num_missing_cases`, `num_patches` (of new and changed cases); and if there are any,
        `idc_share`, `statistics` and `embedding`, each figure with `drifted`; `drifted`: the names
        of all figures beyond their limit.
    """
    counts = index["case"].value_counts()
    known = pd.Series(profile["num_patches"], dtype="int64")
    new = sorted(set(counts.index) - set(known.index))
    changed = sorted(case for case in counts.index if case in known and counts[case] != known[case])
    rows = np.flatnonzero(index["case"].isin([*new, *changed]).to_numpy())
    report: dict[str, Any] = {
        "num_new_cases": len(new),
        "new_cases": new[:_MAX_NAMED],
        "num_changed_cases": len(changed),
        "num_missing_cases": len(set(known.index) - set(counts.index)),
        "num_patches": len(rows),
        "drifted": [],
    }
    if len(rows) == 0:
        return report
    label = index["label"].to_numpy()
    figures = {
        "idc_share": _compare_shares(profile["idc_share"], float(label[rows].mean()), config),
        **_compare_statistics(profile["statistics"], pixels, rows, config),
        "embedding": _compare_embeddings(
            label, rows, np.flatnonzero(index["case"].isin(profile["train_cases"]).to_numpy()),
            view, config,
        ),
    }  # fmt: skip
    report["figures"] = figures
    report["drifted"] = [name for name, figure in figures.items() if figure["drifted"]]
    return report


def _compare_shares(before: float, now: float, config: DriftConfig) -> dict[str, Any]:
    drifted = abs(now - before) > config.max_share_difference
    return {"training": before, "new": now, "difference": now - before, "drifted": drifted}


def _compare_statistics(
    statistics: dict[str, dict[str, float]],
    pixels: np.ndarray,
    rows: np.ndarray,
    config: DriftConfig,
) -> dict[str, dict[str, Any]]:
    means = measure_stain(pixels, evenly_spaced_rows(rows, _MAX_MEASURED)).mean()
    figures = {}
    for name, of_training in statistics.items():
        now = float(means[name])
        shift = (now - of_training["mean"]) / of_training["sd"] if of_training["sd"] else 0.0
        figures[name] = {
            "training": of_training["mean"],
            "new": now,
            "shift": shift,
            "drifted": abs(shift) > config.max_shift,
        }
    return figures


def _compare_embeddings(
    label: np.ndarray,
    new_rows: np.ndarray,
    training_rows: np.ndarray,
    view: ModelView,
    config: DriftConfig,
) -> dict[str, Any]:
    if len(training_rows) < 2:
        return {"drifted": False, "reason": "no training case is in the archive: no spread known"}
    new, of_training = (
        view.embed(_in_shares(rows, label, view.num_training_patches, _NUM_EMBEDDED)).astype(
            np.float64
        )
        for rows in (new_rows, training_rows)
    )
    spread = of_training.std(axis=0)
    alive = spread > 0
    shift = (new.mean(axis=0) - view.mean_embedding)[alive] / spread[alive]
    distance = float(np.sqrt(np.mean(shift**2))) if alive.any() else 0.0
    return {"shift": distance, "drifted": distance > config.max_shift}


def _in_shares(
    rows: np.ndarray, label: np.ndarray, num_training_patches: Sequence[int], number: int
) -> np.ndarray:
    """Take patches in the class shares of training: another mixture would itself be a shift."""
    total = sum(num_training_patches)
    by_class = [rows[label[rows] == value] for value in (0, 1)]
    shares = [count / total for count in num_training_patches]
    fit = min(
        len(of_class) / share for of_class, share in zip(by_class, shares, strict=True) if share
    )
    if fit < 1:  # a class is missing: use all patches there are
        return evenly_spaced_rows(rows, number)
    number = int(min(number, fit))
    parts = [
        evenly_spaced_rows(of_class, max(1, int(number * share)))
        for of_class, share in zip(by_class, shares, strict=True)
        if share
    ]
    return np.sort(np.concatenate(parts))
