"""Cross-validating a base and its variants one after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from idc.core.errors import InputError, StageFailedError
from idc.experiments.cross_validation import Runner, Setting, cross_validate
from idc.experiments.folds import BASE, Plan
from idc.experiments.results import compare_results, read_figures

Described = dict[str, dict[str, Any]]
"""What is known of each variant that has results, by name."""
Reasons = dict[str, str]
"""Why a variant has no results, by name."""


def run_variants(
    root: Path,
    plan: Plan,
    runner: Runner,
    describe: Callable[[Path, Plan, str], dict[str, Any]],
) -> Iterator[tuple[Described, Reasons]]:
    """Run the base, its repeats and every variant of a plan, as if it had no rungs.

    A variant that fails, also to be described, is kept with its reason, and the others continue.

    Args:
        root: The project.
        plan: What is run.
        runner: Brings workspaces up to date.
        describe: Called with `root`, `plan` and the name of a variant whose results are there.

    Yields:
        After each variant, all that are done and all that failed so far.

    Raises:
        InputError: If the base cannot be run with these settings.
        StageFailedError: If a stage of the base fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    done: Described = {}
    failed: Reasons = {}
    for name, overrides in plan.all_overrides().items():
        setting = Setting(plan.result_name(name), overrides, plan.folds.num_folds, plan.folds.only)
        try:
            cross_validate(root, setting, runner)
            done[name] = describe(root, plan, name)
        except (InputError, StageFailedError) as error:
            if name == BASE:
                raise
            failed[name] = str(error)
        yield done, failed


def describe_result(root: Path, plan: Plan, name: str) -> dict[str, Any]:
    """Return the figures of a variant that has results.

    `overrides`, `num_patches`, `num_cases`, `training_minutes` (None: unknown), `auroc` and
    `balanced_accuracy` (value, low, high); unless it is the base, `differences` to the base by
    metric (value, low, high).

    Raises:
        InputError: If it was not tested on the patches and folds of the base.
    """
    result = plan.result_name(name)
    figures = read_figures(root, result)
    minutes = [fold["training_minutes"] for fold in figures["folds"]]
    described = {
        "overrides": {**plan.base.repeats, **plan.variants}.get(name, {}),
        **{key: figures[key] for key in ("num_patches", "num_cases", "auroc", "balanced_accuracy")},
        "training_minutes": None if None in minutes else sum(minutes),
    }
    if name == BASE:
        return described
    return described | {"differences": compare_results(root, result, plan.result_name(BASE))}
