"""Commands about the pipeline as a whole: `plan`, `pipeline`, `retrain`."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from idc.cli.command import Command, Group, print_json
from idc.cli.params import PARAMS

if TYPE_CHECKING:
    from idc.runs.plan import PlannedStage

_STAGES_READ = "params.yaml, data/raw, src/idc, as dvc.yaml says"
_STAGES_WRITE = "data/, models/, reports/, dvc.lock, a run and a model version in MLflow"


def start_flow(module: str, *arguments: str) -> NoReturn:
    """Go on as `python -m MODULE …` in the project's root: nothing in `src` imports Prefect.

    Raises:
        InputError: If `PREFECT_API_URL` names a server that does not answer.
    """
    from idc.ops.descendants import end_descendants_at_death
    from idc.ops.prefect_api import require_server
    from idc.runs.workspace import stage_environment

    require_server()
    sys.stdout.flush()
    command = [sys.executable, "-m", module, *arguments]
    # Prefect ends its temporary server only where the flow's process comes to its end by itself
    environment = end_descendants_at_death(stage_environment(Path.cwd()))
    # Prefect makes its own folder, but not the one around it, which a fresh clone lacks
    Path(environment["PREFECT_HOME"]).expanduser().mkdir(parents=True, exist_ok=True)
    # no process between the shell and the flow, which so gets every signal itself
    os.execve(sys.executable, command, environment)  # noqa: S606


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--set`."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="new values, nested as in params.yaml"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="new values by dotted key, such as train.epochs=3; they win over --config",
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> int:
    from idc.runs.plan import plan_run

    stages = plan_run(Path.cwd())
    if options.json:
        print_json({"stages": [asdict(stage) | {"restorable": stage.restorable}
                               for stage in stages]})  # fmt: skip
        return 0
    for stage in stages:
        print(f"{stage.name:9} {_describe_plan(stage)}")
    return 0


def _describe_plan(stage: "PlannedStage") -> str:
    reasons = "; ".join(stage.reasons)
    if stage.restorable:
        return f"comes back from the cache, else runs: {reasons}"
    if stage.reasons:
        return f"runs: {reasons}"
    if stage.after:
        return f"runs if what it reads changes: after {', '.join(stage.after)}"
    return "up to date"


def _pipeline(options: argparse.Namespace) -> int:
    start_flow("flows.pipeline", *_changes(options))


def _retrain(options: argparse.Namespace) -> int:
    start_flow("flows.retraining", *_changes(options))


def _changes(options: argparse.Namespace) -> list[str]:
    """Return the overrides as the flow's argument, checked before anything of Prefect starts."""
    from idc.experiments.folds import try_overrides
    from idc.experiments.plan_files import read_overrides

    overrides = read_overrides(options.config, options.set)
    try_overrides(Path.cwd(), overrides)
    return [json.dumps(overrides)] if overrides else []


GROUP = Group(
    "Pipeline",
    (
        PARAMS,
        Command(
            "plan",
            "say which stages would run, and why",
            _plan,
            reads="dvc.yaml, dvc.lock and what they name",
            writes="nothing",
            json=True,
        ),
        Command(
            "pipeline",
            "bring every stage up to date: check, ten stages, MLflow, record",
            _pipeline,
            reads=_STAGES_READ,
            writes=f"{_STAGES_WRITE}; with other values all of it in .workspaces/",
            add_arguments=add_overrides,
            details="A Prefect flow; `dvc repro` brings the stages up to date without Prefect.",
        ),
        Command(
            "retrain",
            "if data/raw holds anything new: drift, pipeline, promote or keep",
            _retrain,
            reads=f"{_STAGES_READ}; the champion and its profile in MLflow",
            writes=f"in .workspaces/: {_STAGES_WRITE}; reports/decision.json; the promotion log, "
            "the alias champion",
            add_arguments=add_overrides,
            details="A Prefect flow, which `idc up` also deploys with a schedule.",
        ),
    ),
)
