"""Results of cross-validations: pooling, reading and comparing them.

A *scoring file* is Parquet with one row per tested patch: `case`, `x`, `y`, `y_true` (0 or 1),
`fold` (the fold that tested it), optionally `y_pred` (0 or 1, decided on `logit`), and one column
per scoring: `logit` and `logit_*`, or else every other column of numbers, named after what scored.
A score is any finite number; a larger one means IDC+ is more likely. Scores of different folds are
in one column, so they must mean the same in each (probabilities, or logits calibrated on the fold's
val).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from idc.core.config import load_params
from idc.core.errors import InputError
from idc.core.files import load_json, replacing_file, replacing_folder, save_json
from idc.core.layout import BASELINE_SCORES, BUNDLE, LEAKAGE_REPORT, PARAMS, PREDICTIONS
from idc.data.tables import load_scores
from idc.evaluation.compare import PLACE, compare_scorings
from idc.evaluation.statistics.bootstrap import Bootstrap, Estimate
from idc.evaluation.summary import complete_patches, summarise_burden
from idc.experiments.folds import FOLDERS, RESULTS, SplitUnit
from idc.experiments.pooling import (
    CONTEXT_LOGIT,
    MAIN_LOGIT,
    Pooled,
    calibrate_cases,
    decide_pooled,
    logit_columns,
    measure_pooled,
    pool_folds,
)
from idc.figures.style import save_figure
from idc.report.pictures import draw_case_figures
from idc.runs.lineage import load_lock, recorded_md5

PREDICTIONS_FILE = "predictions.parquet"

_MINUTES = FOLDERS / ".training_minutes"  # by model digest, for models from the cache
_METRICS = ("auroc", "balanced_accuracy")
_KEYS = [*PLACE, "y_true", "fold"]


def keep_training_minutes(root: Path, workspace: Path, seconds: float) -> None:
    """Record how long the training of a workspace's model took, for experiments that reuse it."""
    save_json(_minutes_path(root, workspace), {"minutes": seconds / 60})


def load_training_minutes(root: Path, workspace: Path) -> float | None:
    """Return how long the training took (only its last run if it was interrupted), or None."""
    path = _minutes_path(root, workspace)
    return float(load_json(path)["minutes"]) if path.exists() else None


def pool_results(
    root: Path, name: str, split_unit: SplitUnit, workspaces: Mapping[int, Path]
) -> None:
    """Join the folds' test sets: write `predictions.parquet`, a scoring file, and `metrics.json`.

    If whole cases are tested, also `cases.json` and figures of them: burden compared with a
    constant predictor (the mean burden of the folds' val cases), its calibration per fold,
    agreement, any IDC, worst cases, slide maps.

    `idc.experiments.pooling` explains how folds are made comparable. The bootstrap follows the
    section `evaluate` in the root's `params.yaml`.

    Args:
        root: The project.
        name: Folder of the results.
        split_unit: What was assigned to the folds.
        workspaces: Folder per fold, in which the stages up to `predict` have run.

    Raises:
        InputError: If a fold's predictions or scores of baselines are missing or do not fit those
            of the others.
    """
    tables = {
        fold: load_scores(workspace / PREDICTIONS, workspace / BASELINE_SCORES)
        for fold, workspace in workspaces.items()
    }
    context = load_params(root / PARAMS).evaluate.context
    pooled = pool_folds(tables, tested_once=split_unit, context=context)
    bootstrap = _load_bootstrap(root)
    figures = measure_pooled(pooled, bootstrap)
    for fold, workspace in workspaces.items():
        figures["folds"][str(fold)] |= {
            "model": _model_digest(workspace),
            "training_minutes": load_training_minutes(root, workspace),
            **_describe_training(workspace),
        }
    folder = root / RESULTS / name
    with replacing_file(folder / PREDICTIONS_FILE) as partial:
        pooled.predictions.to_parquet(partial, index=False)
    save_json(folder / "metrics.json", figures)
    if split_unit == "case":
        _save_cases(folder, tables, pooled, bootstrap)


def _mean_val_burden(tables: Mapping[int, pd.DataFrame]) -> float:
    burdens = [
        table[table["split"] == "val"].groupby("case")["y_true"].mean().mean()
        for table in tables.values()
    ]
    return float(np.mean(burdens))


def _save_cases(
    folder: Path, tables: Mapping[int, pd.DataFrame], pooled: Pooled, bootstrap: Bootstrap
) -> None:
    decided = decide_pooled(pooled)
    cases, lines = calibrate_cases(tables, pooled)
    summary = summarise_burden(decided, cases, _mean_val_burden(tables), bootstrap)
    summary["calibration"] = {str(fold): asdict(line) for fold, line in lines.items()}
    save_json(folder / "cases.json", summary)
    figures = draw_case_figures(cases, summary["agreement"], complete_patches(decided))
    with replacing_folder(folder / "figures") as partial:
        for name, figure in figures.items():
            save_figure(figure, partial / f"{name}.png")


def load_scorings(path: Path) -> pd.DataFrame:
    """Read a scoring file (see the module docstring), with `case` as text and positions as int64.

    Raises:
        InputError: If it is missing, not Parquet, lacks a column, or holds no scoring or an
            unusable value.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing", fix="run `idc cross-validate` first") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    missing = [column for column in _KEYS if column not in table]
    if missing:
        raise InputError(f"{path} lacks the column {missing[0]}: it must have {', '.join(_KEYS)}")
    names = score_columns(table)
    if not names:
        raise InputError(f"{path} holds no scores: add a column of numbers per scoring")
    for name in names:
        num_unusable = int(np.count_nonzero(~np.isfinite(table[name].to_numpy(np.float64))))
        if num_unusable:
            raise InputError(f"{path}: {num_unusable} of column {name} are NaN or infinite")
    if not table["y_true"].isin([0, 1]).all():
        raise InputError(f"{path}: y_true must be 0 or 1")
    return table.astype({"case": "str", "x": "int64", "y": "int64"})


def find_scorings(root: Path, name: str) -> Path:
    """Return a scoring file: the path itself, or that of the result of this name.

    Raises:
        InputError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    found = root / RESULTS / name / PREDICTIONS_FILE
    if not found.is_file():
        raise InputError(
            f"{name} is neither a scoring file nor a result in {RESULTS}",
            fix="run `idc cross-validate`, or name a Parquet file",
        )
    return found


def score_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the scorings in a table: its logits, or else all numeric columns."""
    if MAIN_LOGIT in table:
        return logit_columns(table)
    numbers = table.select_dtypes("number").columns
    return [name for name in numbers if name not in (*_KEYS, "y_pred")]


def compare_files(root: Path, first: Path, second: Path) -> dict[str, dict[str, Estimate]]:
    """Compare every scoring of the first file with every one of the second, on the same patches.

    Returns:
        By `<column> - <column>` and metric, how much better the first file's scoring is. Balanced
        accuracy is compared if both files hold decisions on `logit`.

    Raises:
        InputError: If a file is wrong, or their patches or folds differ.
    """
    bootstrap = _load_bootstrap(root)
    tables = load_scorings(first), load_scorings(second)
    _require_same_folds(*tables)
    return {
        f"{name} - {other}": compare_scorings(
            _take_scoring(tables[1], other),
            _take_scoring(tables[0], name),
            bootstrap,
        )
        for name in score_columns(tables[0])
        for other in score_columns(tables[1])
    }


def read_figures(root: Path, name: str) -> dict[str, Any]:
    """Read the results that `pool_results` wrote.

    Returns:
        `num_patches`, `num_cases`; `auroc` and `balanced_accuracy` (value, low, high);
        `mean_fold_auroc`; `folds`: the entries of `metrics.json` per fold; `others`: AUROC
        (value, low, high) of the other scorings of single patches, by name (members, baselines).

    Raises:
        InputError: If there is none.
    """
    figures = load_json(root / RESULTS / name / "metrics.json")
    kept = ("num_patches", "num_cases", "mean_fold_auroc")
    columns = [key.removesuffix("/auroc") for key in figures if key.endswith("/auroc")]
    return {
        **{key: figures[key] for key in kept},
        **{name: _read_estimate(figures, MAIN_LOGIT, name) for name in _METRICS},
        "folds": [{"fold": int(fold), **facts} for fold, facts in figures["folds"].items()],
        "others": {
            column.removeprefix(f"{MAIN_LOGIT}_"): _read_estimate(figures, column, "auroc")
            for column in columns
            if column not in (MAIN_LOGIT, CONTEXT_LOGIT)
        },
    }


def compare_results(
    root: Path, first: str, second: str, *, same_folds: bool = True, scoring: str | None = None
) -> dict[str, dict[str, float]]:
    """Return by how much the fused logits of the first result are better than the second's.

    Args:
        root: The project.
        first: Name of a result.
        second: Name of another one, of the same patches.
        same_folds: Whether each case must have been tested in the same fold.
        scoring: Instead of the fused logits, one of the `others` that `read_figures` names.

    Returns:
        `auroc` and, for the fused logits, `balanced_accuracy` (value, low, high).

    Raises:
        InputError: If a file is missing or wrong, or their patches or folds differ.
    """
    paths = (root / RESULTS / name / PREDICTIONS_FILE for name in (second, first))
    tables = [load_scorings(path) for path in paths]
    if same_folds:
        _require_same_folds(*tables)
    bootstrap = _load_bootstrap(root)
    column = MAIN_LOGIT if scoring is None else f"{MAIN_LOGIT}_{scoring}"
    other, one = (_take_scoring(table, column) for table in tables)
    differences = compare_scorings(other, one, bootstrap)
    return {metric: vars(estimate) for metric, estimate in differences.items()}


def save_comparison(
    first: Path, second: Path, differences: Mapping[str, Mapping[str, Estimate]]
) -> Path:
    """Write the result of `compare_files` next to the first file; return the path."""
    name = second.parent.name if second.stem == "predictions" else second.stem
    path = first.parent / f"against-{name}.json"
    save_json(
        path,
        {
            pair: {metric: vars(estimate) for metric, estimate in metrics.items()}
            for pair, metrics in differences.items()
        },
    )
    return path


def _read_estimate(figures: Mapping[str, Any], column: str, metric: str) -> dict[str, float]:
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {end: figures[f"{column}/{metric}{suffix}"] for end, suffix in ends.items()}


def _describe_training(workspace: Path) -> dict[str, float]:
    leakage = load_json(workspace / LEAKAGE_REPORT)
    train = leakage["subsets"]["train"]
    return {
        "num_training_patches": train["num_patches"],
        "num_training_cases": train["num_cases"],
        "share_touching_train": leakage["share_touching_train"]["test"],
    }


def _load_bootstrap(root: Path) -> Bootstrap:
    params = load_params(root / PARAMS)
    return Bootstrap(params.evaluate.num_replicates, params.seeds.statistics)


def _model_digest(workspace: Path) -> str:
    return recorded_md5(load_lock(workspace), "train", str(BUNDLE))


def _minutes_path(root: Path, workspace: Path) -> Path:
    return root / _MINUTES / f"{_model_digest(workspace)}.json"


def _take_scoring(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return one scoring in the form that `compare_scorings` expects."""
    scoring = table[[*PLACE, "y_true"]].assign(y_score=table[name])
    if name == MAIN_LOGIT and "y_pred" in table:
        scoring["y_pred"] = table["y_pred"]
    return scoring


def _require_same_folds(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Other folds are other training sets: then not the scorings alone would differ."""
    fold = [table.groupby("case")["fold"].first() for table in (first, second)]
    both = pd.concat(fold, axis=1, join="inner", keys=["one", "other"])
    differing = both[both["one"] != both["other"]]
    if len(differing):
        case = differing.index[0]
        raise InputError(
            f"{len(differing)} cases were tested in different folds (case {case} in "
            f"{differing['one'].iloc[0]} and {differing['other'].iloc[0]}): score both with the "
            "same archive, seeds.data, split.exclude and number of folds"
        )
