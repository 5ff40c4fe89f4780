"""What every command has: a parser, a function of its options, an exit code."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

EXIT_DIFFERENT = 1
EXIT_INPUT = 2
EXIT_UNAVAILABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a group adds its commands to."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    what: str,
    description: str | None = None,
    anywhere: bool = False,
) -> argparse.ArgumentParser:
    """Add a command and return its parser, for its arguments.

    Args:
        commands: Where it is added.
        name: What a user types.
        run: From its options to the exit code.
        what: What it does, in the list of commands.
        description: More of it, for its own help.
        anywhere: Whether it runs outside a project as well.
    """
    parser = commands.add_parser(name, help=what, description=description)
    parser.set_defaults(run=run, anywhere=anywhere)
    return parser
