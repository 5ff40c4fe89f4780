"""The command `synth`, which writes a synthetic archive."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from idc.cli.command import Commands, add_command
from idc.core import layout
from idc.core.errors import InputError

if TYPE_CHECKING:
    from idc.synthetic import Shortcut

log = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add the command, which needs no project around it."""
    synth = add_command(
        commands,
        "synth",
        _synthesise,
        what="write a synthetic archive, to try things with",
        anywhere=True,
    )
    synth.add_argument("archive", type=Path, help="the zip to write")
    synth.add_argument("--cases", type=int, default=30, help="cases (default: 30)")
    size = synth.add_mutually_exclusive_group()
    size.add_argument("--patches-per-case", type=int, help="mean (default: 100)")
    size.add_argument(
        "--patches", type=int, help="total; the public archive has 277524 of 279 cases"
    )
    synth.add_argument(
        "--difficulty",
        choices=("texture", "real"),
        default="texture",
        help="texture (default): colour tells little; real: statistics of the public archive",
    )
    synth.add_argument(
        "--null", action="store_true", help="labels that nothing in the pixels tells"
    )
    synth.add_argument(
        "--shortcut",
        choices=("stain", "pad", "ink"),
        help="plant a cue that goes with the label: a haze, a grey edge or a pen stroke",
    )
    synth.add_argument(
        "--cue-share-positive", type=float, help="share of IDC+ with the cue (default: 0.9)"
    )
    synth.add_argument(
        "--cue-share-negative", type=float, help="share of IDC- with the cue (default: 0.05)"
    )
    synth.add_argument("--seed", type=int, default=17, help="seed (default: 17)")
    synth.add_argument(
        "--masks", type=Path, help="new folder for masks of tumour nests and cue, outside data/raw"
    )


def _synthesise(options: argparse.Namespace) -> int:
    from idc.core.processes import count_cores
    from idc.synthetic import create_archive

    if options.masks is not None and _lies_in(options.masks, layout.RAW):
        raise InputError(
            f"--masks {options.masks}: ingest would read it as patches: name a folder outside "
            f"{layout.RAW}"
        )
    per_case = options.patches_per_case
    if per_case is None and options.patches is None:
        per_case = 100
    create_archive(
        options.archive,
        num_cases=options.cases,
        patches_per_case=per_case,
        num_patches=options.patches,
        seed=options.seed,
        difficulty=options.difficulty,
        null=options.null,
        shortcut=_shortcut(options),
        masks=options.masks,
        num_processes=count_cores(),
    )
    log.info("%s written", options.archive)
    return 0


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _shortcut(options: argparse.Namespace) -> "Shortcut | None":
    from idc.synthetic import Shortcut

    shares = {
        name: share
        for name in ("share_positive", "share_negative")
        if (share := getattr(options, f"cue_{name}")) is not None
    }
    if options.shortcut is not None:
        return Shortcut(options.shortcut, **shares)
    if shares:
        raise InputError("--cue-share-positive, --cue-share-negative: --shortcut is missing")
    return None
