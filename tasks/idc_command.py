"""Run `idc COMMAND` in a folder, its lines into the run's log, as the stages are run."""

import sys
from pathlib import Path

from prefect import get_run_logger

from idc.cli import EXIT_UNAVAILABLE
from idc.ops.process_group import run_group
from idc.runs.workspace import stage_environment
from idc.tracking.connection import tracking_uri
from tasks.stages import StageFailedError, TransientError, last_error_line


def run_idc(command: str, root: Path) -> None:
    """Run one sub-command with the code of `root`.

    Raises:
        StageFailedError: With its last error line.
        TransientError: If the tracking server is away.
    """
    finished = run_group(
        [sys.executable, "-m", "idc", command],
        folder=root,
        # the project's store, whatever folder of it is worked in
        environment=stage_environment(root) | {"MLFLOW_TRACKING_URI": tracking_uri(Path.cwd())},
        timeout_s=None,
        on_line=get_run_logger().info,
    )
    if finished.returncode == 0:
        return
    message = f"{command}: {last_error_line(finished.lines)}"
    if finished.returncode == EXIT_UNAVAILABLE:
        raise TransientError(message)
    raise StageFailedError(message)
