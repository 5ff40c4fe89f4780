import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from safetensors.torch import save_file

from idc.core.files import save_json
from idc.core.layout import SERVICES
from idc.core.process_ids import identify_process
from idc.ops import doctor, prefect_api
from idc.ops.doctor import examine
from idc.runs.lineage import file_md5, folder_md5
from idc.runs.workspace import stage_environment
from idc.synthetic import ArchivePlan, create_archive
from idc.tracking.connection import describe_faults
from idc.tracking.local_store import relocate_store
from idc.tracking.orphans import close_runs, list_orphans
from idc.tracking.registry import list_aliased_digests
from tests.random_networks import random_backbone

ROOT = Path(__file__).parents[2]


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
    raise ConnectionRefusedError("refused")


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
    assert items["Prefect server"].fix == "make up"
    assert items["Prefect server"].said == "none at http://127.0.0.1:4200/api (refused)"
    assert items["DVC remote"].fix == "dvc remote add --default NAME URL"
    assert "GB free" in items["disk"].said


def test_doctor_when_services_died_then_they_are_missing(project, change_params):
    save_json(project / SERVICES / "prefect-server.json", {})
    assert found(project, change_params)["Prefect server"].state == "missing"


def test_doctor_when_a_pointer_has_no_file_then_it_says_how_to_fetch_it(project, change_params):
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/archive.zip.dvc").write_text("outs: []\n")
    archive = found(project, change_params)["raw archive"]
    assert archive.state == "missing"
    assert archive.fix.startswith(f"`dvc pull {project}/data/raw/archive.zip.dvc` fetches it")


def runs_in(folder):
    """What Prefect 3 records of a deployment from a folder without pull steps of its own."""
    return [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]


def test_doctor_when_pool_worker_and_deployment_are_wrong_then_each_has_its_command(
    project, change_params, monkeypatch
):
    answers = {
        "/health": True,
        "/work_pools/idc": {"is_paused": True, "type": "process"},
        "/work_pools/idc/workers/filter": [{"name": "w", "status": "OFFLINE"}],
        "/deployments/name/pipeline/local": {"pull_steps": runs_in("/old/clone")},
    }

    def ask(path, body=None, *, method=None):
        if path not in answers:
            raise LookupError(path)
        return answers[path]

    monkeypatch.setattr(prefect_api, "ask", ask)
    items = found(project, change_params)
    assert items["work pool idc"].fix == "prefect work-pool resume idc"
    assert (items["worker"].said, items["worker"].fix) == ("none is alive", "make up")
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
            "pull_steps": runs_in(project),
            "schedules": [{"schedule": {"cron": "0 2 * * 1"}, "active": True}],
        },
        "/flow_runs/filter": [{"expected_start_time": "2026-11-30T02:00:00Z"}],
    }
    monkeypatch.setattr(prefect_api, "ask", lambda path, *_, **__: answers[path])
    item = found(project, change_params)["deployment retraining/local"]
    assert (item.state, item.said) == ("ok", "0 2 * * 1 (on), next 2026-11-30 02:00 UTC")
    answers["/flow_runs/filter"] = []
    item = found(project, change_params)["deployment retraining/local"]
    assert (item.state, item.fix) == ("missing", "see .idc/services/prefect-server.log")
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
    assert (project / "mlruns/artifacts").as_uri() in str(fault)
    assert found(moved, change_params)["MLflow store"].fix == "idc relocate"
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
    assert "made by another version of MLflow" in str(fault)
    fix = found(project, change_params)["MLflow store"].fix
    assert fix.startswith("`idc backup FOLDER`, then `mlflow db upgrade sqlite:///")


def test_store_when_its_server_is_down_then_no_password_is_shown(
    project, change_params, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    store = found(project, change_params)["MLflow store"]
    assert store.state == "missing"
    assert "http://me:***@127.0.0.1:1 does not answer" in store.said
    assert "secret" not in store.said + store.fix


def test_doctor_when_a_pointer_names_another_archive_then_it_says_so(project, change_params):
    raw = project / "data/raw"
    raw.mkdir(parents=True)
    create_archive(raw / "a.zip", ArchivePlan(num_cases=2, patches_per_case=4, seed=1))
    for md5, state in ((file_md5(raw / "a.zip"), "ok"), ("0" * 32, "missing")):
        (raw / "a.zip.dvc").write_text(f"outs:\n- {{md5: '{md5}', path: a.zip}}\n")
        archive = found(project, change_params)["raw archive"]
        assert archive.state == state
    assert archive.said == "not what is named by a.zip.dvc"
    assert archive.fix == "dvc pull data/raw/*.dvc, or dvc add what is here"


def test_doctor_when_dvc_tracks_the_whole_raw_folder_then_it_is_compared(project, change_params):
    raw = project / "data/raw"
    raw.mkdir(parents=True)
    create_archive(raw / "a.zip", ArchivePlan(num_cases=2, patches_per_case=4, seed=1))
    for md5, state in ((folder_md5(raw), "ok"), ("0.dir", "missing")):
        (project / "data/raw.dvc").write_text(f"outs:\n- {{md5: '{md5}', path: raw}}\n")
        archive = found(project, change_params)["raw archive"]
        assert archive.state == state
    assert archive.said == "not what is named by raw.dvc"
    assert archive.fix == "dvc pull data/raw.dvc, or dvc add what is here"
    shutil.rmtree(raw)
    archive = found(project, change_params)["raw archive"]
    assert archive.fix.startswith(f"`dvc pull {project}/data/raw.dvc` fetches it")


def test_doctor_when_a_version_with_an_alias_has_no_files_then_it_is_named(project, change_params):
    models = found(project, change_params)["registered models"]
    assert models.state == "off"
    assert models.said == "the store holds no files of idc-fusion version 2 (champion)"
    assert "idc publish" in models.fix


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (PERMISSION_DENIED, "refuses to list runs, models or their files (PERMISSION_DENIED)"),
        (TEMPORARILY_UNAVAILABLE, "is busy"),
    ],
)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(mlflow.artifacts, "list_artifacts"), (mlflow.MlflowClient, "search_runs")],
)
def test_doctor_when_the_store_refuses_to_list_then_one_line_says_so(
    project, change_params, monkeypatch, owner, name, code, said
):
    def refuse(*_, **__):
        raise MlflowException("https://me:secret@host: no", code)

    monkeypatch.setattr(owner, name, refuse)
    store = found(project, change_params)["MLflow store"]
    assert store.state == "missing"
    assert said in store.said


def answer(monkeypatch, workers):
    """A server that knows the pool and these workers."""
    answers = {
        "/health": True,
        "/work_pools/idc": {"is_paused": False, "type": "process"},
        "/work_pools/idc/workers/filter": [{"name": name, "status": "ONLINE"} for name in workers],
    }

    def ask(path, body=None, *, method=None):
        if path not in answers:
            raise LookupError(path)
        return answers[path]

    monkeypatch.setattr(prefect_api, "ask", ask)


def record_service(project, name, *, dead):
    """What `make up` leaves of a service."""
    process = asdict(doctor_process())
    process["started"] -= 3600 * dead
    save_json(project / SERVICES / f"{name}.json", {"process": process, "port": None})


def test_doctor_when_the_worker_was_just_killed_then_the_servers_word_is_not_taken(
    project, change_params, monkeypatch
):
    own = prefect_api.worker_name(project)
    answer(monkeypatch, [own])
    record_service(project, "worker", dead=False)
    assert found(project, change_params)["worker"].said == own
    record_service(project, "worker", dead=True)
    worker = found(project, change_params)["worker"]
    assert (worker.state, worker.said, worker.fix) == ("missing", "none is alive", "make up")
    answer(monkeypatch, [own, "another machine's"])
    assert found(project, change_params)["worker"].said == "another machine's"


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "file:///etc/passwd"])
def test_doctor_when_prefects_address_is_none_then_it_says_how_one_begins(
    project, change_params, monkeypatch, url
):
    monkeypatch.setenv("PREFECT_API_URL", url)
    server = found(project, change_params)["Prefect server"]
    assert server.state == "missing"
    assert url in server.said
    assert server.fix == "begin it with http:// or https://"


def test_doctor_when_mlflows_ui_died_then_it_says_how_to_start_it(project, change_params):
    record_service(project, "mlflow", dead=False)
    assert "MLflow UI" not in found(project, change_params)
    record_service(project, "mlflow", dead=True)
    assert found(project, change_params)["MLflow UI"].fix == "make up"


def test_doctor_when_there_is_a_remote_then_it_is_named(project, change_params, monkeypatch):
    monkeypatch.undo()  # DVC itself is asked here
    folder = project / "with remote"
    folder.mkdir()
    for command in (("init", "--no-scm"), ("remote", "add", "--default", "shared", "/mnt/idc")):
        subprocess.run(
            [sys.executable, "-m", "dvc", *command],
            cwd=folder, env=stage_environment(folder), check=True, capture_output=True,
        )  # fmt: skip
    remote = doctor._remote(folder)
    assert (remote.state, remote.said) == ("ok", "shared /mnt/idc (default)")


def test_doctor_when_weights_are_not_there_then_it_names_ways_to_have_them(project, change_params):
    params = change_params(model={"pretrained": "no/such/folder"})
    items = {item.what: item for item in examine(params, project)}
    weights = items["weights"]
    assert weights.state == "missing"
    assert weights.said.endswith("no/such/folder/test_resnet.safetensors does not exist")
    assert weights.fix.startswith("put the weights of test_resnet there, or set model.pretrained")


def test_doctor_when_the_licence_of_weights_is_unknown_then_says_so_and_may_refuse(
    project, change_params, tmp_path
):
    net = random_backbone("test_resnet").net
    save_file(net.state_dict(), tmp_path / "test_resnet.safetensors")
    model = {"pretrained": str(tmp_path)}
    found = [
        item for item in examine(change_params(model=model), project) if item.what == "weights"
    ]
    assert [item.state for item in found] == ["ok", "off"]
    assert "weights of test_resnet (unknown): whether their licence" in found[1].said
    params = change_params(model=model, publish={"forbid_licences": ["unknown"]})
    (refused,) = [item for item in examine(params, project) if item.what == "weights"]
    assert refused.state == "missing"


@pytest.mark.parametrize(
    ("names", "state", "said"),
    [(["A", "B"], "ok", "A, B"), ([], "off", "none: runs train on the CPU")],
)
def test_doctor_when_there_are_gpus_or_none_then_it_says_so(
    project, change_params, monkeypatch, names, state, said
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    gpu = found(project, change_params)["GPU"]
    assert (gpu.state, gpu.said) == (state, said)


def test_doctor_when_the_disk_fills_up_then_it_says_by_what_and_how_to_free_it(
    project, change_params, monkeypatch
):
    for name, size_mb in (
        ("mlruns/artifacts", 20),
        (".workspaces/a", 30),
        (".idc/checkpoints/b", 40),
    ):
        (project / name).mkdir(parents=True, exist_ok=True)
        (project / name / "one").write_bytes(os.urandom(size_mb * 1_000_000))
        (project / name / "same").hardlink_to(project / name / "one")
    disk = found(project, change_params)["disk"]
    assert "MLflow files 0.02 GB, workspaces 0.03 GB, checkpoints 0.04 GB" in disk.said
    usage = SimpleNamespace(free=1.9e9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    disk = found(project, change_params)["disk"]
    assert disk.state == "missing"
    assert disk.said.startswith("1.9 GB free, a run needs some 2.0")
    assert disk.fix.startswith("idc gc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/elsewhere/mlflow.db")
    assert "MLflow files 0.00 GB" in found(project, change_params)["disk"].said


def test_doctor_when_runs_of_dead_processes_stand_as_running_then_it_names_what_closes_them(
    project, change_params
):
    (orphan,) = list_orphans(project)
    runs = found(project, change_params)["MLflow runs"]
    assert (runs.state, runs.fix) == ("off", "idc gc --yes")
    assert orphan in runs.said
    close_runs(project, [orphan])
    assert "MLflow runs" not in found(project, change_params)
