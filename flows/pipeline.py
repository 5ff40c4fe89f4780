"""The pipeline as a Prefect flow: `python -m flows.pipeline` from the project's root."""

from pathlib import Path
from typing import Any

from prefect import flow

from idc.stages import STAGES
from tasks.stages import check_inputs, reconcile_store, run_stage, show_results
from tasks.workspaces import choose_root, record_results


@flow(name="pipeline", log_prints=True)
def pipeline(overrides: dict[str, Any] | None = None, stage_timeout_s: float | None = None) -> Path:
    """Bring every stage up to date, one task each.

    Args:
        overrides: New parameter values by dotted key, such as `{"train.epochs": 3}`; such a run,
            and every run of a deployment, happens in a workspace of its own and shares the cache.
        stage_timeout_s: Seconds after which a stage and all its processes are ended.

    Returns:
        The folder of the results: the project, or the workspace.
    """
    root = choose_root(overrides or {})
    check_inputs(root)
    for stage in STAGES:
        run_stage(stage, root, stage_timeout_s)
    reconcile_store(root)
    show_results(root)
    record_results(root)
    return root


if __name__ == "__main__":
    pipeline()
