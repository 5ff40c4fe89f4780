"""The `idc` command: one sub-command per stage, and what goes with them.

A module per group of commands: `stages.py`, `project.py` (what is missing, what would run),
`upkeep.py` (runs and the local store), `synth.py`, `models.py` (promotion, drift, reproduction).
What a command needs beyond reading its options is imported when it runs, so that
`idc sample --help` does not load torch.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import idc
from idc.cli import models, project, stages, synth, upkeep
from idc.cli.command import EXIT_INPUT, EXIT_UNAVAILABLE
from idc.core import layout
from idc.core.errors import InputError, StoreUnavailableError

__all__ = ["EXIT_INPUT", "EXIT_UNAVAILABLE", "main"]

_GROUPS = (stages, project, upkeep, synth, models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit code.

    0 done, 1 something is missing or could not be reproduced, 2 wrong input, 75 try again.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return _run(options)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"idc {options.command}: error: {line}", file=sys.stderr)
        return EXIT_INPUT
    except StoreUnavailableError as error:
        print(f"idc {options.command}: try again: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="idc", description=idc.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    if not options.anywhere:
        _require_own_code()
    code: int = options.run(options)
    return code


def _require_own_code() -> None:
    """Refuse to serve a `dvc.yaml` with another checkout's code, as an editable install would."""
    if not layout.DVC_FILE.is_file():
        raise InputError(f"{layout.DVC_FILE} is not here: run from the project's root")
    code = Path(idc.__file__).resolve()
    own = Path("src/idc").resolve()
    if own.is_dir() and own not in code.parents:
        raise InputError(
            f"the code of {code.parent} would run on {own}: set PYTHONPATH={own.parent}"
        )
