"""What more patches and more cases are worth: nested training sets, the same tested patches.

Two curves: all train cases with fewer patches of each, and fewer train cases. Each point of the
second has a partner on the first with the same number of patches, which separates the effect of
more cases from that of more patches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from idc.core.errors import InputError
from idc.experiments.cross_validation import Runner, Setting, cross_validate, sample_pool
from idc.experiments.folds import (
    CAP_CASES,
    CAP_PATCHES,
    CAPS,
    RESULTS,
    Overrides,
    check_name,
    check_overrides,
    choose_folds,
)
from idc.experiments.results import compare_results, read_figures
from idc.experiments.tables import format_counts, format_estimate, save_page
from idc.experiments.training_sets import Pool, largest_equal_size
from idc.figures.style import save_figure
from idc.figures.training import draw_learning_curve

FIGURE = "learning_curve.png"


@dataclass(frozen=True)
class CurvePoint:
    """A training set: a number of patches, half per class, of a number of cases (None: all)."""

    num_patches: int
    num_cases: int | None

    @property
    def name(self) -> str:
        """Return the name of the point's folder."""
        cases = "all" if self.num_cases is None else self.num_cases
        return f"patches-{self.num_patches}-cases-{cases}"

    def overrides(self) -> Overrides:
        """Return the parameters that make the point."""
        return {CAP_PATCHES: self.num_patches, CAP_CASES: self.num_cases}


@dataclass(frozen=True)
class Sizes:
    """The requested training sets."""

    num_patches: tuple[int, ...]
    """Training patches, of all train cases."""
    num_cases: tuple[int, ...] = ()
    """Train cases; each gets a partner with the same number of patches of all cases."""


def measure_learning_curve(root: Path, setting: Setting, sizes: Sizes, runner: Runner) -> Path:
    """Train on nested training sets, test all on the same patches.

    Keeps `learning_curve.md` in `reports/experiments/<name>/` up to date after each point.

    Returns:
        The path of `learning_curve.md`.

    Raises:
        InputError: If the setting is invalid, or a training set is smaller than requested.
        StageFailedError: If an input is missing or a stage fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    check_name(setting.name)
    chosen = choose_folds(setting.num_folds, setting.only)
    check_sizes(root, setting.overrides, sizes.num_patches, sizes.num_cases)
    pool = sample_pool(root, setting.name, setting.overrides, runner)
    points = choose_points(pool, setting.num_folds, chosen, sizes.num_patches, sizes.num_cases)
    for number, point in enumerate(points, start=1):
        one = replace(
            setting,
            name=f"{setting.name}/{point.name}",
            overrides={**setting.overrides, **point.overrides()},
        )
        cross_validate(root, one, runner)
        write_learning_curve(root, setting.name, points[:number])
    return root / RESULTS / setting.name / "learning_curve.md"


def check_sizes(
    root: Path, overrides: Mapping[str, Any], num_patches: Sequence[int], num_cases: Sequence[int]
) -> None:
    """Check the request as far as possible without an archive.

    Raises:
        InputError: If nothing was requested, or a number or an override breaks its rule.
    """
    check_overrides(root, overrides, also_set=CAPS)
    if not num_patches:
        raise InputError("no number of training patches was asked for: give one or more")
    asked = [CurvePoint(size, None) for size in num_patches]
    asked += [CurvePoint(num_patches[0], cases) for cases in num_cases]
    for point in asked:
        check_overrides(root, {**overrides, **point.overrides()})


def choose_points(
    pool: Pool,
    num_folds: int,
    folds: Sequence[int],
    num_patches: Sequence[int],
    num_cases: Sequence[int],
) -> list[CurvePoint]:
    """Return the points to train, the largest first.

    A point of few cases takes as many patches as they have in every fold, half per class, at most
    the largest number requested; its partner has the same number of patches of all cases.

    Args:
        pool: What will be split.
        num_folds: Folds in all.
        folds: Those that are run.
        num_patches: Requested sizes, of all train cases.
        num_cases: Requested numbers of train cases.

    Raises:
        InputError: If the training set of a fold is smaller than requested.
    """
    subsets = [pool.training_set("case", num_folds, fold) for fold in folds]
    largest, most = largest_equal_size(subsets), max(num_patches)
    if most > largest:
        raise InputError(
            f"{most} training patches were asked for, the smallest training set gives {largest}, "
            "half per class: ask for fewer, or raise sample.num_patches"
        )
    fewest = min(subset["case"].nunique() for subset in subsets)
    too_many = [cases for cases in num_cases if cases >= fewest]
    if too_many:
        raise InputError(
            f"{too_many[0]} train cases were asked for, the smallest training set has {fewest}: "
            "ask for fewer (all of them are the other curve)"
        )
    by_cases = [
        CurvePoint(min(most, _size_of_cases(pool, num_folds, folds, cases)), cases)
        for cases in sorted(set(num_cases), reverse=True)
    ]
    sizes = {*num_patches, *(point.num_patches for point in by_cases)}
    return [CurvePoint(size, None) for size in sorted(sizes, reverse=True)] + by_cases


def write_learning_curve(root: Path, name: str, points: Sequence[CurvePoint]) -> None:
    """Write `learning_curve.json`, `.md` and `.png` from the results `<name>/<point>`.

    Args:
        root: The project.
        name: Folder of the results.
        points: Those that are done, the largest first.

    Raises:
        InputError: If a result is missing, or results are of different patches or folds.
    """
    content = describe_learning_curve(root, name, points)
    page = format_learning_curve(name, content)
    folder = root / RESULTS / name
    save_figure(draw_points(content), folder / FIGURE)
    save_page(folder, "learning_curve", content, page)


def describe_learning_curve(root: Path, name: str, points: Sequence[CurvePoint]) -> dict[str, Any]:
    """Return the content of `learning_curve.json`.

    `tested` (`num_patches`, `num_cases`, `folds`); `points`: `name`, `num_patches` (of train),
    `max_cases` (null: all), `num_training_cases` (by fold), `auroc` and `balanced_accuracy` (value,
    low, high), `others` (AUROC of members and baselines by name), `against_largest`: the point
    minus the first point, by metric (value, low, high); `more_cases`: per point of few cases
    `num_cases`, `num_patches`, by metric the gain of the same number of patches of all cases
    (value, low, high), and `others`: the same for AUROC by name.

    Raises:
        InputError: If a result is missing, or they are of different patches or folds.
    """
    first = read_figures(root, f"{name}/{points[0].name}")
    done = set(points)
    partners = [(p, CurvePoint(p.num_patches, None)) for p in points if p.num_cases is not None]
    return {
        "tested": {
            "num_patches": first["num_patches"],
            "num_cases": first["num_cases"],
            "folds": [fold["fold"] for fold in first["folds"]],
        },
        "points": [_describe_point(root, name, point, points[0]) for point in points],
        "more_cases": [
            {
                "num_cases": few.num_cases,
                "num_patches": few.num_patches,
                **compare_results(root, f"{name}/{every.name}", f"{name}/{few.name}"),
                "others": _compare_others(root, f"{name}/{every.name}", f"{name}/{few.name}"),
            }
            for few, every in partners
            if every in done
        ],
    }


def format_learning_curve(name: str, content: Mapping[str, Any]) -> str:
    """Return the Markdown page, from the content of `learning_curve.json`."""
    tested = content["tested"]
    lines = [
        f"# Learning curve `{name}`",
        "",
        f"Every point is tested on the same {tested['num_patches']:,} patches of "
        f"{tested['num_cases']} cases (folds {', '.join(map(str, tested['folds']))}). Smaller "
        "training sets are the beginning of larger ones, half per class; epochs are the same, so "
        "smaller subsets also take fewer steps. Intervals are 95 % by case bootstrap over the "
        "tested cases, those of differences paired; they do not show how much another draw of "
        "train cases or another seed would change.",
        "",
        "| training patches | of cases | AUROC | balanced accuracy | AUROC against the largest |",
        "|---|---|---|---|---|",
        *(_format_point(point) for point in content["points"]),
    ]
    if content["more_cases"]:
        lines += [
            "",
            "What more cases add at equally many training patches (all train cases minus few):",
            "",
            "| training patches | few cases | AUROC | balanced accuracy |",
            "|---|---|---|---|",
            *(
                f"| {pair['num_patches']:,} | {pair['num_cases']} "
                f"| {format_estimate(pair['auroc'], '+')} "
                f"| {format_estimate(pair['balanced_accuracy'], '+')} |"
                for pair in content["more_cases"]
            ),
        ]
    others = list(content["points"][0]["others"])
    if others:
        lines += [
            "",
            "AUROC of what else scored the same patches, learnt from the same training sets:",
            "",
            f"| training patches | of cases | {' | '.join(others)} |",
            f"|---|---|{'---|' * len(others)}",
            *(_format_others(point, others) for point in content["points"]),
        ]
        lines += [
            f"| {pair['num_patches']:,} | all minus {pair['num_cases']} | "
            + " | ".join(format_estimate(pair["others"][name], "+") for name in others)
            + " |"
            for pair in content["more_cases"]
        ]
    return "\n".join([*lines, "", f"![Learning curve]({FIGURE})"]) + "\n"


def draw_points(content: Mapping[str, Any]) -> Figure:
    """Draw AUROC over the number of training patches, a line for each number of cases."""
    rows = [
        {
            "series": "all train cases" if few is None else f"{few} cases",
            "size": point["num_patches"],
            **point["auroc"],
        }
        for point in content["points"]
        for few in [point["max_cases"]]
    ]
    return draw_learning_curve(
        pd.DataFrame(rows), "Training patches, half per class", "AUROC on the tested cases"
    )


def _size_of_cases(pool: Pool, num_folds: int, folds: Sequence[int], num_cases: int) -> int:
    return largest_equal_size(
        pool.training_set("case", num_folds, fold, max_cases=num_cases) for fold in folds
    )


def _describe_point(
    root: Path, name: str, point: CurvePoint, largest: CurvePoint
) -> dict[str, Any]:
    figures = read_figures(root, f"{name}/{point.name}")
    against = None
    if point != largest:
        against = compare_results(root, f"{name}/{point.name}", f"{name}/{largest.name}")
    return {
        "name": point.name,
        "num_patches": point.num_patches,
        "max_cases": point.num_cases,
        "num_training_cases": [fold["num_training_cases"] for fold in figures["folds"]],
        "auroc": figures["auroc"],
        "balanced_accuracy": figures["balanced_accuracy"],
        "others": figures["others"],
        "against_largest": against,
    }


def _compare_others(root: Path, first: str, second: str) -> dict[str, dict[str, float]]:
    return {
        scoring: compare_results(root, first, second, scoring=scoring)["auroc"]
        for scoring in read_figures(root, first)["others"]
    }


def _format_others(point: Mapping[str, Any], names: Sequence[str]) -> str:
    cases = format_counts(point["num_training_cases"])
    cells = " | ".join(format_estimate(point["others"][name]) for name in names)
    return f"| {point['num_patches']:,} | {_all(point)}{cases} | {cells} |"


def _all(point: Mapping[str, Any]) -> str:
    return "all: " if point["max_cases"] is None else ""


def _format_point(point: Mapping[str, Any]) -> str:
    against = point["against_largest"]
    cases = format_counts(point["num_training_cases"])
    return (
        f"| {point['num_patches']:,} | {_all(point)}{cases} "
        f"| {format_estimate(point['auroc'])} | {format_estimate(point['balanced_accuracy'])} "
        f"| {'' if against is None else format_estimate(against['auroc'], '+')} |"
    )
