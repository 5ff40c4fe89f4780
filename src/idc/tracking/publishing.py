"""A finished pipeline's result, which MLflow is made to agree with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models.signature import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types.schema import ColSpec, DataType, Schema

import idc
from idc.core.config import NON_STAGE_SECTIONS, Params, flatten
from idc.tracking.connection import (
    connect,
    ensure_experiment,
    repeat_in_conflict,
    translate_store_errors,
)
from idc.tracking.live import flush_outbox
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


@dataclass(frozen=True)
class Result:
    """Everything that MLflow should know of one finished pipeline."""

    digest: str
    """Names the combination of data, code, parameters and results."""
    model_digest: str
    """Names the trained weights."""
    commit: str
    params: Params
    metrics: Mapping[str, float]
    """Final metrics, such as `test/auroc`, and the class weights."""
    history: pd.DataFrame
    """One row per epoch: `epoch`, `train_loss`, `val_auroc`, `learning_rate`."""
    raw_digest: str
    manifest_digest: str
    artifacts: Mapping[str, Path]
    """Artifact folder (empty for the top) and file or folder, by name of either."""
    bundle: Path
    operating_point: Path


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
    model = _find_version(client, result) or _register(client, run, result)
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
    """Say whether the run was recorded with other values: MLflow refuses to change them."""
    flat = flatten(params)
    return any(
        flat.get(key) != value
        for key, value in run.data.params.items()
        if not key.startswith("runtime.")
    )


def _log_missing_metrics(client: MlflowClient, run: Run, result: Result) -> None:
    missing = to_metrics({k: v for k, v in result.metrics.items() if k not in run.data.metrics})
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
    run_id = run.info.run_id
    there = {item.path for item in client.list_artifacts(run_id)}
    for name, path in result.artifacts.items():
        if name in there:
            continue
        if path.is_dir():
            client.log_artifacts(run_id, str(path), name)
        else:
            client.log_artifact(run_id, str(path))


def _find_version(client: MlflowClient, result: Result) -> ModelVersion | None:
    name = result.params.publish.model_name
    for model in client.search_model_versions(f"name = '{name}'"):
        if model.tags.get(RESULT_TAG) == result.digest:
            return model
    return None


def _register(client: MlflowClient, run: Run, result: Result) -> ModelVersion:
    package = Path(idc.__file__).parent
    status = run.info.status
    with mlflow.start_run(run_id=run.info.run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "serving" / "pyfunc_model.py"),
            artifacts={
                "bundle": str(result.bundle),
                "operating_point": str(result.operating_point),
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
    client.set_terminated(run.info.run_id, status="FINISHED" if status == "RUNNING" else status)
    return mlflow.register_model(
        logged.model_uri,
        result.params.publish.model_name,
        tags={
            RESULT_TAG: result.digest,
            MODEL_TAG: result.model_digest,
            COMMIT_TAG: result.commit,
        },
    )


def _move_alias(client: MlflowClient, model: ModelVersion) -> None:
    current = client.get_registered_model(model.name).aliases.get(ALIAS)
    if str(current) != str(model.version):
        client.set_registered_model_alias(model.name, ALIAS, model.version)
