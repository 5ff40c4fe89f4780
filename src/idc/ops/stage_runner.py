"""Run a stage, or another command of `idc`, in a folder: in a process group that is monitored.

DVC decides whether a stage runs: `dvc repro --single-item STAGE`. Failures are classified: an error
of the command itself is final (`StageFailedError`), a held lock or a store that does not answer is
worth a retry (`TransientError`). The caller retries: `StageRunner` here, Prefect in
`tasks/stages.py`.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from idc.core.errors import EXIT_UNAVAILABLE, StageFailedError, TransientError
from idc.ops.process_group import Finished, run_group
from idc.runs.workspace import stage_environment
from idc.stages import STAGES

_LOCK_HELD = "Unable to acquire lock"
_BLOCKER = re.compile(r"\(PID \d+\): ")  # follows "… is busy, it is being blocked by:"
_NOISE = re.compile(r"^(ERROR: )?(failed to reproduce|Traceback)|^$")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Watch:
    """How a command is monitored while it runs."""

    on_line: Callable[[str], None]
    """Takes each line that it prints."""
    timeout_s: float | None = None
    """Seconds after which it and all its processes are ended; None waits forever."""
    is_abandoned: Callable[[], bool] = lambda: False
    """Whether what started it has ended; called often."""


def reproduce_stage(stage: str, root: Path, watch: Watch) -> bool:
    """Bring one stage of `root` up to date.

    Returns:
        Whether it ran; false if it was up to date or restored from the cache.

    Raises:
        StageFailedError: With the stage's last error line.
        TransientError: If the repository lock is held or the tracking server does not answer.
        TimeoutError: If it takes longer than the watch allows.
        AbandonedError: As soon as the watch says so.
    """
    assert stage in STAGES
    finished = run_command(stage, ["dvc", "repro", "--single-item", stage], root, watch)
    return was_run(stage, finished.lines)


def run_command(what: str, module: Sequence[str], root: Path, watch: Watch) -> Finished:
    """Run `python -m MODULE …` with the code of `root`.

    Args:
        what: Its name in messages, such as the stage.
        module: The module and its arguments.
        root: The project or workspace.
        watch: How it is monitored.

    Raises:
        StageFailedError: With its last error line.
        TransientError: If the repository lock is held or the tracking server does not answer.
        TimeoutError: If it takes longer than the watch allows.
        AbandonedError: As soon as the watch says so.
    """
    finished = run_group(
        [sys.executable, "-m", *module],
        folder=root,
        environment=stage_environment(root),
        timeout_s=watch.timeout_s,
        on_line=watch.on_line,
        is_abandoned=watch.is_abandoned,
    )
    require_success(what, finished)
    return finished


@dataclass(frozen=True)
class StageRunner:
    """Runs one stage after the other, and retries what is likely to succeed later."""

    watch: Watch
    num_retries: int = 12
    wait_s: float = 5.0

    def check_inputs(self, root: Path) -> None:
        """Say what `root` lacks (archive, weights, store) before anything runs.

        Raises:
            StageFailedError: Naming what is missing and what to do.
            TransientError: If the tracking server still does not answer after all retries.
        """
        self._retry(
            lambda: run_command("check", ["idc", "check", "--no-publish"], root, self.watch)
        )

    def run_stage(self, stage: str, root: Path) -> bool:
        """Bring one stage up to date; return whether it ran.

        Raises:
            StageFailedError: With the stage's last error line.
            TransientError: If after all retries a lock is still held or a server does not answer.
        """
        return self._retry(lambda: reproduce_stage(stage, root, self.watch))

    def _retry(self, action: Callable[[], _T]) -> _T:
        for _ in range(self.num_retries):
            try:
                return action()
            except TransientError as error:
                self.watch.on_line(f"{error}: retrying in {self.wait_s:.0f} s")
                time.sleep(self.wait_s)
        return action()


def require_success(what: str, finished: Finished) -> None:
    """Do nothing if the command succeeded, else classify its failure.

    Raises:
        StageFailedError: If the command itself failed.
        TransientError: If the same command may succeed later.
    """
    if finished.returncode == 0:
        return
    elsewhere = [line for line in finished.lines if _BLOCKER.search(line)]
    if elsewhere:
        raise StageFailedError(
            f"{what}: runs elsewhere in this folder, by {' and '.join(elsewhere)}: wait for it "
            "(if there is no such process: remove .dvc/tmp/rwlock)"
        )
    message = f"{what}: {last_error_line(finished.lines)}"
    unavailable = finished.returncode == EXIT_UNAVAILABLE or any(
        f"exited with {EXIT_UNAVAILABLE}" in line for line in finished.lines
    )
    held = any(_LOCK_HELD in line for line in finished.lines)
    if unavailable or held:
        raise TransientError(message)
    raise StageFailedError(message)


def was_run(stage: str, lines: tuple[str, ...]) -> bool:
    """Say, from the lines that DVC printed, whether it ran the command of the stage."""
    return f"Running stage '{stage}':" in lines


def last_error_line(lines: tuple[str, ...]) -> str:
    """Return the last error line of the stage itself, without DVC's echo of it."""
    said = [line for line in lines if not _NOISE.match(line)]
    errors = [line for line in said if "error" in line.lower()]
    chosen = (errors or said or ["no output"])[-1]
    return re.sub(r"^idc \w+: error: ", "", chosen)
