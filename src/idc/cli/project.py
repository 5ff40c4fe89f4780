"""Commands that look at the project and change nothing: `check`, `plan`, `doctor`."""

import argparse
import logging
from pathlib import Path

from idc.cli.command import Commands, add_command
from idc.core import layout
from idc.core.config import load_params
from idc.ops.doctor import examine, require_inputs
from idc.runs.plan import PlannedStage, plan_run

log = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add the commands of this group."""
    add_command(commands, "check", _check, what="say what is missing before anything runs")
    add_command(commands, "plan", _plan, what="say what a run would do, and why")
    add_command(
        commands, "doctor", _doctor, what="say what is missing, with the command that fixes it"
    )


def _check(_: argparse.Namespace) -> int:
    require_inputs(load_params(layout.PARAMS), Path.cwd())
    log.info("archive, store and weights are there")
    return 0


def _plan(_: argparse.Namespace) -> int:
    for stage in plan_run(Path.cwd()):
        print(f"{stage.name:9} {_describe_plan(stage)}")
    return 0


def _describe_plan(stage: PlannedStage) -> str:
    reasons = "; ".join(stage.reasons)
    if stage.restorable:
        return f"comes back from the cache, else runs: {reasons}"
    if stage.reasons:
        return f"runs: {reasons}"
    if stage.after:
        return f"runs if what it reads changes: after {', '.join(stage.after)}"
    return "up to date"


def _doctor(_: argparse.Namespace) -> int:
    findings = examine(load_params(layout.PARAMS), Path.cwd())
    for finding in findings:
        print(f"{finding.state:8} {finding.what}: {finding.said}")
        if finding.fix:
            print(f"{'':8}   -> {finding.fix}")
    return int(any(finding.state == "missing" for finding in findings))
