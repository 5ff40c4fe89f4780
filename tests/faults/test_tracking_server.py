"""A pipeline whose MLflow server is killed in mid-training and comes back later."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from mlflow.tracking import MlflowClient

from idc.core.files import load_json
from idc.core.layout import BUNDLE, PUBLISHED
from idc.models.spec import load_history
from idc.runs.workspace import copy_project, stage_environment
from idc.tracking.outbox import OUTBOX
from tests.operations.servers import free_port, mlflow_server
from tests.small_run import SMALL
from tests.waiting import wait_until

OVERRIDES = SMALL | {"train.epochs": 40, "train.patience": 40}
MISSED_EPOCHS = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def missed_epochs(project):
    return {
        step
        for path in project.glob(f"{OUTBOX}/*.json")
        for key, _, step in load_json(path)["metrics"]
        if key == "train/loss"
    }


def test_pipeline_when_the_mlflow_server_is_killed_in_mid_training_then_no_epoch_is_lost(
    tmp_path, project_root
):
    project = copy_project(project_root, tmp_path / "project", OVERRIDES)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{tmp_path / 'server.db'}"
    environment = stage_environment(project) | {
        "MLFLOW_TRACKING_URI": url,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        # its 20 s are too few beside a training on both cores
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    }
    environment.pop("PREFECT_API_URL", None)
    for arguments in (
        ("dvc", "config", "--local", "cache.dir", str(tmp_path / "cache")),
        ("idc", "synth", "data/raw/s.zip", "--cases", "16", "--patches-per-case", "16"),
    ):
        subprocess.run([sys.executable, "-m", *arguments], cwd=project, env=environment, check=True)
    client = MlflowClient(url, url)

    def is_training():
        experiment = client.get_experiment_by_name("idc")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return any("train/loss" in run.data.metrics for run in runs)

    log = (tmp_path / "flow.log").open("w+")
    with (
        log,
        mlflow_server(tmp_path / "server", store, port) as service,
        subprocess.Popen(
            [sys.executable, "-m", "idc", "pipeline"],
            cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT,
        ) as flow,
    ):  # fmt: skip
        try:
            wait_until(is_training)
            os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
            wait_until(lambda: len(missed_epochs(project)) >= MISSED_EPOCHS)
            with mlflow_server(tmp_path / "server", store, port):
                code = flow.wait(600)
                log.seek(0)
                assert code == 0, log.read()[-3000:]
                published = load_json(project / PUBLISHED)
                run = client.get_run(published["run_id"])
                told = {
                    key: client.get_metric_history(run.info.run_id, key)
                    for key in ("train/loss", "train/patches_per_s")
                }
        finally:
            flow.kill()
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "40"
    history = load_history(project / BUNDLE)
    losses = {item.step: item.value for item in told["train/loss"]}
    assert [losses[epoch] for epoch in history["epoch"]] == pytest.approx(
        list(history["train_loss"]), abs=1e-6
    )
    # speed is in no file: only the run itself can tell it
    for items in told.values():
        assert sorted(item.step for item in items) == list(range(1, 41))
    assert not list(project.glob(f"{OUTBOX}/*.json"))
    with closing(sqlite3.connect(tmp_path / "prefect/prefect.db")) as prefect:
        flows = prefect.execute("SELECT name, state_name FROM flow_run").fetchall()
    assert [state for _, state in flows] == ["Completed"]
