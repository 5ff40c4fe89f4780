"""One Prefect task per stage: `dvc repro --single-item`, with retries for what passes by itself."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from idc.cli import EXIT_UNAVAILABLE
from idc.core.files import load_json
from idc.core.layout import METRICS, PUBLISHED, REPORT_PAGE
from idc.ops.process_group import AbandonedError, Finished, run_group
from idc.runs.workspace import stage_environment
from idc.stages import STAGES

# a worker's death must not leave a training that nobody waits for; a shell's may
_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID" in os.environ
_STARTER = os.getppid()

_LOCK_HELD = "Unable to acquire lock"
_BLOCKER = re.compile(r"\(PID \d+\): ")  # below "… is busy, it is being blocked by:"
_NOISE = re.compile(r"^(ERROR: )?(failed to reproduce|Traceback)|^$")


class StageFailedError(RuntimeError):
    """A stage ended with an error of its own: retrying would repeat it."""


class TransientError(RuntimeError):
    """The repository lock is held, or the tracking server is away: worth another try."""


async def _passes_by_itself(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    try:
        await state.aresult()
    except TransientError:
        return True
    except BaseException:
        return False
    return False


RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # DVC decides what is up to date: one cache, not two
    "retries": 12,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _passes_by_itself,
}
"""The policy of a task that is tried again where what ended it passes by itself."""


@task(**RETRIED, task_run_name="{stage}")
def run_stage(stage: str, root: Path, timeout_s: float | None = None) -> bool:
    """Bring one stage up to date, streaming its lines into the run's log.

    Returns:
        Whether it ran; false where it was up to date, or came back from the cache.

    Raises:
        StageFailedError: With the stage's last error line.
        TransientError: If the repository lock is held or the tracking server is away.
        TimeoutError: If it takes longer than `timeout_s`; all its processes are then ended.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    return was_run(stage, _run(stage, command, root, timeout_s).lines)


@task(**RETRIED)
def check_inputs(root: Path) -> None:
    """Say what is missing (archive, weights, store) before anything runs.

    Raises:
        StageFailedError: Naming what is missing and what to do.
        TransientError: If the tracking server is away.
    """
    _run("check", [sys.executable, "-m", "idc", "check"], root, None)


@task(**RETRIED)
def reconcile_store(root: Path) -> None:
    """Publish once more: changes nothing, or fixes a wiped store; DVC then records the result.

    Raises:
        StageFailedError: If the store cannot be written.
        TransientError: If the tracking server is away.
    """
    before = (root / PUBLISHED).read_bytes()
    _run("publish", [sys.executable, "-m", "idc", "publish"], root, None)
    if (root / PUBLISHED).read_bytes() != before:
        command = [sys.executable, "-m", "dvc", "commit", "--force", "publish"]
        _run("publish", command, root, None)


@task(cache_policy=NO_CACHE)
def show_results(root: Path) -> None:
    """Publish the metrics and where everything is as Prefect artifacts."""
    metrics = load_json(root / METRICS)
    published = load_json(root / PUBLISHED)
    rows = result_rows(metrics)
    create_table_artifact(rows, key="test-metrics", description="Test, natural prevalence")
    create_markdown_artifact(
        f"- report: `{root / REPORT_PAGE}`\n"
        f"- MLflow run: `{published['run_id']}` (`make ui`)\n"
        f"- model: `models:/{published['model_name']}/{published['model_version']}`\n",
        key="results",
        description="Where the results are",
    )


def result_rows(metrics: Mapping[str, float]) -> list[dict[str, str | float]]:
    """Return a row per metric of test that has an interval, for people to read.

    Beside it, where they were measured, the figure with context and that of the colour baseline.
    """
    others = {"with neighbours": "test_context", "colour baseline": "test_colour"}
    rows: list[dict[str, str | float]] = []
    for key in metrics:
        name = key.removeprefix("test/")
        if name == key or f"{key}_low" not in metrics:
            continue
        row: dict[str, str | float] = {
            "metric": name,
            "value": round(metrics[key], 4),
            "low": round(metrics[f"{key}_low"], 4),
            "high": round(metrics[f"{key}_high"], 4),
        }
        for title, subset in others.items():
            known = f"{subset}/{name}" in metrics
            row[title] = round(metrics[f"{subset}/{name}"], 4) if known else ""
        rows.append(row)
    return rows


def _run(stage: str, command: list[str], root: Path, timeout_s: float | None) -> Finished:
    assert stage in (*STAGES, "check")
    try:
        finished = run_group(
            command,
            folder=root,
            environment=stage_environment(root),
            timeout_s=timeout_s,
            on_line=get_run_logger().info,
            is_abandoned=_is_abandoned,
        )
    except AbandonedError:
        raise StageFailedError(
            f"{stage}: the worker that started this run is gone, so the stage was ended: start "
            "one (`make up`), then `prefect flow-run retry` goes on from here"
        ) from None
    _require_success(stage, finished)
    return finished


def _is_abandoned() -> bool:
    return _STARTED_BY_WORKER and os.getppid() != _STARTER


def _require_success(stage: str, finished: Finished) -> None:
    if finished.returncode == 0:
        return
    elsewhere = [line for line in finished.lines if _BLOCKER.search(line)]
    if elsewhere:
        raise StageFailedError(
            f"{stage}: runs elsewhere in this folder, by {' and '.join(elsewhere)}: wait for it "
            "(if there is no such process: remove .dvc/tmp/rwlock)"
        )
    message = f"{stage}: {last_error_line(finished.lines)}"
    away = finished.returncode == EXIT_UNAVAILABLE or any(
        f"exited with {EXIT_UNAVAILABLE}" in line for line in finished.lines
    )
    held = any(_LOCK_HELD in line for line in finished.lines)
    if away or held:
        raise TransientError(message)
    raise StageFailedError(message)


def was_run(stage: str, lines: tuple[str, ...]) -> bool:
    """Say by DVC's lines whether it ran the stage's command."""
    return f"Running stage '{stage}':" in lines


def last_error_line(lines: tuple[str, ...]) -> str:
    """Return what the stage itself said last about its failure, without DVC's echo of it."""
    said = [line for line in lines if not _NOISE.match(line)]
    errors = [line for line in said if "error" in line.lower()]
    chosen = (errors or said or ["no output"])[-1]
    return re.sub(r"^idc \w+: error: ", "", chosen)
