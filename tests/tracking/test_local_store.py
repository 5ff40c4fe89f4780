"""The local store backed up, restored, moved, upgraded, and held by another process."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import mlflow
import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as FirstTables
from mlflow.tracking import MlflowClient

from idc.cli import main
from idc.core.errors import InputError, StoreUnavailableError
from idc.tracking import connection
from idc.tracking.connection import check_store, shown_uri
from idc.tracking.live import live_run, tell
from idc.tracking.local_store import back_up_store, relocate_store
from idc.tracking.outbox import OUTBOX, Outbox, list_outboxes
from idc.tracking.publishing import publish_result

SOME_EARLIER_SCHEMA = "6f8d9c3b2a1e"

pytestmark = pytest.mark.timeout(900)  # making a store's tables takes minutes on a busy machine


@pytest.fixture(scope="module")
def published(tmp_path_factory, result):
    """A clone's folder with a result in its store."""
    root = tmp_path_factory.mktemp("clone") / "first"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        return root, publish_result(result, root)


@pytest.fixture
def copy_of_it(published, tmp_path):
    root, _ = published
    return shutil.copytree(root, tmp_path / "moved")


def store_of(root):
    return MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")


def addresses(root, run):
    client = store_of(root)
    model = client.get_model_version(run.model_name, run.model_version)
    (logged,) = client.search_logged_models([client.get_run(run.run_id).info.experiment_id])
    return [client.get_run(run.run_id).info.artifact_uri, logged.artifact_location, model.source]


@pytest.mark.slow
def test_relocate_when_a_clone_was_moved_then_files_and_model_are_those_of_the_new_place(
    published, copy_of_it, monkeypatch
):
    before = str(published[0])
    assert all(before in place for place in addresses(copy_of_it, published[1]))
    assert relocate_store(copy_of_it / "mlruns") == [
        (published[0] / "mlruns/artifacts").resolve().as_uri()
    ]
    assert all(str(copy_of_it) in place for place in addresses(copy_of_it, published[1]))
    with closing(sqlite3.connect(copy_of_it / "mlruns/mlflow.db")) as connection:
        assert before not in "\n".join(connection.iterdump())
    uri = f"sqlite:///{copy_of_it}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    name = f"models:/{published[1].model_name}/{published[1].model_version}"
    shutil.move(published[0], published[0].with_name("aside"))  # nothing may come from there
    try:
        assert mlflow.pyfunc.load_model(name) is not None
    finally:
        shutil.move(published[0].with_name("aside"), published[0])
    assert relocate_store(copy_of_it / "mlruns") == []


@pytest.mark.slow
def test_publish_when_a_moved_store_was_relocated_then_it_changes_nothing(
    published, copy_of_it, result
):
    relocate_store(copy_of_it / "mlruns")
    assert publish_result(result, copy_of_it) == published[1]


@pytest.mark.slow
def test_backup_when_a_run_is_being_written_then_it_restores_to_what_was_committed(
    published, copy_of_it, tmp_path
):
    _, run = published
    with closing(sqlite3.connect(copy_of_it / "mlruns/mlflow.db")) as writer:
        writer.execute("UPDATE experiments SET name = 'half a change' WHERE name = 'idc'")
        back_up_store(copy_of_it / "mlruns", tmp_path / "backup")
    shutil.rmtree(copy_of_it)
    shutil.copytree(tmp_path / "backup", copy_of_it / "mlruns")
    relocate_store(copy_of_it / "mlruns")
    client = store_of(copy_of_it)
    assert client.get_experiment_by_name("idc") is not None
    assert client.get_run(run.run_id).data.metrics["test/auroc"] == 0.75
    assert "card.md" in {item.path for item in client.list_artifacts(run.run_id)}


@pytest.mark.slow
def test_commands_when_run_in_a_moved_clone_then_back_its_store_up_and_mend_it(
    published, copy_of_it, monkeypatch, capsys
):
    monkeypatch.chdir(copy_of_it)
    (copy_of_it / "dvc.yaml").touch()
    assert main(["backup", "backup"]) == 0
    assert main(["relocate"]) == 0
    assert str(published[0]) in capsys.readouterr().err
    assert main(["relocate"]) == 0
    assert str(published[0]) not in capsys.readouterr().err
    assert (copy_of_it / "backup/mlflow.db").is_file()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    assert main(["backup", "again"]) == 2
    said = capsys.readouterr().err
    assert "where its server runs" in said
    assert "secret" not in said


def test_backup_when_something_lies_there_then_leaves_it(published, tmp_path):
    with pytest.raises(InputError, match="does not exist yet"):
        back_up_store(published[0] / "mlruns", tmp_path)


def test_backup_and_relocate_when_there_is_no_store_then_say_so(tmp_path):
    for act in (lambda: back_up_store(tmp_path, tmp_path / "b"), lambda: relocate_store(tmp_path)):
        with pytest.raises(InputError, match="there is no store yet"):
            act()


@pytest.mark.slow
def test_upgrade_when_the_store_is_of_an_older_mlflow_then_it_waits_for_the_command_that_mends_it(
    tmp_path, change_params
):
    path = tmp_path / "mlruns/mlflow.db"
    path.parent.mkdir()
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    FirstTables.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(f"sqlite:///{path}")
        config.attributes["connection"] = connection
        command.upgrade(config, SOME_EARLIER_SCHEMA)
        connection.execute(
            sqlalchemy.text("INSERT INTO runs (run_uuid, experiment_id) VALUES ('first', 0)")
        )
    engine.dispose()

    def train():
        with live_run(tmp_path, change_params(), "abc", training="t1", resumed=False):
            pass

    with pytest.raises(InputError, match=r"another version.*`mlflow db upgrade sqlite:///"):
        train()
    with closing(sqlite3.connect(path)) as untouched:
        (schema,) = untouched.execute("SELECT version_num FROM alembic_version").fetchone()
    assert schema == SOME_EARLIER_SCHEMA
    back_up_store(tmp_path / "mlruns", tmp_path / "backup")
    subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"],
        check=True, capture_output=True,
    )  # fmt: skip
    train()


def test_store_when_another_process_holds_it_then_says_try_again(tmp_path, monkeypatch):
    (tmp_path / "mlruns").mkdir()
    monkeypatch.setattr(connection, "_LOCK_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "mlruns/mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="another process holds"):
            check_store(tmp_path)
    check_store(tmp_path)


@pytest.mark.slow
def test_training_when_another_process_holds_the_store_then_the_epoch_waits_and_is_told_next(
    published, copy_of_it, change_params
):
    relocate_store(copy_of_it / "mlruns")
    with live_run(copy_of_it, change_params(), "abc", training="locked", resumed=False) as live:
        with closing(sqlite3.connect(copy_of_it / "mlruns/mlflow.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            live.log_epoch(1, {"train/loss": 0.7})
        assert len(list_outboxes(copy_of_it)) == 1
        live.log_epoch(2, {"train/loss": 0.6})
        assert list_outboxes(copy_of_it) == []
    client = store_of(copy_of_it)
    experiment = client.get_experiment_by_name("idc").experiment_id
    (run,) = client.search_runs([experiment], "tags.training_digest = 'locked'")
    # an answer that was lost on its way makes the same metric be sent twice
    tell(client, Outbox(run.info.run_id, [("train/loss", 0.6, 2)]))
    steps = [item.step for item in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(steps) == [1, 2]


def test_untold_when_its_run_is_gone_from_the_store_then_publish_does_not_wait_for_it(
    published, copy_of_it, result
):
    relocate_store(copy_of_it / "mlruns")
    Outbox("0" * 32, [("train/loss", 0.5, 1)]).keep(copy_of_it)
    assert publish_result(result, copy_of_it) == published[1]
    assert not list((copy_of_it / OUTBOX).iterdir())


def test_shown_uri_when_the_address_holds_a_password_then_hides_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@127.0.0.1:1/x")
    assert "secret" not in shown_uri(tmp_path)
    with pytest.raises(StoreUnavailableError) as caught:
        check_store(tmp_path)
    assert "secret" not in str(caught.value)
