"""The commands that run one stage each, as `dvc.yaml` calls them."""

import argparse
import importlib

from idc.cli.command import Commands, add_command
from idc.core import layout
from idc.core.config import load_params
from idc.stages import STAGES


def add_commands(commands: Commands) -> None:
    """Add a command per stage."""
    for stage in STAGES:
        what = f"run the stage {stage} (dvc repro does, when it must)"
        add_command(commands, stage, _run_stage, what=what)


def _run_stage(options: argparse.Namespace) -> int:
    params = load_params(layout.PARAMS)
    importlib.import_module(f"idc.stages.{options.command}").run(params)
    return 0
