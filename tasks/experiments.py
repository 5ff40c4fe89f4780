"""What cross-validated experiments read and write: plans, pooled predictions, tables.

Results lie in `reports/experiments/<name>/`, the folds' copies of the project in
`.workspaces/experiments/<name>/fold-<k>`.

A *scoring file* is Parquet with one row per tested patch: `case`, `x`, `y`, `y_true` (0 or 1),
`fold` (the fold that tested it), optionally `y_pred` (0 or 1, decided on `logit`), and one column
per scoring: `logit` and `logit_*`, or else every other column of numbers, named after what scored.
A score is any finite number, larger is more like IDC+; scores of different folds stand in one
column, so they must mean the same in each (probabilities, or logits calibrated on the fold's val).
"""

import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import yaml
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field, ValidationError

from idc.config import EvaluateConfig, FoldsConfig, Section, load_params
from idc.data.tables import PREDICTIONS, load_table
from idc.errors import InputError
from idc.evaluation.bootstrap import Estimate
from idc.evaluation.compare import PLACE, compare_scorings
from idc.evaluation.pooling import MAIN_LOGIT, logit_columns, measure_pooled, pool_folds
from idc.files import load_json, replacing_file, save_json
from idc.layout import BUNDLE, PARAMS, REPORTS
from idc.layout import PREDICTIONS as PREDICTIONS_PATH
from idc.lineage import load_lock, recorded_md5
from idc.workspace import WORKSPACES, override_params

RESULTS = REPORTS / "experiments"
FOLDERS = WORKSPACES / "experiments"
BASE = "base"

_MINUTES = FOLDERS / ".training_minutes"  # by the model's digest: a model from the cache has some
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_SET_BY_FOLDS = ("split.mode", "split.folds")
_KEYS = [*PLACE, "y_true", "fold"]

Overrides = dict[str, Any]
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]


class BasePlan(Section):
    """What every variant is compared with."""

    name: Name
    """Folder of the results; another base needs another name."""
    overrides: Overrides
    """New parameter values by dotted key, in force for every variant too."""


class FoldsPlan(Section):
    """The cross-validation, the same for every variant."""

    num_folds: Annotated[int, Field(ge=3, le=50)]
    """Folds in all."""
    only: tuple[int, ...] | None
    """Folds (from 0) that are run; null runs all."""


class Plan(Section):
    """All of `experiments.yaml`."""

    base: BasePlan
    folds: FoldsPlan
    variants: dict[Name, Overrides]
    """What each variant changes in the base."""

    def all_overrides(self) -> dict[str, Overrides]:
        """Return the overrides of the base and of each variant, base first."""
        changed = {name: self.base.overrides | more for name, more in self.variants.items()}
        return {BASE: self.base.overrides, **changed}

    def result_name(self, variant: str) -> str:
        """Return the name under which the folds of a variant run."""
        return f"{self.base.name}/{variant}"


def load_plan(path: Path, root: Path) -> Plan:
    """Read a file like `experiments.yaml` and check every override before anything runs.

    Raises:
        InputError: Naming the file, the variant or key, and the fault.
    """
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: name a file like experiments.yaml") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the whole file"
        raise InputError(f"{path}: {key}: {fault['msg'].lower()}") from None
    if BASE in plan.variants:
        raise InputError(f"{path}: variants.{BASE}: that name is taken: call the variant otherwise")
    choose_folds(plan.folds.num_folds, plan.folds.only)
    for name, overrides in plan.all_overrides().items():
        try:
            check_overrides(root, overrides)
        except InputError as error:
            raise InputError(f"{path}: {name}: {error}") from None
    return plan


def check_name(name: str) -> None:
    """Check that a result's name makes a folder below `reports/experiments`.

    Raises:
        InputError: Otherwise.
    """
    if not re.fullmatch(f"{_NAME}(/{_NAME})*", name):
        raise InputError(
            f"{name!r} cannot name a folder of results: use letters, digits, _, . and -"
        )


def check_overrides(root: Path, overrides: Mapping[str, Any]) -> None:
    """Check that parameters can be overridden so in a cross-validation, without doing it.

    Raises:
        InputError: If a key is no parameter, a value breaks its rule, or folds set the key.
    """
    for key in overrides:
        if any(key == own or key.startswith(f"{own}.") for own in _SET_BY_FOLDS):
            raise InputError(f"override {key}: the folds set it themselves; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS
        copy.write_bytes((root / PARAMS).read_bytes())
        try:
            override_params(copy, overrides)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(PARAMS))) from None


def choose_folds(num_folds: int, only: Collection[int] | None) -> list[int]:
    """Return the folds to run, ascending: all, or those asked for.

    Raises:
        InputError: If there cannot be so many folds, or one asked for is none of them.
    """
    fewest, most = 3, 50  # as FoldsConfig has it
    if not fewest <= num_folds <= most:
        raise InputError(f"{num_folds} folds: there must be {fewest} to {most}")
    chosen = sorted(set(range(num_folds) if only is None else only))
    unknown = [fold for fold in chosen if not 0 <= fold < num_folds]
    if unknown or not chosen:
        asked = f"fold {unknown[0]}" if unknown else "no fold"
        raise InputError(f"{asked} was asked for: folds are numbered 0 to {num_folds - 1}")
    return chosen


def fold_overrides(overrides: Mapping[str, Any], num_folds: int, fold: int) -> Overrides:
    """Return the overrides of one fold's workspace."""
    folds = FoldsConfig(num_folds=num_folds, test_fold=fold)
    return {**overrides, "split.mode": "case", "split.folds": folds.model_dump()}


def keep_training_minutes(root: Path, workspace: Path, seconds: float) -> None:
    """Remember how long the training of a workspace's model took, for whoever reuses it."""
    save_json(_minutes_path(root, workspace), {"minutes": seconds / 60})


def load_training_minutes(root: Path, workspace: Path) -> float | None:
    """Return how long the model's training took (its last run, if killed before); None: unknown."""
    path = _minutes_path(root, workspace)
    return float(load_json(path)["minutes"]) if path.exists() else None


@task(cache_policy=NO_CACHE)
def pool_results(root: Path, name: str, workspaces: Mapping[int, Path]) -> None:
    """Pool the folds' test sides: write `predictions.parquet`, a scoring file, and `metrics.json`.

    How folds are made comparable: `idc.evaluation.pooling`. The bootstrap is that of the section
    `evaluate` in the root's `params.yaml`.

    Raises:
        InputError: If a fold's predictions are missing or do not fit those of the others.
    """
    pooled = pool_folds(
        {
            fold: load_table(workspace / PREDICTIONS_PATH, PREDICTIONS)
            for fold, workspace in workspaces.items()
        }
    )
    settings = _bootstrap_settings(root)
    figures = measure_pooled(pooled, num_replicates=settings.num_replicates, seed=settings.seed)
    for fold, workspace in workspaces.items():
        figures["folds"][str(fold)]["training_minutes"] = load_training_minutes(root, workspace)
    folder = root / RESULTS / name
    with replacing_file(folder / "predictions.parquet") as partial:
        pooled.predictions.to_parquet(partial, index=False)
    save_json(folder / "metrics.json", figures)


@task(cache_policy=NO_CACHE)
def describe_variant(root: Path, plan: Plan, name: str) -> dict[str, Any]:
    """Return what `screen.json` says of a variant whose results are there.

    `overrides`, `num_patches`, `num_cases`, `training_minutes` (None: unknown), `auroc` and
    `balanced_accuracy` (value, low, high); unless it is the base, `differences` to the base by
    metric (value, low, high) and `earns_its_place`.

    Raises:
        InputError: If it was not tested on the patches and in the folds of the base.
    """
    folder = root / RESULTS / plan.result_name(name)
    figures = load_json(folder / "metrics.json")
    minutes = [fold["training_minutes"] for fold in figures["folds"].values()]
    described = {
        "overrides": plan.variants.get(name, {}),
        "num_patches": figures["num_patches"],
        "num_cases": figures["num_cases"],
        "auroc": _read_estimate(figures, "auroc"),
        "balanced_accuracy": _read_estimate(figures, "balanced_accuracy"),
        "training_minutes": None if None in minutes else sum(minutes),
    }
    if name == BASE:
        return described
    base = root / RESULTS / plan.result_name(BASE) / "predictions.parquet"
    scorings = (load_scorings(base), load_scorings(folder / "predictions.parquet"))
    _require_same_folds(*scorings)
    settings = _bootstrap_settings(root)
    differences = compare_scorings(
        *(_take_scoring(table, MAIN_LOGIT) for table in scorings),
        num_replicates=settings.num_replicates,
        seed=settings.seed,
    )
    return described | {
        "differences": {metric: vars(estimate) for metric, estimate in differences.items()},
        "earns_its_place": differences["auroc"].low > 0,
    }


@task(cache_policy=NO_CACHE)
def write_screen(
    root: Path, plan: Plan, done: Mapping[str, dict[str, Any]], failed: Mapping[str, str]
) -> None:
    """Write `screen.json` and `screen.md`.

    Args:
        root: The project.
        plan: What was to be run.
        done: What `describe_variant` returned for each variant so far, base first.
        failed: Why a variant has no results, by name.
    """
    content = {
        "base": plan.base.model_dump(),
        "folds": plan.folds.model_dump(mode="json"),
        "variants": [{"name": name, **variant} for name, variant in done.items()],
        "failed": dict(failed),
    }
    page = format_screen(content)
    save_json(root / RESULTS / "screen.json", content)
    with replacing_file(root / RESULTS / "screen.md") as partial:
        partial.write_text(page, encoding="utf-8")
    create_markdown_artifact(page, key="screen", description="Which variants earn their place")


def format_screen(content: Mapping[str, Any]) -> str:
    """Return the Markdown page of a screen, from what `screen.json` holds."""
    folds = content["folds"]
    only = folds["only"]
    which = "all of them" if only is None else f"only {', '.join(map(str, only))}"
    lines = [
        f"# Screen `{content['base']['name']}`",
        "",
        f"Cross-validation by case, {folds['num_folds']} folds, {which}; every patch is scored by "
        "a model that never saw its case. Intervals are 95 % by case bootstrap; those of "
        "differences are paired (the same cases drawn for both). A variant earns its place where "
        "the whole interval lies above 0: of forty variants that are worth nothing, one still "
        "would. One training seed each.",
        "",
        "| variant | AUROC | balanced accuracy | AUROC against base | earns its place "
        "| training minutes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_format_row(variant) for variant in content["variants"]]
    lines += [f"| {name} | failed: {why} | | | | |" for name, why in content["failed"].items()]
    return "\n".join(lines) + "\n"


def load_scorings(path: Path) -> pd.DataFrame:
    """Read a scoring file (see the module's head), with `case` as text and places as int64.

    Raises:
        InputError: If it is missing, no Parquet, lacks a column, holds no scoring, or an unusable
            value.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the folds, or the baselines, first") from None
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


def score_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the scorings in a table: its logits, or else all other numbers."""
    if MAIN_LOGIT in table:
        return logit_columns(table)
    numbers = table.select_dtypes("number").columns
    return [name for name in numbers if name not in (*_KEYS, "y_pred")]


def compare_files(root: Path, first: Path, second: Path) -> dict[str, dict[str, Estimate]]:
    """Compare every scoring of the first file with every one of the second, on the same patches.

    Returns:
        By `<column> - <column>` and metric, how much better the first file's scoring is. Balanced
        accuracy is compared where both have decided on `logit`.

    Raises:
        InputError: If a file is wrong, or their patches or folds differ.
    """
    settings = _bootstrap_settings(root)
    tables = load_scorings(first), load_scorings(second)
    _require_same_folds(*tables)
    return {
        f"{name} - {other}": compare_scorings(
            _take_scoring(tables[1], other),
            _take_scoring(tables[0], name),
            num_replicates=settings.num_replicates,
            seed=settings.seed,
        )
        for name in score_columns(tables[0])
        for other in score_columns(tables[1])
    }


def format_comparison(differences: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return what `compare_files` found as a Markdown table."""
    lines = ["| first - second | metric | difference |", "|---|---|---|"]
    lines += [
        f"| {pair} | {metric} | {_format_estimate(vars(estimate), sign='+')} |"
        for pair, metrics in differences.items()
        for metric, estimate in metrics.items()
    ]
    return "\n".join(lines) + "\n"


def save_comparison(
    first: Path, second: Path, differences: Mapping[str, Mapping[str, Estimate]]
) -> Path:
    """Write what `compare_files` found beside the first file; return the path."""
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


def _bootstrap_settings(root: Path) -> EvaluateConfig:
    return load_params(root / PARAMS).evaluate


def _minutes_path(root: Path, workspace: Path) -> Path:
    digest = recorded_md5(load_lock(workspace), "train", str(BUNDLE))
    return root / _MINUTES / f"{digest}.json"


def _read_estimate(figures: Mapping[str, Any], metric: str) -> dict[str, float]:
    key = f"{MAIN_LOGIT}/{metric}"
    return {"value": figures[key], "low": figures[f"{key}_low"], "high": figures[f"{key}_high"]}


def _take_scoring(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return one scoring as `compare_scorings` takes it."""
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
            "same archive, split.seed, split.exclude and number of folds"
        )


def _format_row(variant: Mapping[str, Any]) -> str:
    difference, verdict = "", ""
    if "differences" in variant:
        estimate = variant["differences"]["auroc"]
        difference = _format_estimate(estimate, sign="+")
        worse = "no, it is worse" if estimate["high"] < 0 else "no"
        verdict = "**yes**" if variant["earns_its_place"] else worse
    minutes = variant["training_minutes"]
    return (
        f"| {variant['name']} | {_format_estimate(variant['auroc'])} "
        f"| {_format_estimate(variant['balanced_accuracy'])} | {difference} | {verdict} "
        f"| {'unknown' if minutes is None else format(minutes, '.1f')} |"
    )


def _format_estimate(estimate: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (format(estimate[key], f"{sign}.3f") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
