"""A finished pipeline's result, which MLflow is made to agree with."""

import contextlib
import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Run,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.types.schema import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

import idc
from idc.core.checksums import write_sums
from idc.core.config import NON_STAGE_SECTIONS, Params, flatten
from idc.core.scratch import scratch_folder
from idc.tracking.chosen_metrics import best_attribution, choose_metrics
from idc.tracking.connection import (
    connect,
    ensure_experiment,
    repeat_in_conflict,
    translate_store_errors,
)
from idc.tracking.description import DATA_TAG, describe_run, figure, setup_tags, short_digest
from idc.tracking.live import flush_outbox
from idc.tracking.recording import (
    COMMIT_TAG,
    FILES_TAG,
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
from idc.tracking.stored_files import list_files, log_missing_files

log = logging.getLogger(__name__)

ALIAS = "challenger"
# what is decided about a finished model is logged with the decision
_SECTIONS = (
    *(name for name in Params.model_fields if name not in NON_STAGE_SECTIONS),
    "runtime",
)
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "opencv-python-headless",
    "onnx", "onnxruntime",
    "pydantic", "pyyaml", "safetensors", "scikit-learn", "tqdm",
)  # fmt: skip
_TABLES = "tables"
_NUM_FILES_TAG = "num_files"  # of a logged model: by it a removed file is noticed
_MAX_DESCRIPTION = 5000  # characters, of a version, in PostgreSQL
_MODEL_DESCRIPTION = (
    "Fusion CNN that gives the probability of invasive ductal carcinoma in a 50x50-px patch of an "
    "H&E slide. The alias `champion` is served, `challenger` is the newest result. For research, "
    "not for diagnosis."
)


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
    model = _find_version(client, result)
    if model is None:
        model = _register(client, run, result)
    else:
        _restore_model(client, model, result)
    _describe_version(client, model, result)
    if result.params.publish.move_challenger:
        _move_alias(client, model)
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
    shown = _shown_metrics(result)
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


def _shown_metrics(result: Result) -> dict[str, float]:
    return choose_metrics(result.figures) | best_attribution(result.figures, result.scores)[1]


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


def _find_version(client: MlflowClient, result: Result) -> ModelVersion | None:
    name = result.params.publish.model_name
    for model in client.search_model_versions(f"name = '{name}'"):
        if model.tags.get(RESULT_TAG) == result.digest:
            return model
    return None


def _register(client: MlflowClient, run: Run, result: Result) -> ModelVersion:
    """Store the model's files with the run, and make a version of them."""
    logged, files_digest = _log_model(client, run, result)
    name = result.params.publish.model_name
    try:
        client.create_registered_model(name, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    version = client.create_model_version(
        name,
        logged.artifact_location,  # `models:/...` MLflow looks up in the process's own store
        run.info.run_id,
        tags={
            RESULT_TAG: result.digest,
            MODEL_TAG: result.model_digest,
            COMMIT_TAG: result.commit,
            FILES_TAG: files_digest,
        },
        model_id=logged.model_id,
    )
    named = json.dumps([{"name": name, "version": version.version}])
    num_files = str(len(_model_files(client, logged)))
    tags = {MLFLOW_MODEL_VERSIONS: named, _NUM_FILES_TAG: num_files}
    client.set_logged_model_tags(logged.model_id, tags)
    return version


def _restore_model(client: MlflowClient, version: ModelVersion, result: Result) -> None:
    """Store all files of a version anew if it lacks any, such as one removed by hand."""
    logged = _find_logged_model(client, version)
    if logged is None:
        log.warning(
            "the model of %s version %s was deleted in MLflow: restore the store from a backup",
            version.name, version.version,
        )  # fmt: skip
        return
    there = _model_files(client, logged)
    if _required_files(result) <= there and len(there) >= int(logged.tags.get(_NUM_FILES_TAG, 0)):
        return
    with scratch_folder() as scratch:
        folder = scratch / "model"
        # all of them: the list of digests names the code too, which may be newer by now
        files_digest = _save_model(folder, logged, str(version.run_id), result)
        client.set_model_version_tag(version.name, version.version, FILES_TAG, files_digest)
        client.log_model_artifacts(logged.model_id, str(folder))
    restored = _model_files(client, logged)
    client.set_logged_model_tags(logged.model_id, {_NUM_FILES_TAG: str(len(restored))})
    log.warning(
        "%s version %s lacked files, which were put back: %d",
        version.name, version.version, len(restored) - len(there),
    )  # fmt: skip


def _find_logged_model(client: MlflowClient, version: ModelVersion) -> LoggedModel | None:
    """Return the model that a version was made of; the registry itself names only its place."""
    outputs = client.get_run(str(version.run_id)).outputs
    for output in outputs.model_outputs if outputs is not None else []:
        with contextlib.suppress(MlflowException):  # it was deleted
            logged = client.get_logged_model(output.model_id)
            if logged.artifact_location == version.source:
                return logged
    return None


def _model_files(client: MlflowClient, logged: LoggedModel) -> set[str]:
    return list_files(partial(client.list_logged_model_artifacts, logged.model_id))


def _required_files(result: Result) -> set[str]:
    """Return what no model loads without, whichever code and MLflow have saved it."""
    bundle = {f"{result.bundle.name}/{path.name}" for path in result.bundle.iterdir()}
    return {"MLmodel"} | {f"artifacts/{name}" for name in bundle | {result.operating_point.name}}


def _log_model(client: MlflowClient, run: Run, result: Result) -> tuple[LoggedModel, str]:
    """Do what `mlflow.pyfunc.log_model` does, but for the store that the process has in common.

    Returns:
        The model, and the digest of the list of digests of its files.
    """
    run_id = run.info.run_id
    logged = _find_interrupted(client, run) or client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=flatten(result.params)
    )
    with scratch_folder() as folder:
        path = folder / "model"
        files_digest = _save_model(path, logged, run_id, result)
        client.log_model_artifacts(logged.model_id, str(path))
    outputs = client.get_run(run_id).outputs
    known = [item.model_id for item in outputs.model_outputs] if outputs else []
    if logged.model_id not in known:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    metrics = [
        Metric(key, value, 0, 0, model_id=logged.model_id)
        for key, value in _shown_metrics(result).items()
    ]
    client.log_batch(run_id, metrics=metrics)
    return client.finalize_logged_model(logged.model_id, "READY"), files_digest


def _find_interrupted(client: MlflowClient, run: Run) -> LoggedModel | None:
    """Return what an interrupted call has left of the run's model: its files are written again."""
    found = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    return found[0] if found else None


def _save_model(path: Path, logged: LoggedModel, run_id: str, result: Result) -> str:
    """Write the model's folder; return the digest of the list of digests of its files.

    Args:
        path: A folder that does not exist yet; beside it the parts are laid out.
        logged: What MLflow knows of the model.
        run_id: Run of the result.
        result: With the model's parts.
    """
    package = Path(idc.__file__).parent
    # a cache on another disk leaves links, which MLflow refuses where they lead out of the folder
    bundle = shutil.copytree(result.bundle, path.parent / result.bundle.name)
    point = shutil.copy2(result.operating_point, path.parent / result.operating_point.name)
    mlflow.pyfunc.save_model(
        str(path),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        ),
        python_model=str(package / "serving" / "pyfunc_model.py"),
        artifacts={
            "bundle": str(bundle),
            "operating_point": str(point),
        },
        code_paths=[str(package)],
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _SERVING_PACKAGES],
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, "image")]),
            outputs=Schema(
                [ColSpec(DataType.double, "probability"), ColSpec(DataType.long, "prediction")]
            ),
        ),
    )
    # checking the model's code leaves them
    for cache in path.rglob("__pycache__"):
        shutil.rmtree(cache)
    return write_sums(path)


def _describe_version(client: MlflowClient, model: ModelVersion, result: Result) -> None:
    """Add what the version lacks, and the registered model's own words; a person's own stay."""
    if not model.description:
        client.update_model_version(model.name, model.version, _shorten(result.model_card))
    tags = {
        "test_auroc": figure(result.figures, "test/auroc"),
        "test_balanced_accuracy": figure(result.figures, "test/balanced_accuracy"),
        DATA_TAG: short_digest(result.manifest_digest),
    }
    for key, value in tags.items():
        if value and key not in model.tags:
            client.set_model_version_tag(model.name, model.version, key, value)
    if not client.get_registered_model(model.name).description:
        client.update_registered_model(model.name, _MODEL_DESCRIPTION)


def _shorten(card: str) -> str:
    """Return the model card, or its first lines where the store has no room for all of it."""
    if len(card) <= _MAX_DESCRIPTION:
        return card
    rest = "\n\n(The rest is in the run's model_card.md.)"
    return card[: card.rindex("\n", 0, _MAX_DESCRIPTION - len(rest))] + rest


def _move_alias(client: MlflowClient, model: ModelVersion) -> None:
    current = client.get_registered_model(model.name).aliases.get(ALIAS)
    if str(current) != str(model.version):
        client.set_registered_model_alias(model.name, ALIAS, model.version)
