"""One Prefect task per stage: its retries, and what Prefect shows about it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from idc.core.errors import StageFailedError, TransientError
from idc.core.files import load_json
from idc.core.layout import METRICS, PUBLISHED, REPORT_PAGE
from idc.ops.process_group import AbandonedError
from idc.ops.stage_runner import Watch, reproduce_stage, run_command

# the death of a worker must not leave a training that nobody waits for; that of a shell may
_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID" in os.environ
_STARTER = os.getppid()


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
"""The policy of a task that is retried after a failure that is likely to be temporary."""


@task(**RETRIED, task_run_name="{stage}")
def run_stage(stage: str, root: Path, timeout_s: float | None = None) -> bool:
    """Bring one stage up to date, streaming its output into the log of the run.

    Returns:
        Whether it ran; false if it was up to date or restored from the cache.

    Raises:
        StageFailedError: With the stage's last error line.
        TransientError: If the repository lock is held or the tracking server does not answer.
        TimeoutError: If it takes longer than `timeout_s`; all its processes are then ended.
    """
    with _naming_abandonment(stage):
        return reproduce_stage(stage, root, _watch(timeout_s))


@task(**RETRIED)
def check_inputs(root: Path) -> None:
    """Say what is missing (archive, weights, store) before anything runs.

    Raises:
        StageFailedError: Naming what is missing and what to do.
        TransientError: If the tracking server does not answer.
    """
    run_attended("check", ["idc", "check"], root)


@task(**RETRIED)
def reconcile_store(root: Path) -> None:
    """Publish again: changes nothing, or repairs a wiped store; DVC then records the result.

    Raises:
        StageFailedError: If the store cannot be written.
        TransientError: If the tracking server does not answer.
    """
    before = (root / PUBLISHED).read_bytes()
    run_attended("publish", ["idc", "publish"], root)
    if (root / PUBLISHED).read_bytes() != before:
        run_attended("publish", ["dvc", "commit", "--force", "publish"], root)


@task(cache_policy=NO_CACHE)
def show_results(root: Path) -> None:
    """Publish the metrics, and where the results are, as Prefect artifacts."""
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
    """Return a row per test metric that has an interval, for people to read.

    If measured, it also holds the metric with context and that of the colour baseline.
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


def run_attended(what: str, module: Sequence[str], root: Path) -> None:
    """Run `python -m MODULE …` with the code of `root`, streaming its output into the run's log.

    Raises:
        StageFailedError: With its last error line, or because the worker of the run has gone.
        TransientError: If the repository lock is held or the tracking server does not answer.
    """
    with _naming_abandonment(what):
        run_command(what, module, root, _watch(None))


def _watch(timeout_s: float | None) -> Watch:
    return Watch(get_run_logger().info, timeout_s, _is_abandoned)


@contextmanager
def _naming_abandonment(what: str) -> Iterator[None]:
    try:
        yield
    except AbandonedError:
        raise StageFailedError(
            f"{what}: the worker that started this run has gone, so the stage was ended: start "
            "one (`make up`), then `prefect flow-run retry` continues from here"
        ) from None


def _is_abandoned() -> bool:
    return _STARTED_BY_WORKER and os.getppid() != _STARTER
