"""A training's run, told of each epoch as it ends, and later of what it missed meanwhile."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from idc.core.config import Params
from idc.core.errors import InputError, StoreUnavailableError
from idc.core.process_ids import is_dead
from idc.tracking.connection import (
    check_store,
    connect,
    ensure_experiment,
    translate_store_errors,
)
from idc.tracking.outbox import Outbox, list_outboxes, load_outbox
from idc.tracking.recording import (
    COMMIT_TAG,
    ENVIRONMENT_TAG,
    MODEL_TAG,
    RESULT_TAG,
    create_run,
    find_runs,
    log_params,
    process_tags,
    read_process,
)

log = logging.getLogger(__name__)

_TRAINING_TAG = "training_digest"
_SECTIONS = ("seeds", "ingest", "sample", "split", "model", "augment", "train", "runtime")
_METRICS_PER_CALL = 1000  # more are refused


class LiveRun:
    """A run that receives each epoch as it ends.

    A store that goes away does not hold the training up: what it missed is sent with the next
    epoch, or by `publish_result`.
    """

    def __init__(self, client: MlflowClient, run_id: str, root: Path) -> None:
        self._client = client
        self._root = root
        self._outbox = load_outbox(root, run_id)
        self._outbox.status = None  # it goes on
        told = client.get_metric_history(run_id, "train/loss")
        self._logged = {metric.step for metric in told} | {
            step for key, _, step in self._outbox.metrics if key == "train/loss"
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

    def name_model(self, digest: str, environment: Mapping[str, str]) -> None:
        """Say which weights this run made, and on which machine with which versions."""
        self._outbox.tags |= {
            ENVIRONMENT_TAG: json.dumps(environment),
            MODEL_TAG: digest,
        }
        self._send({})

    def end(self, status: str) -> None:
        """Say how the training ended: FINISHED or FAILED."""
        self._outbox.status = status
        self._send({})

    def _send(self, values: Mapping[str, float], step: int = 0) -> None:
        self._outbox.metrics += [(key, float(value), step) for key, value in values.items()]
        try:
            check_store(self._root)  # it answers in seconds, where MLflow would wait for minutes
            tell(self._client, self._outbox)
        except (MlflowException, InputError, StoreUnavailableError) as error:
            self._outbox.keep(self._root)
            log.warning("tracking store away (%s): what it missed is sent later", error)
        else:
            self._outbox.forget(self._root)


@contextmanager
def live_run(
    root: Path, params: Params, commit: str, *, training: str, resumed: bool
) -> Iterator[LiveRun]:
    """Open a run for a training; it ends as FINISHED, or FAILED when an error passes.

    Args:
        root: The project.
        params: Recorded, as far as they concern the training.
        commit: Of the code.
        training: Digest of all that shapes the training.
        resumed: Whether it goes on from a checkpoint: then its unfinished run goes on as well. A
            run whose training begins anew goes on too, if nothing came of it and it is not at work:
            a training that was killed, or whose result was lost, stays one run.

    Raises:
        InputError: If the local store cannot be written.
        StoreUnavailableError: If the store is away when the training begins.
    """
    with translate_store_errors(root):
        client = connect(root)
        run = _find_unfinished(client, params, training, root, resumed=resumed)
        if run is None:
            tags = {COMMIT_TAG: commit, _TRAINING_TAG: training}
            run = create_run(client, params, root, tags)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            for key, value in process_tags().items():
                client.set_tag(run.info.run_id, key, value)
            log.info("the MLflow run %s goes on", run.info.run_id)
        log_params(client, run, params, _SECTIONS)
        live = LiveRun(client, run.info.run_id, root)
    status = "FAILED"
    try:
        yield live
        status = "FINISHED"
    finally:
        live.end(status)


def tell(client: MlflowClient, outbox: Outbox) -> None:
    """Send it; what the store has already is not told twice, for its key, step and value agree."""
    tags = [RunTag(key, value) for key, value in outbox.tags.items()]
    metrics = [Metric(key, value, 0, step) for key, value, step in outbox.metrics]
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(outbox.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
    if tags:
        client.log_batch(outbox.run_id, tags=tags)
    if outbox.status is not None:
        client.set_terminated(outbox.run_id, status=outbox.status)


def flush_outbox(client: MlflowClient, root: Path) -> None:
    """Send what trainings in `root` could not tell while the store was away."""
    for outbox in list_outboxes(root):
        try:
            tell(client, outbox)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            log.warning("run %s is gone from the store, and what it missed with it", outbox.run_id)
        outbox.forget(root)


def _find_unfinished(
    client: MlflowClient, params: Params, training: str, root: Path, *, resumed: bool
) -> Run | None:
    """Return the last run of an interrupted training, or None where the store lacks it."""
    experiment_id = ensure_experiment(client, params.publish.experiment, root)
    runs = find_runs(client, experiment_id, _TRAINING_TAG, training)
    unfinished = [
        run
        for run in runs
        if (resumed and run.info.status != "FINISHED")
        or (_came_to_nothing(run) and params.publish.run_name in (None, run.info.run_name))
    ]
    return unfinished[-1] if unfinished else None


def _came_to_nothing(run: Run) -> bool:
    """Say whether nobody is at work on the run, and no result of it has been published."""
    if RESULT_TAG in run.data.tags:
        return False
    process = read_process(run.data.tags)
    if run.info.status == "RUNNING":
        return process is not None and is_dead(process)
    # the pipeline of another machine may be on its way from the training to the result
    return run.info.status != "FINISHED" or process is None or is_dead(process)
