"""A tracking server of its own process: proxied files, and what happens while it is away."""

import json
import shutil

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from idc.cli import COMMANDS
from idc.core.errors import InputError
from idc.tracking.live import live_run
from idc.tracking.model_version import ALIAS
from idc.tracking.outbox import OUTBOX
from idc.tracking.probe import probe_store
from idc.tracking.publishing import publish_result
from tests.operations.servers import free_port, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def told_epochs(client, run_id, key):
    return sorted((item.step, item.value) for item in client.get_metric_history(run_id, key))


def test_proxied_server_when_a_result_is_published_then_files_and_model_come_back_through_it(
    servers, result, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.mlflow_url)
    monkeypatch.chdir(tmp_path)
    published = publish_result(result, tmp_path)
    assert publish_result(result, tmp_path) == published
    client = MlflowClient(servers.mlflow_url, servers.mlflow_url)
    run = client.get_run(published.run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert "card.md" in {item.path for item in client.list_artifacts(published.run_id)}
    assert list((servers.folder / "mlflow/artifacts").rglob("card.md"))  # on the server's disk
    assert not (tmp_path / "mlruns").exists()  # and nowhere else
    model = mlflow.pyfunc.load_model(f"models:/{published.model_name}@{ALIAS}")
    patch = np.full((50, 50, 3), 180, np.uint8)
    scored = model.predict(pd.DataFrame({"image": [cv2.imencode(".png", patch)[1].tobytes()]}))
    assert 0.0 <= scored["probability"][0] <= 1.0


def test_training_when_the_server_is_down_twice_then_no_epoch_is_lost_and_its_run_is_finished(
    result, tmp_path, monkeypatch
):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{tmp_path / 'server.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(url, url)

    def log_epoch(live, epoch):
        # speed is in no file: only the run itself can tell it
        live.log_epoch(epoch, {"train/loss": 1 / epoch, "train/patches_per_s": 100.0 + epoch})

    with mlflow_server(tmp_path / "server", store, port) as service:
        training = live_run(tmp_path, result.params, "abc", training="t1", resumed=False)
        live = training.__enter__()
        live.log_class_weights([1.0, 1.0])
        log_epoch(live, 1)
        (experiment,) = (e for e in client.search_experiments() if e.name == "idc")
        (run,) = client.search_runs([experiment.experiment_id])
        run_id = run.info.run_id
    assert service.process.returncode is not None
    log_epoch(live, 2)
    log_epoch(live, 3)
    waiting = json.loads((tmp_path / OUTBOX / f"{run_id}.json").read_text(encoding="utf-8"))
    assert {step for _, _, step in waiting["metrics"]} == {2, 3}

    with mlflow_server(tmp_path / "server", store, port):
        log_epoch(live, 4)
        speeds = told_epochs(client, run_id, "train/patches_per_s")
        assert speeds == [(epoch, 100.0 + epoch) for epoch in (1, 2, 3, 4)]
        assert not list((tmp_path / OUTBOX).iterdir())
    log_epoch(live, 5)
    live.name_model(result.model_digest, {"torch": "2"})
    training.__exit__(None, None, None)

    with mlflow_server(tmp_path / "server", store, port):
        assert client.get_run(run_id).info.status == "RUNNING"  # so far it knows no better
        assert publish_result(result, tmp_path).run_id == run_id
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["test/auroc"] == 0.75
        speeds = told_epochs(client, run_id, "train/patches_per_s")
        assert speeds == [(epoch, 100.0 + epoch) for epoch in (1, 2, 3, 4, 5)]
        assert not list((tmp_path / OUTBOX).iterdir())


def test_probe_when_repeated_then_one_deleted_run_and_no_alias_stay_and_a_full_disk_is_named(
    tmp_path, monkeypatch
):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.chdir(tmp_path)
    with mlflow_server(tmp_path / "server", f"sqlite:///{tmp_path / 'server.db'}", port):
        client = MlflowClient(url, url)
        client.create_registered_model("idc-fusion")
        other = client.create_run(client.create_experiment("other")).info
        client.create_model_version("idc-fusion", f"{other.artifact_uri}/m", other.run_id)
        for _ in range(2):
            probe_store(tmp_path, "idc", "idc-fusion")
        experiment = client.get_experiment_by_name("idc")
        (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
        assert run.info.lifecycle_stage == "deleted"
        assert client.get_registered_model("idc-fusion").aliases == {}

        shutil.rmtree(tmp_path / "server/artifacts")
        (tmp_path / "server/artifacts").symlink_to("/proc/self")  # where nothing can be written
        for name, value in COMMANDS["check"].environment.items():  # as `idc check` sets them
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match="refuses what a run will do") as refusal:
            probe_store(tmp_path, "idc", "idc-fusion")
        assert "to store artifacts" in refusal.value.fix
        assert not client.search_runs([experiment.experiment_id])  # the probe is deleted again
