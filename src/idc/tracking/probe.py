"""Try what a run will do to the store, before anything is trained."""

import tempfile
from pathlib import Path

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from idc.core.errors import InputError, StoreUnavailableError
from idc.tracking.connection import (
    connect,
    ensure_experiment,
    local_database,
    shown_reason,
    shown_uri,
    translate_store_errors,
)
from idc.tracking.local_store import ARTIFACTS

_PROBE = "idc.probe"
_FILE = "probe.txt"
_ALIAS = "idc-probe"  # no name that a person would choose


def probe_store(root: Path, experiment: str, model: str) -> None:
    """Write, read and remove what a run will: a run, an artifact, an alias of the model.

    Of a local store only the folder of artifacts is tried, as `connection.check_store` has locked
    its database for writing. On a server there stays the experiment, with one deleted run that
    every later probe uses again.

    Args:
        root: The project.
        experiment: The experiment of the runs; made where the server has none of that name.
        model: The registered model, which need not exist yet.

    Raises:
        InputError: If one of them is refused, or an artifact does not come back as it was sent.
        StoreUnavailableError: If the store does not answer.
    """
    path = local_database(root)
    if path is not None:
        _probe_folder(path.parent / ARTIFACTS)
        return
    client = connect(root)
    try:
        with translate_store_errors(root):
            experiment_id = ensure_experiment(client, experiment, root)
            _probe_run(client, experiment_id)
            _probe_alias(client, model)
    except StoreUnavailableError:
        raise
    except (MlflowException, OSError) as error:
        raise InputError(
            f"{shown_uri(root)} refuses what a run will do ({shown_reason(error, root)})",
            "MLFLOW_TRACKING_URI",
            f"ask its administrator for the right to edit the experiment {experiment} and the "
            f"registered model {model}, and to store artifacts",
        ) from None


def _probe_folder(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"probe")
    except OSError as error:
        raise InputError(
            f"the artifacts of MLflow cannot be written to {folder} ({error.strerror})",
            fix="fix its permissions, or make room",
        ) from None


def _probe_run(client: MlflowClient, experiment_id: str) -> None:
    run_id = _probe_run_id(client, experiment_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            sent = Path(folder, _FILE)
            sent.write_text(run_id)
            client.log_artifact(run_id, str(sent))
            sent.unlink()
            received = Path(client.download_artifacts(run_id, _FILE, folder))
            if received.read_text() != run_id:
                raise OSError(f"{_FILE} did not come back as it was sent")
    finally:
        client.delete_run(run_id)


def _probe_run_id(client: MlflowClient, experiment_id: str) -> str:
    """Return the id of the run that probes use: that of an earlier one, restored, else a new one.

    A new run for each probe would fill the store with deleted runs.
    """
    earlier = client.search_runs(
        [experiment_id], f"tags.`{_PROBE}` = 'true'", ViewType.ALL, max_results=1
    )
    if not earlier:
        run = client.create_run(experiment_id, run_name="probe", tags={_PROBE: "true"})
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)
    client.restore_run(earlier[0].info.run_id)
    return str(earlier[0].info.run_id)


def _probe_alias(client: MlflowClient, model: str) -> None:
    """Move and remove an alias, where the model has a version that it can point at."""
    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return  # `publish` makes it, and who makes a model may do all with it
        raise
    versions = client.search_model_versions(f"name = '{model}'", max_results=1)
    if versions:
        client.set_registered_model_alias(model, _ALIAS, versions[0].version)
        client.delete_registered_model_alias(model, _ALIAS)
