"""Commands that compare ways to learn: cross-validation and what is made of it, sweeps."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from idc.cli.command import EXIT_FAILED, Command, Group, print_json
from idc.cli.pipeline import add_overrides, start_flow

if TYPE_CHECKING:
    from idc.experiments.cross_validation import Setting
    from idc.ops.stage_runner import StageRunner

log = logging.getLogger(__name__)

_SCREEN = Path("configs/screen.yaml")
_SWEEP = Path("configs/sweep.yaml")
_READS = "params.yaml, data/raw, src/idc"
_FOLDS = "the folds in .workspaces/experiments/NAME"


def _add_setting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder below reports/experiments for the results")
    add_overrides(parser)
    parser.add_argument("--folds", type=int, default=5, help="folds in all (default: 5)")


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", type=int, nargs="+", metavar="FOLD", help="run these alone")


def _add_cross_validate(parser: argparse.ArgumentParser) -> None:
    _add_setting(parser)
    _add_only(parser)
    parser.add_argument(
        "--split-by", choices=("case", "patch"), default="case",
        help="what is assigned to the folds (default: case); patch leaks, and shows by how much",
    )  # fmt: skip


def _add_learning_curve(parser: argparse.ArgumentParser) -> None:
    _add_setting(parser)
    _add_only(parser)
    parser.add_argument(
        "--patches", type=int, nargs="+", required=True, help="training patches, of all train cases"
    )
    parser.add_argument("--cases", type=int, nargs="+", default=[], help="train cases")


def _add_plan(default: Path, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "plan", nargs="?", type=Path, default=default, help=f"the plan (default: {default})"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    what = "a result's name, or a scoring file (Parquet)"
    parser.add_argument("first", metavar="A", help=what)
    parser.add_argument("second", metavar="B", help=what)


def _read_setting(options: argparse.Namespace) -> "Setting":
    from idc.experiments.cross_validation import Setting
    from idc.experiments.plan_files import read_overrides

    only = getattr(options, "only", None)
    return Setting(
        options.name,
        read_overrides(options.config, options.set),
        options.folds,
        None if only is None else tuple(only),
        getattr(options, "split_by", "case"),
    )


def _runner() -> "StageRunner":
    from idc.ops.stage_runner import StageRunner, Watch

    return StageRunner(Watch(log.info))


def _cross_validate(options: argparse.Namespace) -> int:
    from idc.experiments.cross_validation import cross_validate
    from idc.experiments.folds import RESULTS

    setting = _read_setting(options)
    cross_validate(Path.cwd(), setting, _runner())
    print(RESULTS / setting.name / "metrics.json")
    return 0


def _screen(options: argparse.Namespace) -> int:
    from idc.experiments.folds import RESULTS, load_plan
    from idc.experiments.screen import run_screen

    root = Path.cwd()
    failed = run_screen(root, load_plan(options.plan, root), _runner())
    print((root / RESULTS / "screen.md").read_text(encoding="utf-8"))
    for name, why in failed.items():
        print(f"{name} failed: {why}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


def _optimism(options: argparse.Namespace) -> int:
    from idc.experiments.optimism import measure_optimism

    page = measure_optimism(Path.cwd(), _read_setting(options), _runner())
    print(page.read_text(encoding="utf-8"))
    return 0


def _learning_curve(options: argparse.Namespace) -> int:
    from idc.experiments.learning_curve import Sizes, measure_learning_curve

    sizes = Sizes(tuple(options.patches), tuple(options.cases))
    page = measure_learning_curve(Path.cwd(), _read_setting(options), sizes, _runner())
    print(page.read_text(encoding="utf-8"))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from idc.experiments.sweep import load_sweep

    load_sweep(options.plan, Path.cwd())  # a fault is said in one line, before Prefect starts
    start_flow("flows.sweep", str(options.plan))


def _compare(options: argparse.Namespace) -> int:
    from idc.experiments.results import compare_files, find_scorings, save_comparison
    from idc.experiments.tables import format_comparison

    root = Path.cwd()
    first, second = (find_scorings(root, name) for name in (options.first, options.second))
    differences = compare_files(root, first, second)
    path = save_comparison(first, second, differences)
    if options.json:
        print_json(
            {
                pair: {metric: vars(estimate) for metric, estimate in metrics.items()}
                for pair, metrics in differences.items()
            }
        )
        return 0
    print(format_comparison(differences))
    print(path)
    return 0


def _audit(options: argparse.Namespace) -> int:
    from idc.experiments.audit import audit_labels
    from idc.experiments.folds import check_name

    check_name(options.name)
    print(audit_labels(Path(), options.name))
    return 0


GROUP = Group(
    "Experiments",
    (
        Command(
            "cross-validate",
            "train and score each fold of one setting, join the test sets",
            _cross_validate,
            reads=_READS,
            writes=f"reports/experiments/NAME: metrics.json, predictions.parquet; {_FOLDS}",
            add_arguments=_add_cross_validate,
            details="Run again, it resumes.",
        ),
        Command(
            "screen",
            "cross-validate a base and its variants, say which are improvements",
            _screen,
            reads=f"{_READS}; a plan",
            writes="reports/experiments/screen.md and a result per variant; their folds in "
            ".workspaces/",
            add_arguments=lambda parser: _add_plan(_SCREEN, parser),
            details="A plan with rungs runs by successive halving. Run again, it resumes.",
        ),
        Command(
            "optimism",
            "measure by how much a split by patch inflates the metrics",
            _optimism,
            reads=_READS,
            writes=f"reports/experiments/NAME/optimism.md; {_FOLDS}",
            add_arguments=_add_setting,
        ),
        Command(
            "learning-curve",
            "measure what more patches and more cases add",
            _learning_curve,
            reads=_READS,
            writes=f"reports/experiments/NAME/learning_curve.md; {_FOLDS}",
            add_arguments=_add_learning_curve,
        ),
        Command(
            "sweep",
            "run the pipeline at every point of a grid, several at a time",
            _sweep,
            reads=f"{_READS}; a plan",
            writes="a workspace per point in .workspaces/sweeps; an MLflow experiment of their own",
            add_arguments=lambda parser: _add_plan(_SWEEP, parser),
            details="A Prefect flow. Run again, it resumes.",
        ),
        Command(
            "compare",
            "give the paired differences of two results, with intervals",
            _compare,
            reads="predictions.parquet of both results, params.yaml for the bootstrap",
            writes="against-B.json beside the first",
            add_arguments=_add_compare,
            json=True,
        ),
        Command(
            "audit",
            "list the labels that a result contradicts",
            _audit,
            reads="reports/experiments/NAME/predictions.parquet, data/patches",
            writes="audit.md, audit.csv and audit.png beside it",
            add_arguments=lambda parser: parser.add_argument(
                "name", help="a result of `idc cross-validate`"
            ),
        ),
    ),
)
