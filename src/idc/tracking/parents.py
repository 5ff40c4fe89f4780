"""Runs below which others stand, such as a sweep's."""

from dataclasses import dataclass
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from idc.tracking.connection import connect, ensure_experiment, translate_store_errors
from idc.tracking.recording import find_runs, process_tags

_SWEEP_TAG = "sweep"


@dataclass(frozen=True)
class ParentRun:
    """A run below which others stand, in an experiment of their own."""

    name: str
    run_id: str


def open_parent(root: Path, experiment: str, name: str) -> ParentRun:
    """Find or create the run of this name in the experiment, and say that it goes on.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If the store is away.
    """
    with translate_store_errors(root):
        client = connect(root)
        experiment_id = ensure_experiment(client, experiment, root)
        known = find_runs(client, experiment_id, MLFLOW_RUN_NAME, name)
        if known:
            run_id = known[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment_id, run_name=name).info.run_id
        for key, value in process_tags().items():
            client.set_tag(run_id, key, value)
    return ParentRun(name, run_id)


def place_below(root: Path, parent: ParentRun, run_id: str) -> None:
    """Make a run a child of the parent, and tag it with the parent's name.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If the store is away.
    """
    with translate_store_errors(root):
        client = connect(root)
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent.run_id)
        client.set_tag(run_id, _SWEEP_TAG, parent.name)


def close_parent(root: Path, parent: ParentRun, *, failed: bool) -> None:
    """Say that the parent has ended.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If the store is away.
    """
    with translate_store_errors(root):
        client = connect(root)
        client.set_terminated(parent.run_id, status="FAILED" if failed else "FINISHED")
