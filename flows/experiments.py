"""Cross-validated experiments: `python -m flows.experiments screen` from the project's root.

`folds` trains and scores one setting fold by fold, each in a workspace of its own, and pools the
test sets; `screen` does so for a base and its variants and says which improve on the base;
`optimism` measures what a split by patch flatters; `learning-curve` what more patches and more
cases add;
`audit` lists the labels that the pooled folds contradict; `compare` sets two scoring files against
each other. Running again resumes: DVC decides what is up to date, and a variant that changes how
patches are scored takes its trained models from the cache.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prefect import flow

from idc.core.errors import InputError
from idc.experiments.audit import audit_labels
from idc.experiments.folds import (
    BASE,
    CAP_PATCHES,
    CAPS,
    FOLDERS,
    RESULTS,
    SplitUnit,
    check_name,
    check_overrides,
    choose_folds,
    fold_overrides,
    load_plan,
)
from idc.experiments.learning_curve import check_sizes, choose_points, write_learning_curve
from idc.experiments.optimism import WAYS, equal_training_size, write_optimism
from idc.experiments.results import (
    compare_files,
    keep_training_minutes,
    pool_results,
    save_comparison,
)
from idc.experiments.screen import describe_variant, write_screen
from idc.experiments.tables import format_comparison
from idc.experiments.training_sets import Pool, load_pool
from idc.runs.workspace import create_workspace
from tasks.stages import StageFailedError, TransientError, check_inputs, run_stage

_BEFORE_TRAINING = ("ingest", "sample", "split")
_EXIT_INPUT = 2


@flow(name="folds", flow_run_name="{name}", log_prints=True)
def folds(
    name: str,
    overrides: dict[str, Any] | None = None,
    num_folds: int = 5,
    only_folds: list[int] | None = None,
    split_unit: SplitUnit = "case",
) -> None:
    """Train and score each fold, pool the test sets into `reports/experiments/<name>/`.

    Args:
        name: Folder of the results.
        overrides: New parameter values by dotted key; the folds set split.mode and split.folds.
        num_folds: Folds in all.
        only_folds: The folds (from 0) to run; by default all.
        split_unit: What is assigned to the folds; `patch` leaks.
    """
    root = Path.cwd()
    check_name(name)
    check_overrides(root, overrides or {})
    workspaces: dict[int, Path] = {}
    for fold in choose_folds(num_folds, only_folds):
        workspace = create_workspace(
            root,
            FOLDERS / name / f"fold-{fold}",
            fold_overrides(overrides or {}, split_unit, num_folds, fold),
        )
        if not workspaces:
            check_inputs(workspace)
        for stage in _BEFORE_TRAINING:
            run_stage(stage, workspace)
        started = time.monotonic()
        if run_stage("train", workspace):
            keep_training_minutes(root, workspace, time.monotonic() - started)
        run_stage("baselines", workspace)
        run_stage("predict", workspace)
        workspaces[fold] = workspace
    pool_results(root, name, split_unit, workspaces)


@flow(name="screen", log_prints=True)
def screen(file: str = "configs/screen.yaml") -> dict[str, str]:
    """Run the base and every variant; keep `reports/experiments/screen.md` up to date after each.

    A variant that fails is listed with its reason, and the others go on.

    Args:
        file: A plan such as `configs/screen.yaml`.

    Returns:
        Why variants failed, by name.
    """
    root = Path.cwd()
    plan = load_plan(root / file, root)
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    only = None if plan.folds.only is None else list(plan.folds.only)
    for name, overrides in plan.all_overrides().items():
        try:
            folds(plan.result_name(name), overrides, plan.folds.num_folds, only)
            done[name] = describe_variant(root, plan, name)
        except (InputError, StageFailedError) as error:
            if name == BASE:
                raise
            failed[name] = str(error)
        write_screen(root, plan, done, failed)
    return failed


@flow(name="optimism", flow_run_name="{name}", log_prints=True)
def optimism(name: str, overrides: dict[str, Any] | None = None, num_folds: int = 5) -> None:
    """Run the same recipe with whole cases and with single patches assigned to the folds.

    Writes `optimism.md` in `reports/experiments/<name>/`; the two results lie below it.

    Args:
        name: Folder of the results.
        overrides: New parameter values by dotted key.
        num_folds: Folds in all; every one is run, so that both test the same patches.
    """
    root, overrides = Path.cwd(), overrides or {}
    check_name(name)
    check_overrides(root, overrides, also_set=CAPS)
    choose_folds(num_folds, None)
    size = equal_training_size(_sample(root, name, overrides), num_folds)
    for split_unit in WAYS:
        folds(
            f"{name}/{split_unit}",
            {**overrides, CAP_PATCHES: size},
            num_folds,
            split_unit=split_unit,
        )
    write_optimism(root, name)


@flow(name="learning-curve", flow_run_name="{name}", log_prints=True)
def learning_curve(
    name: str,
    num_patches: list[int],
    num_cases: list[int] | None = None,
    overrides: dict[str, Any] | None = None,
    num_folds: int = 5,
    only_folds: list[int] | None = None,
) -> None:
    """Train on nested training sets, test all on the same patches.

    Keeps `learning_curve.md` in `reports/experiments/<name>/` up to date after each point.

    Args:
        name: Folder of the results.
        num_patches: Training patches, of all train cases.
        num_cases: Train cases; each gets a partner of as many patches of all cases.
        overrides: New parameter values by dotted key.
        num_folds: Folds in all.
        only_folds: The folds (from 0) to run; by default all.
    """
    root, overrides, num_cases = Path.cwd(), overrides or {}, num_cases or []
    check_name(name)
    check_sizes(root, overrides, num_patches, num_cases)
    chosen = choose_folds(num_folds, only_folds)
    pool = _sample(root, name, overrides)
    points = choose_points(pool, num_folds, chosen, num_patches, num_cases)
    for number, point in enumerate(points, start=1):
        folds(f"{name}/{point.name}", {**overrides, **point.overrides()}, num_folds, only_folds)
        write_learning_curve(root, name, points[:number])


def _sample(root: Path, name: str, overrides: dict[str, Any]) -> Pool:
    """Draw the manifest that all runs share, and read what will be split."""
    workspace = create_workspace(root, FOLDERS / name / "pool", overrides)
    check_inputs(workspace)
    for stage in ("ingest", "sample"):
        run_stage(stage, workspace)
    return load_pool(workspace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (0 done, 1 something failed, 2 wrong input)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"experiments: error: {error}", file=sys.stderr)
        return _EXIT_INPUT
    except (StageFailedError, TransientError) as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("folds", help="cross-validate one setting")
    _add_setting(one)
    _add_only(one)
    one.set_defaults(run=_run_folds)
    many = commands.add_parser("screen", help="cross-validate a base and its variants")
    many.add_argument("file", nargs="?", default="configs/screen.yaml", help="the plan")
    many.set_defaults(run=_run_screen)
    two = commands.add_parser("compare", help="paired differences of two scoring files")
    two.add_argument(
        "first", type=Path, help="such as reports/experiments/NAME/predictions.parquet"
    )
    two.add_argument("second", type=Path, help="another one, or scores of baselines")
    two.set_defaults(run=_run_compare)
    leak = commands.add_parser("optimism", help="what a split by patch flatters")
    _add_setting(leak)
    leak.set_defaults(run=_run_optimism)
    curve = commands.add_parser("learning-curve", help="what more patches and cases add")
    _add_setting(curve)
    _add_only(curve)
    curve.add_argument(
        "--patches", type=int, nargs="+", required=True, help="training patches, of all train cases"
    )
    curve.add_argument("--cases", type=int, nargs="+", default=[], help="train cases")
    curve.set_defaults(run=_run_learning_curve)
    audit = commands.add_parser("audit", help="list the labels that a result contradicts")
    audit.add_argument("name", help="result of `folds`")
    audit.set_defaults(run=_run_audit)
    return parser


def _add_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder below reports/experiments for the results")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides"
    )
    parser.add_argument("--folds", type=int, default=5, help="folds in all (default: 5)")


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", type=int, nargs="+", metavar="FOLD", help="run these alone")


def _run_folds(options: argparse.Namespace) -> int:
    overrides = _read_overrides(options)
    # said in one line, before a flow begins to log
    check_name(options.name)
    choose_folds(options.folds, options.only)
    check_overrides(Path.cwd(), overrides)
    folds(options.name, overrides, options.folds, options.only)
    print(f"{RESULTS / options.name}/metrics.json")
    return 0


def _run_screen(options: argparse.Namespace) -> int:
    load_plan(Path(options.file), Path.cwd())
    failed = screen(options.file)
    print((RESULTS / "screen.md").read_text(encoding="utf-8"))
    return 1 if failed else 0


def _run_compare(options: argparse.Namespace) -> int:
    differences = compare_files(Path.cwd(), options.first, options.second)
    print(format_comparison(differences), end="")
    print(f"\n{save_comparison(options.first, options.second, differences)}")
    return 0


def _run_optimism(options: argparse.Namespace) -> int:
    overrides = _read_overrides(options)
    check_name(options.name)
    choose_folds(options.folds, None)
    check_overrides(Path.cwd(), overrides, also_set=CAPS)
    optimism(options.name, overrides, options.folds)
    print((RESULTS / options.name / "optimism.md").read_text(encoding="utf-8"))
    return 0


def _run_learning_curve(options: argparse.Namespace) -> int:
    overrides = _read_overrides(options)
    check_name(options.name)
    choose_folds(options.folds, options.only)
    check_sizes(Path.cwd(), overrides, options.patches, options.cases)
    learning_curve(
        options.name, options.patches, options.cases, overrides, options.folds, options.only
    )
    print((RESULTS / options.name / "learning_curve.md").read_text(encoding="utf-8"))
    return 0


def _run_audit(options: argparse.Namespace) -> int:
    check_name(options.name)
    print(audit_labels(Path(), options.name))
    return 0


def _read_overrides(options: argparse.Namespace) -> dict[str, Any]:
    return dict(parse_override(text) for text in options.set)


def parse_override(text: str) -> tuple[str, Any]:
    """Return key and value of `key=value`; the value is read as YAML, as in params.yaml.

    Raises:
        InputError: If there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: write key=value, such as train.epochs=3")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: {value} is not a YAML value") from None


if __name__ == "__main__":
    sys.exit(main())
