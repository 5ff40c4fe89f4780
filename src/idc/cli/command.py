"""What every command is: a name, a line, what it reads and writes, a function of its options."""

import argparse
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from idc.core.errors import InputError

EXIT_FAILED = 1
EXIT_INPUT = 2

EXIT_CODES = """\
Exit codes: 0 done; 1 something failed or differs (`idc doctor`: is missing); 2 wrong or missing
input, said in one line; 75 a store or lock is not available: the same command may succeed later."""


@dataclass(frozen=True)
class Command:
    """One command, of which the list of commands needs nothing but its name and line."""

    name: str
    """What a user types."""
    what: str
    """What it does, in the list of commands."""
    run: Callable[[argparse.Namespace], int]
    """From its options to the exit code."""
    reads: str
    writes: str
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None
    """Adds its options, when it is the one that was typed."""
    details: str = ""
    """More about it, for its own help."""
    json: bool = False
    """Whether `--json` prints its answer as one JSON object."""
    anywhere: bool = False
    """Whether it runs outside a project as well."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that libraries read, where the user has not set them."""


@dataclass(frozen=True)
class Group:
    """Commands of one part of a model's life."""

    title: str
    commands: tuple[Command, ...]
    line: str | None = None
    """Lists all of them in one line, where each by itself says little."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest name of an unknown option."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, fix=f"`{self.prog} --help` shows its options")

    def reject_unknown_options(self, arguments: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in arguments:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in known:
                raise unknown("option", name, known, f"`{self.prog} --help`")


def parse_options(command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of a command; `--help` prints its help and ends the process.

    Raises:
        InputError: If an option is unknown, or a value is missing or wrong.
    """
    parser = create_parser(command)
    parser.reject_unknown_options(arguments)
    return parser.parse_args(arguments)


def create_parser(command: Command) -> _Parser:
    """Return the parser of a command, with all that its help says."""
    parser = _Parser(
        prog=f"idc {command.name}",
        description="\n".join(
            line
            for line in (
                f"{command.what[0].upper()}{command.what[1:]}.",
                command.details,
                f"\nReads:  {command.reads}.\nWrites: {command.writes}.",
            )
            if line
        ),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    if command.json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def unknown(kind: str, name: str, known: Sequence[str], listed_by: str) -> InputError:
    """Return the error about a name that there is not, with the nearest that there is."""
    near = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]}?" if near else f"{listed_by} lists what there is"
    return InputError(f"there is no {kind} {name}", fix=fix)


def print_json(content: Any) -> None:  # noqa: ANN401  (any JSON value)
    """Print one JSON object, paths as text."""
    print(json.dumps(content, indent=2, default=_encode))


def _encode(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
