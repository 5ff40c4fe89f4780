"""A grid over parameters: `idc sweep` starts it.

Every point is a run of the pipeline in a workspace of its own; the file says how many run at a
time. In MLflow they form one experiment, below one parent run. No alias moves. Running the sweep
again resumes each point in its workspace.
"""

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.pipeline import bring_up_to_date
from idc.core.files import load_json
from idc.core.layout import METRICS, PUBLISHED
from idc.experiments.sweep import FOLDERS, GridPoint, Sweep, load_sweep, result_rows
from idc.runs.workspace import create_workspace
from idc.tracking.parents import ParentRun, close_parent, open_parent, place_below
from tasks.gpu import GPU_LIMIT, limit_gpu_stages

_SHOWN = ("val/auroc", "val/balanced_accuracy", "test/auroc", "test/auroc_low", "test/auroc_high")


@flow(name="sweep", log_prints=True)
def sweep(file: str = "configs/sweep.yaml") -> dict[str, str]:
    """Run the pipeline at every point of a grid; a point that fails does not stop the others.

    Args:
        file: A plan such as `configs/sweep.yaml`.

    Returns:
        The reason for each failed point, by the values that it sets.
    """
    root = Path.cwd()
    plan = load_sweep(root / file, root)
    # opens the store first, or several points would create its tables at the same time
    parent = open_parent(root, plan.experiment, f"sweep {plan.name}")
    if plan.gpu_slots is not None and (taken := limit_gpu_stages(plan.gpu_slots)):
        get_run_logger().warning(
            f"{taken} slot(s) of the limit {GPU_LIMIT} are taken, so stages wait; if nothing else "
            f"uses the GPU: `prefect gcl update {GPU_LIMIT} --active-slots 0`"
        )
    states = _run_all(root, plan, parent)
    failed = {label: str(error) for label, error in states.items() if isinstance(error, Exception)}
    close_parent(root, parent, failed=bool(failed))
    for label, reason in failed.items():
        get_run_logger().error(f"{label} failed: {reason}")
    metrics = {
        label: load_json(folder / METRICS)
        for label, folder in states.items()
        if isinstance(folder, Path)
    }
    create_table_artifact(
        result_rows(metrics, _SHOWN), key="sweep", description="Chosen by val, reported on test"
    )
    return failed


def _run_all(root: Path, plan: Sweep, parent: ParentRun) -> dict[str, Path | Exception]:
    """Return the folder of each point's results, or why it failed, by its label."""
    runner: ThreadPoolTaskRunner[Path] = ThreadPoolTaskRunner(max_workers=plan.max_parallel)
    with runner:
        futures = {
            point.label: runner.submit(run_point, {"root": root, "point": point, "parent": parent})
            for point in plan.points
        }
        wait(list(futures.values()))
    return {label: future.result(raise_on_failure=False) for label, future in futures.items()}


@task(cache_policy=NO_CACHE, task_run_name="{point.label}")
def run_point(root: Path, point: GridPoint, parent: ParentRun) -> Path:
    """Run the pipeline at one point and make its MLflow run a child of the sweep's.

    Returns:
        The folder of the results.
    """
    folder = create_workspace(root, FOLDERS / point.name, point.overrides)
    pipeline_at_point.with_options(flow_run_name=point.name)(folder)
    place_below(root, parent, load_json(folder / PUBLISHED)["run_id"])
    return folder


@flow(name="pipeline-at-point", log_prints=True)
def pipeline_at_point(folder: Path) -> None:
    """Bring every stage of a point's workspace up to date."""
    bring_up_to_date(folder)


if __name__ == "__main__":  # by `idc sweep`, with the plan
    sys.exit(bool(sweep(*sys.argv[1:])))
