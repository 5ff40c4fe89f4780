"""The registered version of a finished pipeline's result: its files, tags, text and alias."""

import contextlib
import json
import logging
import shutil
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
from mlflow.entities import (
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
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import idc
from idc.core.checksums import write_sums
from idc.core.config import flatten
from idc.core.scratch import scratch_folder
from idc.models.spec import ModelSpec, load_spec
from idc.tracking.chosen_metrics import shown_metrics
from idc.tracking.description import DATA_TAG, figure, short_digest
from idc.tracking.recording import (
    COMMIT_TAG,
    FILES_TAG,
    MODEL_TAG,
    RESULT_TAG,
)
from idc.tracking.result import Result
from idc.tracking.stored_files import list_files

log = logging.getLogger(__name__)

ALIAS = "challenger"
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "timm", "numpy", "pandas", "opencv-python-headless",
    "onnx", "onnxruntime",
    "pydantic", "pyyaml", "safetensors", "scikit-learn", "tqdm",
)  # fmt: skip
_NUM_FILES_TAG = "num_files"  # of a logged model: by it a removed file is noticed
_UNREACHED = 1_000_000  # files
_MAX_DESCRIPTION = 5000  # characters, of a version, in PostgreSQL
_MODEL_DESCRIPTION = (
    "Fusion CNN that gives the probability of invasive ductal carcinoma in a 50x50-px patch of an "
    "H&E slide. The alias `champion` is served, `challenger` is the newest result. For research, "
    "not for diagnosis."
)


def publish_version(client: MlflowClient, run: Run, result: Result) -> ModelVersion:
    """Find or make the version of a result, complete it, and let the alias point at it.

    Args:
        client: Of the store.
        run: The result's run.
        result: What is published.

    Returns:
        The version, of which the store now holds every file.
    """
    model = _find_version(client, result)
    if model is None:
        model = _register(client, run, result)
    else:
        _restore_model(client, model, result)
    _describe_version(client, model, result)
    if result.params.publish.move_challenger:
        _move_alias(client, model)
    return model


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
        # until all are there again, the next call finds too few
        client.set_logged_model_tags(logged.model_id, {_NUM_FILES_TAG: str(_UNREACHED)})
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
        for key, value in shown_metrics(result).items()
    ]
    client.log_batch(run_id, metrics=metrics)
    return client.finalize_logged_model(logged.model_id, "READY"), files_digest


def _find_interrupted(client: MlflowClient, run: Run) -> LoggedModel | None:
    """Return what an interrupted call has left of the run's model: its files are written again.

    A model that some version was made of is whole, be it under another name.
    """
    run_id = run.info.run_id
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    registered = {version.source for version in versions}
    return next((model for model in found if model.artifact_location not in registered), None)


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
        "weights_licences": _name_licences(load_spec(result.bundle)),
    }
    for key, value in tags.items():
        if value and key not in model.tags:
            client.set_model_version_tag(model.name, model.version, key, value)
    if not client.get_registered_model(model.name).description:
        client.update_registered_model(model.name, _MODEL_DESCRIPTION)


def _name_licences(spec: ModelSpec) -> str:
    """Return the licences of the weights that the training began with; "" from scratch."""
    named = {weights.licence or "not stated" for weights in spec.starting_weights}
    return ", ".join(sorted(named))


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
