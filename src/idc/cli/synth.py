"""The command `synth`, which writes a synthetic archive."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from idc.cli.command import Command
from idc.core import layout
from idc.core.errors import InputError

if TYPE_CHECKING:
    from idc.synthetic import Shortcut

log = logging.getLogger(__name__)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, help="the zip to write")
    parser.add_argument("--cases", type=int, default=30, help="cases (default: 30)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--patches-per-case", type=int, help="mean (default: 100)")
    size.add_argument(
        "--patches", type=int, help="total; the public archive has 277524 of 279 cases"
    )
    parser.add_argument(
        "--difficulty",
        choices=("texture", "real"),
        default="texture",
        help="texture (default): colour tells little; real: statistics of the public archive",
    )
    parser.add_argument(
        "--null", action="store_true", help="labels that nothing in the pixels tells"
    )
    parser.add_argument(
        "--shortcut",
        choices=("stain", "pad", "ink"),
        help="plant a cue that goes with the label: a haze, a grey edge or a pen stroke",
    )
    parser.add_argument(
        "--cue-share-positive", type=float, help="share of IDC+ with the cue (default: 0.9)"
    )
    parser.add_argument(
        "--cue-share-negative", type=float, help="share of IDC- with the cue (default: 0.05)"
    )
    parser.add_argument("--seed", type=int, default=17, help="seed (default: 17)")
    parser.add_argument(
        "--masks", type=Path, help="new folder for masks of tumour nests and cue, outside data/raw"
    )


def _synthesise(options: argparse.Namespace) -> int:
    from idc.core.processes import count_cores
    from idc.synthetic import ArchivePlan, create_archive

    if options.masks is not None and _lies_in(options.masks, layout.RAW):
        raise InputError(
            "ingest would read it as patches",
            f"--masks {options.masks}",
            f"name a folder outside {layout.RAW}",
        )
    per_case = options.patches_per_case
    if per_case is None and options.patches is None:
        per_case = 100
    create_archive(
        options.archive,
        ArchivePlan(
            num_cases=options.cases,
            patches_per_case=per_case,
            num_patches=options.patches,
            seed=options.seed,
            difficulty=options.difficulty,
            null=options.null,
            shortcut=_shortcut(options),
        ),
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


COMMAND = Command(
    "synth",
    "write a synthetic archive, to try things with",
    _synthesise,
    reads="nothing",
    writes="the zip; with --masks a folder of masks",
    add_arguments=_add_arguments,
    anywhere=True,
)
