"""The pipeline as a Prefect flow: `idc pipeline` starts it, or a deployment."""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow

from idc.stages import STAGES
from tasks.gpu import GPU, GPU_STAGES
from tasks.notify import notify_failure
from tasks.stages import check_inputs, reconcile_store, run_stage, show_results
from tasks.workspaces import choose_root, keep_subsets, record_results


@flow(
    name="pipeline",
    log_prints=True,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def pipeline(overrides: dict[str, Any] | None = None, stage_timeout_s: float | None = None) -> Path:
    """Bring every stage up to date, one task each.

    A stage that uses a GPU takes a slot of the server's concurrency limit `gpu`, if there is one.

    Args:
        overrides: New parameter values by dotted key, such as `{"train.epochs": 3}`; such a run,
            and every run of a deployment, happens in a workspace of its own and shares the cache.
        stage_timeout_s: Seconds after which a stage and all its processes are ended.

    Returns:
        The folder of the results: the project, or the workspace.
    """
    root = choose_root(Path.cwd(), overrides or {})
    bring_up_to_date(root, stage_timeout_s)
    return root


def bring_up_to_date(root: Path, stage_timeout_s: float | None = None) -> None:
    """Run, within a flow, whatever is out of date; show and record the results."""
    check_inputs(root)
    ran: dict[str, bool] = {}
    for stage in STAGES:
        task = run_stage.with_options(tags=[GPU]) if stage in GPU_STAGES else run_stage
        ran[stage] = task(stage, root, stage_timeout_s)
        if stage == "split":  # before any model is trained on them
            keep_subsets(root)
    if not ran["publish"]:  # the store may have lost what DVC calls up to date
        reconcile_store(root)
    show_results(root)
    record_results(root)


if __name__ == "__main__":  # by `idc pipeline`, with the overrides as JSON
    state = pipeline(*map(json.loads, sys.argv[1:]), return_state=True)
    sys.exit(not state.is_completed())
