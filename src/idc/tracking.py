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
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import pandas as pd
import sqlalchemy
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.protos.databricks_pb2 import (
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from mlflow.types.schema import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from sqlalchemy.exc import ArgumentError, OperationalError

import idc
from idc.config import Params, flatten
from idc.errors import InputError, StoreAwayError
from idc.layout import MLRUNS
from idc.untold import Untold, list_untold, load_untold

log = logging.getLogger(__name__)

ALIAS = "challenger"
_RESULT_TAG = "result_digest"
_MODEL_TAG = "model_digest"
_TRAINED_BY_TAG = "trained_by"
_TRAINING_TAG = "training_digest"
_COMMIT_TAG = "git_commit"
_SWEEP_TAG = "sweep"
_TRAINING_SECTIONS = (
    "ingest", "sample", "split", "model", "augment", "pretrain", "train", "runtime",
)  # fmt: skip
_NAME_KEY = "publish.run_name"  # the run has that name: as a parameter it would differ always
_METRICS_PER_CALL = 1000  # more are refused
_LOCK_PATIENCE_S = 30
_LITTLE_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "opencv-python-headless",
    "onnx", "onnxruntime",
    "pydantic", "pyyaml", "safetensors", "scikit-learn", "tqdm",
)  # fmt: skip


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, else the SQLite store below `root` (absolute)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_database(root)}"


def shown_uri(root: Path) -> str:
    """Return the address of the store without a password, for people to read."""
    uri = tracking_uri(root)
    try:
        return sqlalchemy.make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


def check_store(root: Path) -> None:
    """Check that the store can be written.

    Raises:
        InputError: If the local store cannot be written or was made by another version of MLflow,
            or a database's driver is missing.
        StoreAwayError: If a server does not answer, or another process holds the local store.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        _require_server(uri, shown_uri(root))
    elif uri.startswith("sqlite:///"):
        _require_file(Path(uri.removeprefix("sqlite:///")))
    elif uri.startswith("postgresql"):
        _require_database(uri, shown_uri(root))


class LiveRun:
    """A run that receives each epoch as it ends.

    A store that goes away does not hold the training up: what it missed is sent with the next
    epoch, or by `publish_result`.
    """

    def __init__(self, client: MlflowClient, run_id: str, root: Path) -> None:
        self._client = client
        self._root = root
        self._untold = load_untold(root, run_id)
        self._untold.status = None  # it goes on
        told = client.get_metric_history(run_id, "train/loss")
        self._logged = {metric.step for metric in told} | {
            step for key, _, step in self._untold.metrics if key == "train/loss"
        }
        self._weights_told = "class_weights/0" in client.get_run(run_id).data.metrics

    def log_class_weights(self, weights: Any) -> None:  # noqa: ANN401  (any pair of numbers)
        """Record the loss weight of each class; once, if the training is interrupted."""
        if not self._weights_told:
            self._send({f"class_weights/{label}": weights[label] for label in (0, 1)})

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record one epoch's metrics at step `epoch`, in one call.

        An epoch that an interrupted training told before is not told twice.
        """
        if epoch in self._logged:
            return
        self._logged.add(epoch)
        self._send(values, step=epoch)

    def name_model(self, digest: str) -> None:
        """Say which weights this run made."""
        self._untold.tags[_MODEL_TAG] = digest
        self._send({})

    def end(self, status: str) -> None:
        """Say how the training ended: FINISHED or FAILED."""
        self._untold.status = status
        self._send({})

    def _send(self, values: Mapping[str, float], step: int = 0) -> None:
        self._untold.metrics += [(key, float(value), step) for key, value in values.items()]
        try:
            _tell(self._client, self._untold)
        except MlflowException as error:
            self._untold.keep(self._root)
            log.warning("tracking store away (%s): what it missed is sent later", error)
        else:
            self._untold.forget(self._root)


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
    root = Path.cwd()
    with _calling_away_what_is_away(root):
        client = _connect(root)
        run = _find_unfinished(client, params, training) if resumed else None
        if run is None:
            tags = {_COMMIT_TAG: commit, _TRAINING_TAG: training}
            run = _create_run(client, params, root, tags)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            log.info("the MLflow run %s goes on", run.info.run_id)
        _log_params(client, run, params, _TRAINING_SECTIONS)
        live = LiveRun(client, run.info.run_id, root)
    status = "FAILED"
    with _little_patience():
        try:
            yield live
            status = "FINISHED"
        finally:
            live.end(status)


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
    with _calling_away_what_is_away(root):
        client = _connect(root)
        _tell_what_waits(client, root)
        run = _find_or_create_run(client, result, root)
        _log_params(client, run, result.params, tuple(Params.model_fields))
        _log_missing_metrics(client, run, result)
        _log_datasets(client, run, result)
        _log_missing_artifacts(client, run, result)
        model = _find_version(client, result) or _register(client, run, result)
        if result.params.publish.move_challenger:
            _move_alias(client, model)
    return Published(run.info.run_id, model.name, str(model.version))


@dataclass(frozen=True)
class ParentRun:
    """A run below which others stand, in an experiment of their own."""

    name: str
    run_id: str


def open_parent(root: Path, experiment: str, name: str) -> ParentRun:
    """Find or create the run of this name in the experiment, and say that it goes on.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    with _calling_away_what_is_away(root):
        client = _connect(root)
        experiment_id = _experiment_id(client, experiment, root)
        known = _find_run(client, experiment_id, MLFLOW_RUN_NAME, name)
        if known:
            run_id = known[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment_id, run_name=name).info.run_id
    return ParentRun(name, run_id)


def place_below(root: Path, parent: ParentRun, run_id: str) -> None:
    """Make a run a child of the parent, and tag it with the parent's name.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    with _calling_away_what_is_away(root):
        client = _connect(root)
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent.run_id)
        client.set_tag(run_id, _SWEEP_TAG, parent.name)


def close_parent(root: Path, parent: ParentRun, *, failed: bool) -> None:
    """Say that the parent has ended.

    Raises:
        InputError: If the local store cannot be written.
        StoreAwayError: If a tracking server does not answer.
    """
    with _calling_away_what_is_away(root):
        client = _connect(root)
        client.set_terminated(parent.run_id, status="FAILED" if failed else "FINISHED")


def _database(root: Path) -> Path:
    return root.resolve() / MLRUNS / "mlflow.db"


def _require_server(uri: str, shown: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it answers; a proxy may guard /health
            return
        raise StoreAwayError(f"tracking server {shown} answers {error.code}") from None
    except OSError as error:
        raise StoreAwayError(f"tracking server {shown} does not answer ({error})") from None


def _require_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_LOCK_PATIENCE_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            _require_schema(path, connection)
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreAwayError(f"another process holds the MLflow store {path}") from None
        raise InputError(
            f"the MLflow store {path} cannot be written ({error}): mend its permissions, or set "
            "MLFLOW_TRACKING_URI to another store"
        ) from None


def _require_schema(path: Path, connection: sqlite3.Connection) -> None:
    """MLflow itself would upgrade a store that lacks a table, unasked and without a backup."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    if ("alembic_version",) not in tables:
        return  # still empty
    if connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
        return  # nothing to lose, or another process is making the tables just now
    schemas = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if schemas != [(_get_latest_schema_revision(),)]:  # type: ignore[no-untyped-call]
        raise InputError(
            f"the MLflow store {path} was made by another version of MLflow: `idc backup FOLDER`, "
            f"then `mlflow db upgrade sqlite:///{path}`"
        )


def _require_database(uri: str, shown: str) -> None:
    """A first look: MLflow itself would wait for a database for an hour."""
    try:
        engine = sqlalchemy.create_engine(
            uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": 5}
        )
        with engine.connect():
            return
    except ModuleNotFoundError as error:
        raise InputError(
            f"tracking database {shown} needs the package {error.name}: pip install 'idc[servers]' "
            "and write postgresql+psycopg2://"
        ) from None
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StoreAwayError(f"tracking database {shown} does not answer ({reason})") from None


@contextmanager
def _calling_away_what_is_away(root: Path) -> Iterator[None]:
    """Turn errors of MLflow into StoreAwayError where the same call may succeed later."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
            reason = str(error).splitlines()[0]
            raise StoreAwayError(f"tracking store {shown_uri(root)} is busy ({reason})") from None
        check_store(root)
        raise


@contextmanager
def _little_patience() -> Iterator[None]:
    """Within, a server that is away costs seconds, where MLflow would hold a training for minutes.

    What the user's environment says instead, holds.
    """
    ours = {name: value for name, value in _LITTLE_PATIENCE.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _tell(client: MlflowClient, untold: Untold) -> None:
    """Send it; what the store has already is not told twice, for its key, step and value agree."""
    tags = [RunTag(key, value) for key, value in untold.tags.items()]
    metrics = [Metric(key, value, 0, step) for key, value, step in untold.metrics]
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(untold.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
    if tags:
        client.log_batch(untold.run_id, tags=tags)
    if untold.status is not None:
        client.set_terminated(untold.run_id, status=untold.status)


def _tell_what_waits(client: MlflowClient, root: Path) -> None:
    for untold in list_untold(root):
        try:
            _tell(client, untold)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            log.warning("run %s is gone from the store, and what it missed with it", untold.run_id)
        untold.forget(root)


def _connect(root: Path) -> MlflowClient:
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


def _experiment_id(client: MlflowClient, name: str, root: Path) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    uri = tracking_uri(root)
    location = None  # a server decides for itself
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _create_run(client: MlflowClient, params: Params, root: Path, tags: Mapping[str, str]) -> Run:
    backbones = "+".join(params.model.backbones)
    return client.create_run(
        _experiment_id(client, params.publish.experiment, root),
        run_name=params.publish.run_name
        or f"{backbones} {params.model.size_px}px {params.sample.num_patches}",
        tags=dict(tags),
    )


def _find_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    return list(
        client.search_runs(
            [experiment_id], f"tags.{tag} = '{value}'", order_by=["attributes.start_time ASC"]
        )
    )


def _find_unfinished(client: MlflowClient, params: Params, training: str) -> Run | None:
    """Return the last run of an interrupted training, or None where the store lacks it."""
    experiment_id = _experiment_id(client, params.publish.experiment, Path.cwd())
    runs = _find_run(client, experiment_id, _TRAINING_TAG, training)
    unfinished = [run for run in runs if run.info.status != "FINISHED"]
    return unfinished[-1] if unfinished else None


def _find_or_create_run(client: MlflowClient, result: Result, root: Path) -> Run:
    experiment_id = _experiment_id(client, result.params.publish.experiment, root)
    known = _find_run(client, experiment_id, _RESULT_TAG, result.digest)
    if known:
        return known[0]
    tags = {
        _RESULT_TAG: result.digest,
        _MODEL_TAG: result.model_digest,
        _COMMIT_TAG: result.commit,
    }
    trainers = _find_run(client, experiment_id, _MODEL_TAG, result.model_digest)
    for run in trainers:
        if _RESULT_TAG not in run.data.tags and not _contradicts(run, result.params):
            for key, value in tags.items():
                client.set_tag(run.info.run_id, key, value)
            return run
    if trainers:
        first = trainers[0]
        tags[_TRAINED_BY_TAG] = first.data.tags.get(_TRAINED_BY_TAG, first.info.run_id)
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
        if key.split(".")[0] in sections and key not in (*run.data.params, _NAME_KEY)
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
        "raw archive": ("data/raw", result.raw_digest, "raw"),
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
        if model.tags.get(_RESULT_TAG) == result.digest:
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
            _RESULT_TAG: result.digest,
            _MODEL_TAG: result.model_digest,
            _COMMIT_TAG: result.commit,
        },
    )


def _move_alias(client: MlflowClient, model: ModelVersion) -> None:
    current = client.get_registered_model(model.name).aliases.get(ALIAS)
    if str(current) != str(model.version):
        client.set_registered_model_alias(model.name, ALIAS, model.version)
