"""Train and score a setting fold by fold, each in a workspace of its own.

DVC decides what is up to date, so running again resumes, and a setting that changes only how
patches are scored restores its trained models from the cache.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from idc.experiments.folds import (
    FOLDERS,
    Overrides,
    SplitUnit,
    check_name,
    check_overrides,
    choose_folds,
    fold_overrides,
)
from idc.experiments.results import keep_training_minutes, pool_results
from idc.experiments.training_sets import Pool, load_pool
from idc.runs.workspace import create_workspace

log = logging.getLogger(__name__)

_BEFORE_TRAINING = ("ingest", "sample", "split")


class Runner(Protocol):
    """Brings a workspace up to date: `idc.ops.stage_runner.StageRunner`."""

    def check_inputs(self, root: Path) -> None:
        """Say what is missing before anything runs."""

    def run_stage(self, stage: str, root: Path) -> bool:
        """Bring one stage up to date; return whether it ran."""


@dataclass(frozen=True)
class Setting:
    """What is cross-validated, and how."""

    name: str
    """Folder of the results below `reports/experiments`."""
    overrides: Overrides = field(default_factory=dict)
    """New parameter values by dotted key; the folds set split.mode and split.folds."""
    num_folds: int = 5
    """Folds in all."""
    only: tuple[int, ...] | None = None
    """The folds (from 0) to run; None runs all."""
    split_unit: SplitUnit = "case"
    """What is assigned to the folds; `patch` leaks."""


def cross_validate(root: Path, setting: Setting, runner: Runner) -> None:
    """Train and score each fold, join the test sets in `reports/experiments/<name>/`.

    Raises:
        InputError: If the name, an override or a fold is invalid, before anything runs.
        StageFailedError: If an input is missing or a stage fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    check_name(setting.name)
    check_overrides(root, setting.overrides)
    workspaces: dict[int, Path] = {}
    for fold in choose_folds(setting.num_folds, setting.only):
        log.info("%s: fold %d of 0 to %d", setting.name, fold, setting.num_folds - 1)
        workspaces[fold] = create_workspace(
            root,
            root / FOLDERS / setting.name / f"fold-{fold}",
            fold_overrides(setting.overrides, setting.split_unit, setting.num_folds, fold),
        )
        if len(workspaces) == 1:
            runner.check_inputs(workspaces[fold])
        _run_fold(root, workspaces[fold], runner)
    pool_results(root, setting.name, setting.split_unit, workspaces)


def sample_pool(root: Path, name: str, overrides: Overrides, runner: Runner) -> Pool:
    """Draw the manifest that all runs of an experiment share, and read what will be split.

    Raises:
        StageFailedError: If an input is missing or a stage fails.
        TransientError: If a lock stays held or a server does not answer, however often tried.
    """
    workspace = create_workspace(root, root / FOLDERS / name / "pool", overrides)
    runner.check_inputs(workspace)
    for stage in ("ingest", "sample"):
        runner.run_stage(stage, workspace)
    return load_pool(workspace)


def _run_fold(root: Path, workspace: Path, runner: Runner) -> None:
    for stage in _BEFORE_TRAINING:
        runner.run_stage(stage, workspace)
    started = time.monotonic()
    if runner.run_stage("train", workspace):
        keep_training_minutes(root, workspace, time.monotonic() - started)
    for stage in ("baselines", "predict"):
        runner.run_stage(stage, workspace)
