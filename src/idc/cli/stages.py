"""The commands that run one stage each, as `dvc.yaml` calls them."""

import argparse
import importlib
from functools import partial

from idc.cli.command import Command, Group
from idc.core import layout
from idc.stages import STAGES


def _run_stage(stage: str, _: argparse.Namespace) -> int:
    from idc.core.config import load_params
    from idc.ops.under_dvc import end_with_dvc

    end_with_dvc()
    importlib.import_module(f"idc.stages.{stage}").run(load_params(layout.PARAMS))
    return 0


GROUP = Group(
    "One stage each (`dvc repro STAGE` calls them, when it must)",
    tuple(
        Command(
            stage,
            f"run the stage {stage} alone, whether or not it is up to date",
            partial(_run_stage, stage),
            reads=f"params.yaml and what dvc.yaml lists as deps of {stage}",
            writes=f"what dvc.yaml lists as outs of {stage}",
        )
        for stage in STAGES
    ),
    line=" ".join(STAGES),
)
