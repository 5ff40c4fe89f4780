"""The command `idc`: all that a person types, in the order of a model's life.

A module per group of commands. The list of commands is made of names and lines alone; the options
of a command, and what it needs beyond them, are imported when it is the one that was typed, so
`idc --help` loads neither torch nor pandas nor MLflow.
"""

import json
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import idc
from idc.cli import experiments, models, pipeline, stages, start, upkeep
from idc.cli.command import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_INPUT,
    Command,
    parse_options,
    unknown,
)
from idc.core import layout
from idc.core.dvc import experiment_project
from idc.core.environment import PICTURES, QUIET, exempt_loopback
from idc.core.errors import (
    EXIT_UNAVAILABLE,
    InputError,
    StageFailedError,
    StoreUnavailableError,
    TransientError,
)

_EXIT_PIPE = 128 + signal.SIGPIPE
_OWN_CODE = Path("src/idc")

__all__ = ["COMMANDS", "EXIT_FAILED", "EXIT_INPUT", "EXIT_UNAVAILABLE", "GROUPS", "main"]

GROUPS = (
    start.GROUP,
    pipeline.GROUP,
    stages.GROUP,
    experiments.GROUP,
    models.GROUP,
    upkeep.GROUP,
)
COMMANDS: dict[str, Command] = {
    command.name: command for group in GROUPS for command in group.commands
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code.

    0 done, 1 something failed or differs (`doctor`: is missing), 2 wrong or missing input, 75 try
    again. Where the reader of a pipe stops early, as `| head -1` does, the command ends as SIGPIPE
    ends others: 141.
    """
    try:
        try:
            return _main(arguments)
        finally:
            _flush_output()  # not at the interpreter's exit, where no error can be caught
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        with Path(os.devnull).open("wb") as devnull:  # takes what is flushed at the exit
            os.dup2(devnull.fileno(), sys.stdout.fileno())
        return _EXIT_PIPE


def _main(arguments: Sequence[str] | None) -> int:
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if name in ("", "-h", "--help", "help"):
        print(format_help())
        return 0 if name else EXIT_INPUT
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return _run(name, rest)
    except InputError as error:
        _report_input(name, error, as_json="--json" in rest)
        return EXIT_INPUT
    except (StoreUnavailableError, TransientError) as error:
        print(f"idc {name}: try again: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except StageFailedError as error:
        print(f"idc {name}: {error}", file=sys.stderr)
        return EXIT_FAILED


def _flush_output() -> None:
    if sys.stdout is not None:  # as it is where the process was started with it closed
        sys.stdout.flush()


def _is_output_closed() -> bool:
    """Say whether the reader of standard output has gone: another pipe may have broken."""
    output = select.poll()
    try:
        output.register(sys.stdout, 0)
    except (OSError, ValueError, TypeError):  # it is no file, closed, or there is none
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def format_help() -> str:
    """Return the list of all commands, on one screen."""
    lines = [idc.__doc__ or "", "Usage: idc COMMAND [options]; `idc COMMAND --help` says more."]
    for group in GROUPS:
        lines += ["", group.title]
        if group.line is not None:
            lines.append(f"  {group.line}")
            continue
        lines += [f"  {command.name:<15} {command.what}" for command in group.commands]
    return "\n".join([*lines, "", EXIT_CODES])


def _run(name: str, arguments: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise unknown("command", name, list(COMMANDS), "`idc --help`")
    command = COMMANDS[name]
    options = parse_options(command, arguments)
    # here alone, before anything that reads them is imported; of QUIET, the user's values hold
    quiet = {**QUIET, **command.environment}
    os.environ.update({**quiet, **os.environ, **PICTURES, **exempt_loopback(os.environ)})
    if not command.anywhere:
        _require_project()
        if experiment_project(Path.cwd()) is not None:
            _join_project([name, *arguments])
        _require_own_code()
    return command.run(options)


def _report_input(name: str, error: InputError, *, as_json: bool) -> None:
    if as_json:
        fault = {"what": error.what, "where": error.where, "fix": error.fix}
        print(json.dumps({"error": fault}, indent=2))
    # "idc trian: error: there is no command trian" would say it twice
    prefix = f"idc {name}: error:" if name in COMMANDS else "idc: error:"
    for line in str(error).splitlines():
        print(f"{prefix} {line}", file=sys.stderr)


def _require_project() -> None:
    if not layout.DVC_FILE.is_file():
        raise InputError(f"{layout.DVC_FILE} is not here", fix="run from the project's root")


def _join_project(arguments: Sequence[str]) -> None:
    """Let an experiment in DVC's temporary folder run that folder's code, on the project's store.

    The folder's name is new each time, so no user could name its code, and it is removed with all
    that lies in it.
    """
    from idc.runs.workspace import stage_environment

    environment = stage_environment(Path.cwd())
    has_begun = os.environ.get("PYTHONPATH") == environment["PYTHONPATH"]
    if not _is_own_code() and not has_begun:
        _flush_output()
        command = [sys.executable, "-m", "idc", *arguments]
        os.execve(sys.executable, command, environment)  # noqa: S606
    os.environ["MLFLOW_TRACKING_URI"] = environment["MLFLOW_TRACKING_URI"]


def _require_own_code() -> None:
    """Reject a `dvc.yaml` of another checkout than the code's, as an editable install would run."""
    if not _is_own_code():
        own = _OWN_CODE.resolve()
        raise InputError(
            f"the code of {_code()} would run on {own}", fix=f"set PYTHONPATH={own.parent}"
        )


def _is_own_code() -> bool:
    """Say whether the code that runs is that of this folder, where it has any."""
    return not _OWN_CODE.is_dir() or _OWN_CODE.resolve() == _code()


def _code() -> Path:
    return Path(idc.__file__).resolve().parent
