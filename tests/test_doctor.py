import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from idc import doctor, prefect_api
from idc.doctor import SERVICES, examine
from idc.files import save_json
from idc.store import relocate_store
from idc.tracking.connection import describe_faults
from idc.tracking.orphans import close_runs, list_orphans
from idc.tracking.registry import list_aliased_digests

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A project whose store holds a dead process's run, a living one's, and an aliased model."""
    root = tmp_path_factory.mktemp("project")
    (root / "mlruns").mkdir()
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment("idc", (root / "mlruns/artifacts").as_uri())
    process = doctor_process()
    living = {"host": process.host, "pid": str(process.pid), "process_started": process.started}
    for name, tags in (
        ("living", living),
        ("dead", living | {"process_started": process.started - 3600}),
        ("elsewhere", living | {"host": "elsewhere", "process_started": 0.0}),
        ("unknown", {}),
    ):
        tags = {key: str(value) for key, value in tags.items()}
        client.create_run(experiment, run_name=name, tags=tags)
    client.create_registered_model("idc-fusion")
    for digest in ("a" * 64, "b" * 64):
        client.create_model_version("idc-fusion", "file:///none", tags={"result_digest": digest})
    client.set_registered_model_alias("idc-fusion", "champion", "2")
    return root


def doctor_process():
    import os

    from idc.processes import identify_process

    return identify_process(os.getpid())


@pytest.fixture
def project(store, tmp_path, monkeypatch):
    root = Path(shutil.copytree(store, tmp_path / "project"))
    path = root / "mlruns/mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'idc'",
            ((root / "mlruns/artifacts").as_uri(),),
        )
    monkeypatch.setattr(doctor, "_dvc", lambda root, *arguments: "")
    monkeypatch.setattr(prefect_api, "ask", refuse)
    shutil.copy2(ROOT / "prefect.yaml", root)
    return root


def refuse(path, body=None, *, method=None):
    raise ConnectionRefusedError


def found(project, change_params):
    return {item.what: item for item in examine(change_params(), project)}


def test_doctor_when_nothing_was_ever_started_then_services_are_off_and_the_archive_is_missing(
    project, change_params
):
    items = found(project, change_params)
    assert items["raw archive"].state == "missing"
    assert items["MLflow store"].state == "ok"
    assert items["weights"].state == "ok"
    assert items["Prefect server"].state == "off"
    assert items["Prefect server"].mend == "make up"
    assert items["DVC remote"].mend == "dvc remote add --default NAME URL"
    assert "GB free" in items["disk"].said


def test_doctor_when_services_died_then_they_are_missing(project, change_params):
    save_json(project / SERVICES / "prefect-server.json", {})
    assert found(project, change_params)["Prefect server"].state == "missing"


def test_doctor_when_a_pointer_has_no_file_then_it_says_how_to_fetch_it(project, change_params):
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/archive.zip.dvc").write_text("outs: []\n")
    archive = found(project, change_params)["raw archive"]
    assert (archive.state, archive.mend) == ("missing", "dvc pull data/raw/*.dvc")


def test_doctor_when_pool_worker_and_deployment_are_wrong_then_each_has_its_command(
    project, change_params, monkeypatch
):
    answers = {
        "/health": True,
        "/work_pools/idc": {"is_paused": True, "type": "process"},
        "/work_pools/idc/workers/filter": [{"name": "w", "status": "OFFLINE"}],
        "/deployments/name/pipeline/local": {"path": "/old/clone", "schedules": []},
    }

    def ask(path, body=None, *, method=None):
        if path not in answers:
            raise LookupError(path)
        return answers[path]

    monkeypatch.setattr(prefect_api, "ask", ask)
    items = found(project, change_params)
    assert items["work pool idc"].mend == "prefect work-pool resume idc"
    assert (items["worker"].said, items["worker"].mend) == ("none is alive", "make up")
    assert items["deployment pipeline/local"].said == "runs in /old/clone"
    assert items["deployment retraining/local"].said == "unknown to the server"


def test_doctor_when_a_schedule_is_on_then_names_the_next_run_or_that_there_is_none(
    project, change_params, monkeypatch
):
    answers = {
        "/health": True,
        "/work_pools/idc": {"is_paused": False, "type": "process"},
        "/work_pools/idc/workers/filter": [{"name": "w", "status": "ONLINE"}],
        "/deployments/name/pipeline/local": {"path": str(project), "schedules": []},
        "/deployments/name/retraining/local": {
            "id": "d1",
            "path": str(project),
            "schedules": [{"schedule": {"cron": "0 2 * * 1"}, "active": True}],
        },
        "/flow_runs/filter": [{"expected_start_time": "2026-11-30T02:00:00Z"}],
    }
    monkeypatch.setattr(prefect_api, "ask", lambda path, *_, **__: answers[path])
    item = found(project, change_params)["deployment retraining/local"]
    assert (item.state, item.said) == ("ok", "0 2 * * 1 (on), next 2026-11-30 02:00 UTC")
    answers["/flow_runs/filter"] = []
    item = found(project, change_params)["deployment retraining/local"]
    assert (item.state, item.mend) == ("missing", "see .idc/services/prefect-server.log")
    assert "has scheduled no run" in item.said


def test_orphans_when_host_and_process_say_so_then_they_alone_are_closed(project):
    (orphan,) = list_orphans(project)
    close_runs(project, [orphan])
    uri = f"sqlite:///{project}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("idc").experiment_id
    states = {
        run.data.tags["mlflow.runName"]: run.info.status for run in client.search_runs([experiment])
    }
    assert states.pop("dead") == "KILLED"
    assert set(states.values()) == {"RUNNING"}
    assert list_orphans(project) == []


def test_aliased_digests_when_an_alias_points_at_a_version_then_its_digest_alone_is_named(project):
    assert list_aliased_digests(project) == {"b" * 64}


def test_store_when_the_clone_was_moved_then_relocate_mends_it(project, change_params, tmp_path):
    moved = project.rename(tmp_path / "moved")
    (fault,) = describe_faults(moved)
    assert (project / "mlruns/artifacts").as_uri() in fault
    assert found(moved, change_params)["MLflow store"].mend == "idc relocate"
    relocate_store(moved / "mlruns")
    assert describe_faults(moved) == []


@pytest.mark.parametrize("with_runs", [True, False])
def test_store_when_another_version_made_it_then_backup_and_upgrade_are_named(
    project, change_params, with_runs
):
    with closing(sqlite3.connect(project / "mlruns/mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'old'")
        if not with_runs:
            connection.execute("DELETE FROM tags")
            connection.execute("DELETE FROM runs")
    (fault,) = describe_faults(project)
    assert "made by another version of MLflow" in fault
    mend = found(project, change_params)["MLflow store"].mend
    assert mend.startswith("`idc backup FOLDER`, then `mlflow db upgrade sqlite:///")


def test_store_when_its_server_is_away_then_no_password_is_shown(
    project, change_params, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    store = found(project, change_params)["MLflow store"]
    assert store.state == "missing"
    assert "http://me:***@127.0.0.1:1 does not answer" in store.said
    assert "secret" not in store.said + store.mend
