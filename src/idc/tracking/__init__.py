"""What MLflow is told; with `idc.serving` the only importer of mlflow.

DVC restores results without running commands, so whatever must reach MLflow is reconciled:
`publish_result` looks at what the store holds and adds what is missing, and calling it twice
changes nothing. `live_run` shows a training while it runs.
"""

import json
import logging
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from mlflow.types.schema import ColSpec, DataType, Schema

import idc
from idc.config import OF_NO_STAGE, Params, flatten
from idc.errors import InputError, StoreAwayError
from idc.layout import MLRUNS
from idc.processes import ProcessId, identify_process, is_dead

log = logging.getLogger(__name__)

ALIAS = "challenger"
CHAMPION = "champion"
RESULT_TAG = "result_digest"
MODEL_TAG = "model_digest"
TRAINED_BY_TAG = "trained_by"
_TRAINING_TAG = "training_digest"
COMMIT_TAG = "git_commit"
ENVIRONMENT_TAG = "environment"
RAW_DATASET = "raw archive"
_ARTIFACTS = "artifacts"  # folder beside the local database
_HOST_TAG, _PID_TAG, _STARTED_TAG = "host", "pid", "process_started"
_TRAINING_SECTIONS = (
    "ingest", "sample", "split", "model", "augment", "pretrain", "train", "runtime",
)  # fmt: skip
# what is decided about a finished model is logged with the decision
_RESULT_SECTIONS = (
    *(name for name in Params.model_fields if name not in OF_NO_STAGE),
    "runtime",
)
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "opencv-python-headless",
    "onnx", "onnxruntime",
    "pydantic", "pyyaml", "safetensors", "scikit-learn", "tqdm",
)  # fmt: skip


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the SQLite store below `root` (absolute)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_database(root)}"


def check_store(root: Path) -> None:
    """Check that the store can be written.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        _require_server(uri)
    elif uri.startswith("sqlite:///"):
        _require_database(Path(uri.removeprefix("sqlite:///")))


class LiveRun:
    """A run that receives each epoch as it ends.

    A store that goes away does not end the training: what it missed is sent with the next epoch,
    or by `publish_result`.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._waiting: list[Metric] = []
        self._logged = {metric.step for metric in client.get_metric_history(run_id, "train/loss")}

    def log_class_weights(self, weights: Any) -> None:  # noqa: ANN401  (any pair of numbers)
        """Record the loss weight of each class."""
        if "class_weights/0" in self._client.get_run(self._run_id).data.metrics:
            return  # an interrupted training told them before
        self._send(_metrics({f"class_weights/{label}": weights[label] for label in (0, 1)}))

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record one epoch's metrics at step `epoch`, in one call.

        An epoch that an interrupted training told before is not told twice.
        """
        if epoch in self._logged:
            return
        self._logged.add(epoch)
        self._send(_metrics(values, step=epoch))

    def name_model(self, digest: str, environment: Mapping[str, str]) -> None:
        """Say which weights this run made, and on which machine with which versions."""
        try:
            self._client.set_tag(self._run_id, ENVIRONMENT_TAG, json.dumps(environment))
            self._client.set_tag(self._run_id, MODEL_TAG, digest)
        except MlflowException as error:
            log.warning("tracking store away (%s): `idc publish` will make up for it", error)

    def _send(self, metrics: list[Metric]) -> None:
        self._waiting += metrics
        try:
            self._client.log_batch(self._run_id, metrics=self._waiting)
            self._waiting = []
        except MlflowException as error:
            log.warning("tracking store away (%s): sending again with the next epoch", error)


@contextmanager
def live_run(params: Params, commit: str, *, training: str, resumed: bool) -> Iterator[LiveRun]:
    """Open a run for a training; it ends as FINISHED, or FAILED when an error passes.

    Args:
        params: Recorded, as far as they concern the training.
        commit: Of the code.
        training: Digest of all that shapes the training.
        resumed: Whether it goes on from a checkpoint: then its unfinished run goes on as well.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    client = connect(Path.cwd())
    run = _find_unfinished(client, params, training) if resumed else None
    if run is None:
        tags = {COMMIT_TAG: commit, _TRAINING_TAG: training}
        run = _create_run(client, params, Path.cwd(), tags)
    else:
        client.update_run(run.info.run_id, status="RUNNING")
        for key, value in _process_tags().items():
            client.set_tag(run.info.run_id, key, value)
        log.info("the MLflow run %s goes on", run.info.run_id)
    _log_params(client, run, params, _TRAINING_SECTIONS)
    status = "FAILED"
    try:
        yield LiveRun(client, run.info.run_id)
        status = "FINISHED"
    finally:
        try:
            client.set_terminated(run.info.run_id, status=status)
        except MlflowException as error:
            log.warning("tracking store away (%s): the run stays open", error)


def log_explanation_times(
    params: Params, model_digest: str, seconds_per_patch: Mapping[str, float]
) -> None:
    """Add what each explanation method took to the run that trained the model.

    Times belong into no output of a stage, so a store that lacks the run or is away goes without.

    Args:
        params: Names the experiment.
        model_digest: Names the trained weights.
        seconds_per_patch: By method.
    """
    try:
        client = connect(Path.cwd())
        experiment_id = ensure_experiment(client, params.publish.experiment, Path.cwd())
        runs = _find_run(client, experiment_id, MODEL_TAG, model_digest)
        if not runs:
            log.info("no MLflow run trained this model: times of explanations are not kept")
            return
        values = {f"explain/s_per_patch/{name}": s for name, s in seconds_per_patch.items()}
        client.log_batch(runs[0].info.run_id, metrics=_metrics(values))
    except (MlflowException, InputError, StoreAwayError) as error:
        log.warning("times of explanations are not kept: %s", error)


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
    combination becomes a run of its own, tagged with the run that trained it.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    client = connect(root)
    run = _find_or_create_run(client, result, root)
    _log_params(client, run, result.params, _RESULT_SECTIONS)
    _log_missing_metrics(client, run, result)
    _log_datasets(client, run, result)
    _log_missing_artifacts(client, run, result)
    model = _find_version(client, result) or _register(client, run, result)
    if result.params.publish.move_challenger:
        _move_alias(client, model)
    return Published(run.info.run_id, model.name, str(model.version))


def list_aliased_digests(root: Path) -> set[str]:
    """Return the result digest of every model version that an alias points at.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    client = connect(root)
    digests = set()
    for name, aliases in _aliases(client).items():
        for alias in aliases:
            tags = client.get_model_version_by_alias(name, alias).tags
            digests.add(tags.get(RESULT_TAG, ""))
    return digests - {""}


def _aliases(client: MlflowClient) -> dict[str, list[str]]:
    """Return the aliases of every registered model; a search leaves them out."""
    names = [model.name for model in client.search_registered_models(max_results=1000)]
    return {name: list(client.get_registered_model(name).aliases) for name in names}


def list_orphans(root: Path) -> list[str]:
    """Return the ids of runs that stand as RUNNING though their process is surely dead.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    client = connect(root)
    experiments = [item.experiment_id for item in client.search_experiments()]
    running = (
        client.search_runs(experiments, "attributes.status = 'RUNNING'") if experiments else []
    )
    return [run.info.run_id for run in running if _is_orphan(run.data.tags)]


def close_runs(root: Path, run_ids: Sequence[str]) -> None:
    """Mark runs as KILLED; a training that is resumed goes on in its run nevertheless."""
    client = connect(root)
    for run_id in run_ids:
        client.set_terminated(run_id, status="KILLED")


def _is_orphan(tags: Mapping[str, str]) -> bool:
    if _PID_TAG not in tags:
        return False
    return is_dead(ProcessId(tags[_HOST_TAG], int(tags[_PID_TAG]), float(tags[_STARTED_TAG])))


def describe_faults(root: Path) -> list[str]:
    """Return what is wrong with the local store, each with the command that mends it.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    check_store(root)
    uri = tracking_uri(root)
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not _tables(path):
        return []
    with closing(sqlite3.connect(path)) as connection:
        (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        places = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    if schema != _get_latest_schema_revision():  # type: ignore[no-untyped-call]
        return [f"made by another version of MLflow: back it up, then `mlflow db upgrade {uri}`"]
    own = path.parent / _ARTIFACTS
    moved = [name for name, place in places if _is_of_another_clone(place, own)]
    if moved:
        return [
            f"experiment {', '.join(moved)} keeps its files in another clone (this was moved or "
            f"copied): move it back, or `ln -s {path.parent}` to where that one was"
        ]
    return []


def _tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [name for (name,) in rows]


def _is_of_another_clone(place: str, own: Path) -> bool:
    folder = Path(unquote(urlsplit(place).path))
    return place.startswith("file:") and folder.parts[-2:] == own.parts[-2:] and folder != own


def _database(root: Path) -> Path:
    return root.resolve() / MLRUNS / "mlflow.db"


def _require_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it answers; a proxy may guard /health
            return
        raise StoreAwayError(f"tracking server {uri} answers {error.code}") from None
    except OSError as error:
        raise StoreAwayError(f"tracking server {uri} does not answer ({error})") from None


def _require_database(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute("BEGIN IMMEDIATE")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            f"the MLflow store {path} cannot be written ({error}): mend its permissions, or set "
            "MLFLOW_TRACKING_URI to another store"
        ) from None


def connect(root: Path) -> MlflowClient:
    """Open the store; later calls of mlflow in this process mean it.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    check_store(root)
    # a run id inherited from elsewhere would swallow this result
    os.environ.pop("MLFLOW_RUN_ID", None)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(root)
    inherited = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if inherited is None:
        # mlflow exports the address; the next root in this process has a store of its own
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return MlflowClient(uri, uri)


def ensure_experiment(client: MlflowClient, name: str, root: Path) -> str:
    """Return the id of an experiment, which is made where there is none of that name."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    uri = tracking_uri(root)
    location = None  # a server decides for itself
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / _ARTIFACTS).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _create_run(client: MlflowClient, params: Params, root: Path, tags: Mapping[str, str]) -> Run:
    backbones = "+".join(params.model.backbones)
    return client.create_run(
        ensure_experiment(client, params.publish.experiment, root),
        run_name=f"{backbones} {params.model.size_px}px {params.sample.num_patches}",
        tags={**tags, **_process_tags()},
    )


def _process_tags() -> dict[str, str]:
    process = identify_process(os.getpid())
    return {
        _HOST_TAG: process.host,
        _PID_TAG: str(process.pid),
        _STARTED_TAG: str(process.started),
    }


def _find_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    return list(
        client.search_runs(
            [experiment_id], f"tags.{tag} = '{value}'", order_by=["attributes.start_time ASC"]
        )
    )


def _find_unfinished(client: MlflowClient, params: Params, training: str) -> Run | None:
    """Return the last run of an interrupted training, or None where the store lacks it."""
    experiment_id = ensure_experiment(client, params.publish.experiment, Path.cwd())
    runs = _find_run(client, experiment_id, _TRAINING_TAG, training)
    unfinished = [run for run in runs if run.info.status != "FINISHED"]
    return unfinished[-1] if unfinished else None


def _find_or_create_run(client: MlflowClient, result: Result, root: Path) -> Run:
    experiment_id = ensure_experiment(client, result.params.publish.experiment, root)
    known = _find_run(client, experiment_id, RESULT_TAG, result.digest)
    if known:
        return known[0]
    tags = {
        RESULT_TAG: result.digest,
        MODEL_TAG: result.model_digest,
        COMMIT_TAG: result.commit,
    }
    trainers = _find_run(client, experiment_id, MODEL_TAG, result.model_digest)
    for run in trainers:
        if RESULT_TAG not in run.data.tags and not _contradicts(run, result.params):
            for key, value in tags.items():
                client.set_tag(run.info.run_id, key, value)
            return run
    if trainers:
        first = trainers[0]
        tags[TRAINED_BY_TAG] = first.data.tags.get(TRAINED_BY_TAG, first.info.run_id)
    run = _create_run(client, result.params, root, tags)
    client.set_terminated(run.info.run_id)
    return run


def _contradicts(run: Run, params: Params) -> bool:
    """Say whether the run was recorded with other values: MLflow refuses to change them."""
    flat = flatten(params)
    return any(
        flat.get(key) != value
        for key, value in run.data.params.items()
        if not key.startswith("runtime.")
    )


def _log_params(client: MlflowClient, run: Run, params: Params, sections: tuple[str, ...]) -> None:
    missing = [
        Param(key, value)
        for key, value in flatten(params).items()
        if key.split(".")[0] in sections and key not in run.data.params
    ]
    if missing:
        client.log_batch(run.info.run_id, params=missing)


def _metrics(values: Mapping[str, float], step: int = 0) -> list[Metric]:
    return [Metric(key, float(value), 0, step) for key, value in values.items()]


def _log_missing_metrics(client: MlflowClient, run: Run, result: Result) -> None:
    missing = _metrics({k: v for k, v in result.metrics.items() if k not in run.data.metrics})
    columns = {
        "train_loss": "train/loss",
        "val_auroc": "val/epoch_auroc",
        "learning_rate": "train/learning_rate",
    }
    for column, key in columns.items():
        logged = {metric.step for metric in client.get_metric_history(run.info.run_id, key)}
        for epoch, value in zip(result.history["epoch"], result.history[column], strict=True):
            if int(epoch) not in logged:
                missing += _metrics({key: value}, step=int(epoch))
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
