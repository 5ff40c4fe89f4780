"""By how much a split by patch inflates metrics: the same recipe, split by case and by patch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from idc.experiments.cross_validation import Runner, Setting, cross_validate, sample_pool
from idc.experiments.folds import (
    CAP_PATCHES,
    CAPS,
    RESULTS,
    SplitUnit,
    check_name,
    check_overrides,
    choose_folds,
)
from idc.experiments.results import compare_results, read_figures
from idc.experiments.tables import format_counts, format_estimate, save_page
from idc.experiments.training_sets import Pool, largest_equal_size

WAYS: tuple[SplitUnit, ...] = get_args(SplitUnit)


def measure_optimism(root: Path, setting: Setting, runner: Runner) -> Path:
    """Run the same recipe with whole cases and with single patches assigned to the folds.

    Writes `optimism.md` in `reports/experiments/<name>/`; the two results are in folders there.

    Args:
        root: The project.
        setting: The recipe; every fold is run, so that both ways test the same patches.
        runner: What runs the stages.

    Returns:
        The path of `optimism.md`.

    Raises:
        InputError: If the setting is invalid, or a subset of some fold lacks a class.
        StageFailedError: If an input is missing or a stage fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    check_name(setting.name)
    check_overrides(root, setting.overrides, also_set=CAPS)
    choose_folds(setting.num_folds, None)
    pool = sample_pool(root, setting.name, setting.overrides, runner)
    size = equal_training_size(pool, setting.num_folds)
    for split_unit in WAYS:
        way = replace(
            setting,
            name=f"{setting.name}/{split_unit}",
            overrides={**setting.overrides, CAP_PATCHES: size},
            only=None,
            split_unit=split_unit,
        )
        cross_validate(root, way, runner)
    write_optimism(root, setting.name)
    return root / RESULTS / setting.name / "optimism.md"


def equal_training_size(pool: Pool, num_folds: int) -> int:
    """Return the largest number of training patches, half per class, that all folds can have.

    Raises:
        InputError: If a subset of some fold lacks a class.
    """
    return largest_equal_size(
        pool.training_set(split_unit, num_folds, fold)
        for split_unit in WAYS
        for fold in range(num_folds)
    )


def write_optimism(root: Path, name: str) -> None:
    """Write `optimism.json` and `optimism.md` from the results `<name>/case` and `<name>/patch`.

    Raises:
        InputError: If a result is missing, or they are of different patches.
    """
    content = describe_optimism(root, name)
    page = format_optimism(name, content)
    save_page(root / RESULTS / name, "optimism", content, page)


def describe_optimism(root: Path, name: str) -> dict[str, Any]:
    """Return the content of `optimism.json`.

    `num_patches`, `num_cases` (tested), `num_folds`; `split_unit`: for `case` and `patch`, `auroc`
    and `balanced_accuracy` (value, low, high), `mean_fold_auroc`, `num_training_patches` and
    `num_training_cases` (by fold), `share_touching_train` (0-1, of the tested patches); `optimism`:
    patch minus case by metric (value, low, high); `others`: the same for AUROC of each other
    scoring (members, baselines) by name: `case`, `patch`, `optimism`.

    Raises:
        InputError: If a result is missing, or they are of different patches.
    """
    figures = {split_unit: read_figures(root, f"{name}/{split_unit}") for split_unit in WAYS}
    # the folds necessarily differ: that difference is what is measured
    optimism = compare_results(root, f"{name}/patch", f"{name}/case", same_folds=False)
    return {
        "num_patches": figures["case"]["num_patches"],
        "num_cases": figures["case"]["num_cases"],
        "num_folds": len(figures["case"]["folds"]),
        "split_unit": {split_unit: _describe_way(figures[split_unit]) for split_unit in WAYS},
        "optimism": optimism,
        "others": {
            scoring: {split_unit: figures[split_unit]["others"][scoring] for split_unit in WAYS}
            | {"optimism": _optimism_of(root, name, scoring)}
            for scoring in figures["case"]["others"]
            if scoring in figures["patch"]["others"]
        },
    }


def format_optimism(name: str, content: Mapping[str, Any]) -> str:
    """Return the Markdown page, from the content of `optimism.json`."""
    ways = [content["split_unit"][split_unit] for split_unit in WAYS]
    rows = {
        "AUROC": [format_estimate(way["auroc"]) for way in ways],
        "balanced accuracy": [format_estimate(way["balanced_accuracy"]) for way in ways],
        "mean of the folds' own AUROCs": [f"{way['mean_fold_auroc']:.3f}" for way in ways],
        "training patches of a fold": [format_counts(way["num_training_patches"]) for way in ways],
        "cases they come from": [format_counts(way["num_training_cases"]) for way in ways],
        "tested patches that touch a training patch": [
            f"{100 * way['share_touching_train']:.1f} %" for way in ways
        ],
    }
    gap = {key: format_estimate(estimate, "+") for key, estimate in content["optimism"].items()}
    lines = [
        f"# Optimism `{name}`",
        "",
        f"**A split by patch inflates AUROC by {gap['auroc']}, balanced accuracy by "
        f"{gap['balanced_accuracy']}.**",
        "",
        f"The same recipe and the same {content['num_patches']:,} patches of "
        f"{content['num_cases']} cases, each scored once out of {content['num_folds']} folds, from "
        "equally many training patches, half per class; only what is assigned to the folds "
        "differs. Intervals are 95 % by case bootstrap, those of the difference paired (the same "
        "cases drawn for both). One training seed.",
        "",
        "| | whole cases assigned | single patches assigned |",
        "|---|---|---|",
        *(f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()),
    ]
    if content["others"]:
        lines += [
            "",
            "What else scored the same patches, learnt from the same training sets (AUROC):",
            "",
            "| | whole cases assigned | single patches assigned | inflated by |",
            "|---|---|---|---|",
            *(_format_other(scoring, other) for scoring, other in content["others"].items()),
        ]
    return "\n".join(lines) + "\n"


def _optimism_of(root: Path, name: str, scoring: str) -> dict[str, float]:
    differences = compare_results(
        root, f"{name}/patch", f"{name}/case", same_folds=False, scoring=scoring
    )
    return differences["auroc"]


def _format_other(scoring: str, other: Mapping[str, Mapping[str, float]]) -> str:
    cells = [format_estimate(other[split_unit]) for split_unit in WAYS]
    return f"| {scoring} | {' | '.join(cells)} | {format_estimate(other['optimism'], '+')} |"


def _describe_way(figures: Mapping[str, Any]) -> dict[str, Any]:
    folds = figures["folds"]
    touching = [fold["share_touching_train"] for fold in folds]
    return {
        **{key: figures[key] for key in ("auroc", "balanced_accuracy", "mean_fold_auroc")},
        "num_training_patches": [fold["num_training_patches"] for fold in folds],
        "num_training_cases": [fold["num_training_cases"] for fold in folds],
        "share_touching_train": float(
            np.average(touching, weights=[fold["num_patches"] for fold in folds])
        ),
    }
