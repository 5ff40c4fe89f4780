"""What was deleted in MLflow, which keeps it until `mlflow gc`."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from idc.core.environment import own_environment
from idc.core.errors import InputError, first_reason
from idc.tracking.connection import is_empty, local_database, tracking_uri
from idc.tracking.registry import list_kept

_DAY_MS = 86_400_000
_QUERIES = {
    "run": "SELECT run_uuid, artifact_uri FROM runs WHERE lifecycle_stage = 'deleted' "
    "AND deleted_time <= ?",
    "model": "SELECT model_id, artifact_location FROM logged_models "
    "WHERE lifecycle_stage = 'deleted' AND last_updated_timestamp_ms <= ?",
    # without its files: all experiments share a folder, and MLflow removes those of the runs alone
    "experiment": "SELECT experiment_id, NULL FROM experiments WHERE lifecycle_stage = 'deleted' "
    "AND last_update_time <= ?",
}
# a run can be restored by itself, and goes with its experiment nevertheless
_WITH_LIVING_RUNS = """
SELECT DISTINCT experiment_id FROM experiments JOIN runs USING (experiment_id)
WHERE experiments.lifecycle_stage = 'deleted' AND runs.lifecycle_stage = 'active'
AND last_update_time <= ?
"""


@dataclass(frozen=True)
class Deleted:
    """A run, a model of one, or an experiment, that somebody deleted in MLflow."""

    kind: str
    """`run`, `model` or `experiment`."""
    name: str
    """Its id."""
    files: Path | None
    """Those of its own; None of an experiment."""


def list_deleted(root: Path, days: float) -> list[Deleted]:
    """Return what was deleted longer ago than that; nothing of a store that a server keeps.

    Raises:
        InputError: If the promotion log, or what an alias of a registered model points at, is
            among it, or an experiment of which a run is not deleted; or the local store cannot be
            written.
        StoreUnavailableError: If the store is not available.
    """
    database = local_database(root)
    if database is None or is_empty(root):
        return []
    latest = int(time.time() * 1000 - max(days, 0) * _DAY_MS)
    with closing(sqlite3.connect(database)) as store:
        found = [
            Deleted(kind, str(name), None if uri is None else Path(unquote(urlsplit(uri).path)))
            for kind, query in _QUERIES.items()
            for name, uri in store.execute(query, (latest,))
        ]
        living = [str(name) for (name,) in store.execute(_WITH_LIVING_RUNS, (latest,))]
    if living:
        raise InputError(
            f"the experiment {living[0]} was deleted in MLflow, but holds runs that are not, so "
            "nothing deleted is removed for good",
            fix="restore it (`mlflow experiments restore --experiment-id ID`), or delete its runs",
        )
    if kept := sorted({item.name for item in found} & list_kept(root)):
        raise InputError(
            f"{', '.join(kept)} was deleted in MLflow, but belongs to the promotion log or to a "
            "model with an alias, so nothing deleted is removed for good",
            fix="bring it back: mlflow runs restore --run-id ID, or in MLflow's pages",
        )
    return found


def remove_deleted(root: Path, deleted: Sequence[Deleted], days: float) -> None:
    """Remove for good, by `mlflow gc`, what was deleted longer ago than that.

    Raises:
        InputError: With MLflow's own reason, if it fails.
    """
    if not deleted:
        return
    uri = tracking_uri(root)
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri,
            "--tracking-uri", uri, "--older-than", f"{max(days, 0):f}d",
        ],
        cwd=root, env=own_environment(root), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"mlflow gc failed: {first_reason(done.stderr or done.stdout)}")
