"""Runs that are still RUNNING although their process is dead."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from idc.core.process_ids import is_dead
from idc.tracking.connection import connect, is_empty
from idc.tracking.reading import reading_store
from idc.tracking.recording import read_process


def list_orphans(root: Path) -> list[str]:
    """Return the ids of runs that are RUNNING although their process is certainly dead.

    Raises:
        InputError: If the local store cannot be written, or a server refuses to answer.
        StoreUnavailableError: If the store is not available.
    """
    if is_empty(root):
        return []
    client = connect(root)
    with reading_store(root):
        experiments = [item.experiment_id for item in client.search_experiments()]
        running = (
            client.search_runs(experiments, "attributes.status = 'RUNNING'") if experiments else []
        )
    return [run.info.run_id for run in running if _is_orphan(run.data.tags)]


def close_runs(root: Path, run_ids: Sequence[str]) -> None:
    """Mark runs as KILLED; a training that is resumed goes on in its run nevertheless."""
    if not run_ids:
        return  # connecting would create a store where there is none
    client = connect(root)
    for run_id in run_ids:
        client.set_terminated(run_id, status="KILLED")


def _is_orphan(tags: Mapping[str, str]) -> bool:
    process = read_process(tags)
    return process is not None and is_dead(process)
