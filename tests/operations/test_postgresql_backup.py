"""Stores on PostgreSQL, dumped while their servers run and restored beside them.

The commands are those of docs/how-to/backup.md, with addresses in the place of names.
"""

import shutil
import subprocess
from dataclasses import replace

import cv2
import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from idc.tracking.model_version import ALIAS
from idc.tracking.publishing import publish_result
from tests.operations.servers import free_port, mlflow_server, prefect_server, with_driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (shutil.which("pg_dump") and shutil.which("pg_restore")),
        reason="pg_dump and pg_restore are not installed",
    ),
]


@pytest.fixture
def restore(create_database, tmp_path):
    """`restore(address)`: the address of a new database, filled from a dump of that one."""

    def restore(database: str) -> str:
        dump, target = tmp_path / "it.dump", create_database()
        for command in (
            ["pg_dump", "--format", "custom", "--file", str(dump), database],
            ["pg_restore", "--dbname", target, str(dump)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return target

    return restore


def test_mlflow_when_restored_from_a_dump_then_runs_files_and_aliases_are_those_of_then(
    servers, restore, result, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.mlflow_url)
    content = result.params.model_dump()
    content["publish"]["experiment"] = "kept"  # other tests use this server too
    result = replace(result, params=type(result.params).model_validate(content))
    published = publish_result(result, tmp_path)
    before = MlflowClient(servers.mlflow_url, servers.mlflow_url)
    run = before.get_run(published.run_id)
    database = restore(servers.mlflow_database)
    shutil.copytree(servers.folder / "mlflow/artifacts", tmp_path / "restored/artifacts")
    later = before.create_run(run.info.experiment_id).info.run_id

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path / "restored", with_driver(database), port) as service:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(url, url)
        assert client.get_run(published.run_id).to_dictionary() == run.to_dictionary()
        assert later not in {
            item.info.run_id for item in client.search_runs([run.info.experiment_id])
        }
        version = client.get_model_version_by_alias(published.model_name, ALIAS)
        assert str(version.version) == published.model_version
        assert publish_result(result, tmp_path) == published  # there is nothing to fix
        model = mlflow.pyfunc.load_model(f"models:/{published.model_name}@{ALIAS}")
        patch = np.full((50, 50, 3), 180, np.uint8)
        scored = model.predict(pd.DataFrame({"image": [cv2.imencode(".png", patch)[1].tobytes()]}))
        assert 0.0 <= scored["probability"][0] <= 1.0
        assert "Traceback" not in service.said()


def test_prefect_when_restored_from_a_dump_then_deployment_schedule_and_history_are_there(
    servers, restore, tmp_path
):
    def ask(url, path, body):
        answer = httpx.post(f"{url}{path}", json=body, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    flow = ask(servers.prefect_url, "/flows/", {"name": "kept"})
    schedule = {"schedule": {"cron": "0 2 * * 1", "timezone": "UTC"}, "active": False}
    content = {"name": "kept", "flow_id": flow["id"], "schedules": [schedule]}
    deployment = ask(servers.prefect_url, "/deployments/", content)
    path = f"/deployments/{deployment['id']}/create_flow_run"
    run = ask(servers.prefect_url, path, {"name": "the run of then"})

    port = free_port()
    settings = {**servers.settings, "PREFECT_HOME": str(tmp_path / "home")}
    database = restore(servers.prefect_database)
    url = f"http://127.0.0.1:{port}/api"
    settings["PREFECT_API_URL"] = url
    with prefect_server(tmp_path / "prefect", database, port, settings):
        (found,) = ask(url, "/deployments/filter", {"deployments": {"name": {"any_": ["kept"]}}})
        assert found["id"] == deployment["id"]
        (kept,) = found["schedules"]
        assert (kept["schedule"]["cron"], kept["active"]) == ("0 2 * * 1", False)
        runs = ask(url, "/flow_runs/filter", {"deployments": {"id": {"any_": [found["id"]]}}})
        assert [(item["id"], item["name"]) for item in runs] == [(run["id"], "the run of then")]
