"""Retraining on new data, started by `idc retrain` or a schedule."""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.pipeline import pipeline
from idc.runs.workspace import WORKSPACES, create_workspace
from tasks.intake import check_new_data, format_drift, report_drift
from tasks.notify import notify, notify_failure
from tasks.promotion import compare_models, format_decision
from tasks.stages import run_stage


@flow(
    name="retraining",
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def retraining(overrides: dict[str, Any] | None = None) -> State[Any]:
    """Train on new data and promote the result if it is better; without new data end in seconds.

    Args:
        overrides: New parameter values by dotted key, such as `{"train.epochs": 3}`.

    Returns:
        A completed state whose message says what was done, or why nothing was.
    """
    root = Path.cwd()
    news = check_new_data(root)
    if not news.is_new:
        return Completed(message=f"nothing new: {news.why}")
    intake = create_workspace(root, WORKSPACES / "intake", {})
    run_stage("ingest", intake)
    drift = report_drift(intake)
    if drift and drift["drifted"]:
        notify("drift", f"new data differ in {', '.join(drift['drifted'])}", format_drift(drift))
    # a run with other parameters does not move the alias by default
    changes = {"publish.move_challenger": True, **overrides} if overrides else None
    decision = compare_models(pipeline(changes))
    version = f"version {decision['challenger']['version']}"
    if not decision["promote"]:
        return Completed(message=f"{version} is kept as challenger, the champion stays")
    notify("promotion", f"{version} is the champion now", format_decision(decision))
    return Completed(message=f"{version} is the champion now")


if __name__ == "__main__":  # by `idc retrain`, with the overrides as JSON
    state = retraining(*map(json.loads, sys.argv[1:]), return_state=True)
    sys.exit(not state.is_completed())
