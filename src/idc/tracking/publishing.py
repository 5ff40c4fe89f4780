"""A finished pipeline's result, which MLflow is made to agree with."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Run,
)
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from idc.core.config import NON_STAGE_SECTIONS, Params, flatten
from idc.tracking.chosen_metrics import best_attribution, shown_metrics
from idc.tracking.connection import (
    connect,
    ensure_experiment,
    repeat_in_conflict,
    translate_store_errors,
)
from idc.tracking.description import DATA_TAG, describe_run, setup_tags, short_digest
from idc.tracking.live import flush_outbox
from idc.tracking.model_version import publish_version
from idc.tracking.recording import (
    COMMIT_TAG,
    MODEL_TAG,
    RAW_DATASET,
    RESULT_TAG,
    TRAINED_BY_TAG,
    create_run,
    find_runs,
    log_params,
    to_metrics,
)
from idc.tracking.result import Result
from idc.tracking.result_tables import tabulate_metrics, tabulate_scores, tabulate_subgroups
from idc.tracking.stored_files import log_missing_files

log = logging.getLogger(__name__)

# what is decided about a finished model is logged with the decision
_SECTIONS = (
    *(name for name in Params.model_fields if name not in NON_STAGE_SECTIONS),
    "runtime",
)
_TABLES = "tables"


@dataclass(frozen=True)
class Published:
    """Where a result stands in MLflow."""

    run_id: str
    model_name: str
    model_version: str


def publish_result(result: Result, root: Path) -> Published:
    """Make MLflow agree with the result files: find or create the run and the model version.

    The run that trained this model receives the results of its first evaluation; any other
    combination becomes a run of its own, tagged with the run that trained it. So does an equal
    result under another `publish.run_name`; the model version is one.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If the store is away.
    """
    with translate_store_errors(root):
        client = connect(root)
        flush_outbox(client, root)
        return repeat_in_conflict(lambda: _publish(client, result, root))


def _publish(client: MlflowClient, result: Result, root: Path) -> Published:
    """Add what is missing; a second call goes on where the first was interrupted."""
    run = _find_or_create_run(client, result, root)
    log_params(client, run, result.params, _SECTIONS)
    _log_missing_metrics(client, run, result)
    _log_datasets(client, run, result)
    _log_missing_artifacts(client, run, result)
    _describe(client, run, result)
    model = publish_version(client, run, result)
    return Published(run.info.run_id, model.name, str(model.version))


def _find_or_create_run(client: MlflowClient, result: Result, root: Path) -> Run:
    experiment_id = ensure_experiment(client, result.params.publish.experiment, root)
    for run in find_runs(client, experiment_id, RESULT_TAG, result.digest):
        if _may_bear_name(run, result.params):
            return run
    tags = {
        RESULT_TAG: result.digest,
        MODEL_TAG: result.model_digest,
        COMMIT_TAG: result.commit,
    }
    trainers = find_runs(client, experiment_id, MODEL_TAG, result.model_digest)
    for run in trainers:
        is_free = RESULT_TAG not in run.data.tags and _may_bear_name(run, result.params)
        if is_free and not _contradicts(run, result.params):
            for key, value in tags.items():
                client.set_tag(run.info.run_id, key, value)
            return run
    if trainers:
        first = trainers[0]
        tags[TRAINED_BY_TAG] = first.data.tags.get(TRAINED_BY_TAG, first.info.run_id)
    run = create_run(client, result.params, root, tags)
    client.set_terminated(run.info.run_id)
    return run


def _may_bear_name(run: Run, params: Params) -> bool:
    """Say whether the run has the name that is asked for: points of a sweep may be equal else."""
    return params.publish.run_name in (None, run.info.run_name)


def _contradicts(run: Run, params: Params) -> bool:
    """Say whether the run was recorded with other values: MLflow refuses to change them.

    Parameters that there are no more say nothing.
    """
    flat = flatten(params)
    return any(
        flat[key] != value
        for key, value in run.data.params.items()
        if key in flat and not key.startswith("runtime.")
    )


def _log_missing_metrics(client: MlflowClient, run: Run, result: Result) -> None:
    shown = shown_metrics(result)
    missing = to_metrics({k: v for k, v in shown.items() if k not in run.data.metrics})
    columns = {
        "train_loss": "train/loss",
        "val_auroc": "val/epoch_auroc",
        "learning_rate": "train/learning_rate",
    }
    for column, key in columns.items():
        logged = {metric.step for metric in client.get_metric_history(run.info.run_id, key)}
        for epoch, value in zip(result.history["epoch"], result.history[column], strict=True):
            if int(epoch) not in logged:
                missing += to_metrics({key: value}, step=int(epoch))
    if missing:
        client.log_batch(run.info.run_id, metrics=missing)


def _log_datasets(client: MlflowClient, run: Run, result: Result) -> None:
    if run.inputs is not None and run.inputs.dataset_inputs:
        return
    datasets = {
        RAW_DATASET: ("data/raw", result.raw_digest, "raw"),
        "manifest": ("data/manifest.csv", result.manifest_digest, "training"),
    }
    inputs = []
    for name, (path, digest, context) in datasets.items():
        # the digest is DVC's md5 of the path, which names the very bytes
        dataset = Dataset(name, digest, source_type="dvc", source=json.dumps({"uri": path}))
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    client.log_inputs(run.info.run_id, inputs)


def _log_missing_artifacts(client: MlflowClient, run: Run, result: Result) -> None:
    # the text comes after the files, so they have been there once; without it an interrupted call
    # may have left half a file under its name
    described = MLFLOW_RUN_NOTE in run.data.tags
    num_missing = log_missing_files(
        client, run.info.run_id, result.artifacts, overwrite=not described
    )
    if num_missing and described:
        log.warning(
            "the MLflow run %s lacked files, which were put back: %d",
            run.info.run_id, num_missing,
        )  # fmt: skip


def _tables(result: Result) -> dict[str, pd.DataFrame]:
    """Return the full tables by the artifact that holds each."""
    tables = {"metrics": tabulate_metrics(result.figures)}
    if result.evaluation["subgroups"]:
        tables["subgroups"] = tabulate_subgroups(result.evaluation["subgroups"])
    if result.scores is not None:
        tables["attribution_scores"] = tabulate_scores(result.scores)
    return {f"{_TABLES}/{name}.json": table for name, table in tables.items()}


def _describe(client: MlflowClient, run: Run, result: Result) -> None:
    """Add the full tables, the tags and the text that the run lacks; a person's own text stays."""
    run_id, tables = run.info.run_id, _tables(result)
    there = {item.path for item in client.list_artifacts(run_id, _TABLES)}
    for path, table in tables.items():
        if path not in there:  # a second time MLflow would add the rows to those that are there
            client.log_table(run_id, table, path)
    tags = setup_tags(result.params, result.commit) | {
        DATA_TAG: short_digest(result.manifest_digest),
        MLFLOW_RUN_NOTE: describe_run(
            result, experiment_id=run.info.experiment_id, run_id=run_id, tables=list(tables)
        ),
    }
    method, _ = best_attribution(result.figures, result.scores)
    if method:
        tags["best_attribution_method"] = method
    for key, value in tags.items():
        if key not in run.data.tags:
            client.set_tag(run_id, key, value)
