"""What every run of the pipeline has in MLflow: its tags, parameters and metrics."""

import os
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, Run
from mlflow.tracking import MlflowClient

from idc.core.config import Params, flatten, short_name
from idc.core.process_ids import ProcessId, identify_process
from idc.tracking.connection import ensure_experiment
from idc.tracking.description import setup_tags

RESULT_TAG = "result_digest"
MODEL_TAG = "model_digest"
FILES_TAG = "files_digest"
"""Of a model version: the digest of the list of digests that lies beside its files."""
TRAINED_BY_TAG = "trained_by"
COMMIT_TAG = "git_commit"
ENVIRONMENT_TAG = "environment"
RAW_DATASET = "raw archive"
_HOST_TAG, _PID_TAG, _STARTED_TAG = "host", "pid", "process_started"
_NAME_KEY = "publish.run_name"  # the run has that name: as a parameter it would differ always


def create_run(client: MlflowClient, params: Params, root: Path, tags: Mapping[str, str]) -> Run:
    """Open a run in the experiment of the parameters, with the tags of this process.

    Args:
        client: Of the store.
        params: Of the run.
        root: The project.
        tags: More tags; `git_commit` must be among them.
    """
    backbones = "+".join(map(short_name, params.model.backbones))
    return client.create_run(
        ensure_experiment(client, params.publish.experiment, root),
        run_name=params.publish.run_name
        or f"{backbones} {params.model.size_px}px {params.sample.num_patches}",
        tags={**setup_tags(params, tags[COMMIT_TAG]), **tags, **process_tags()},
    )


def find_runs(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    """Return the runs with this tag, the first one first."""
    return list(
        client.search_runs(
            [experiment_id], f"tags.{tag} = '{value}'", order_by=["attributes.start_time ASC"]
        )
    )


def process_tags() -> dict[str, str]:
    """Return the tags by which a run is told to be dead or alive."""
    process = identify_process(os.getpid())
    return {
        _HOST_TAG: process.host,
        _PID_TAG: str(process.pid),
        _STARTED_TAG: str(process.started),
    }


def read_process(tags: Mapping[str, str]) -> ProcessId | None:
    """Return the process that `process_tags` named, None where none did."""
    if _PID_TAG not in tags:
        return None
    return ProcessId(tags[_HOST_TAG], int(tags[_PID_TAG]), float(tags[_STARTED_TAG]))


def log_params(client: MlflowClient, run: Run, params: Params, sections: tuple[str, ...]) -> None:
    """Record the parameters of these sections that the run lacks."""
    missing = [
        Param(key, value)
        for key, value in flatten(params).items()
        if key.split(".")[0] in sections and key not in (*run.data.params, _NAME_KEY)
    ]
    if missing:
        client.log_batch(run.info.run_id, params=missing)


def to_metrics(values: Mapping[str, float], step: int = 0) -> list[Metric]:
    """Return the values as MLflow takes them; without time, so that sending again adds nothing."""
    return [Metric(key, float(value), 0, step) for key, value in values.items()]
