"""What somebody deleted in MLflow, in a real store, removed by MLflow's own command."""

import sqlite3
import time
from contextlib import closing

import pytest
from mlflow.entities import ViewType

from idc.core.errors import InputError
from idc.tracking.connection import connect, ensure_experiment
from idc.tracking.deleted import list_deleted, remove_deleted

DAY_MS = 86_400_000

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    """A store with three runs that hold a file, two of them deleted: 40 days ago, and today."""
    client = connect(tmp_path)
    experiment = ensure_experiment(client, "idc", tmp_path)
    runs = [client.create_run(experiment, run_name=name).info for name in ("old", "new", "kept")]
    for run in runs:
        client.log_text(run.run_id, "x" * 100_000, "weights")
    for run in runs[:2]:
        client.delete_run(run.run_id)
    age(tmp_path, runs[0].run_id)
    return tmp_path, client, [run.run_id for run in runs]


def age(root, run_id):
    long_ago = time.time() * 1000 - 40 * DAY_MS
    with closing(sqlite3.connect(root / "mlruns/mlflow.db")) as database, database:
        database.execute("UPDATE runs SET deleted_time = ? WHERE run_uuid = ?", (long_ago, run_id))


def test_deleted_when_older_than_the_limit_then_goes_for_good_with_its_files_and_no_other(store):
    root, client, (old, new, kept) = store
    found = list_deleted(root, 30)
    assert [(item.kind, item.name) for item in found] == [("run", old)]
    assert (found[0].files / "weights").stat().st_size == 100_000
    assert {item.name for item in list_deleted(root, 0)} == {old, new}
    remove_deleted(root, found, 30)
    experiments = [item.experiment_id for item in client.search_experiments()]
    left = client.search_runs(experiments, run_view_type=ViewType.ALL)
    assert {run.info.run_id for run in left} == {new, kept}
    assert not found[0].files.exists()
    assert list_deleted(root, 30) == []
    remove_deleted(root, [], 30)


def test_deleted_when_an_alias_or_the_promotion_log_needs_it_then_nothing_goes(store):
    root, client, (old, new, _) = store
    client.create_registered_model("fusion")
    files = str(list_deleted(root, 30)[0].files)
    client.create_model_version("fusion", files, old)
    assert [item.name for item in list_deleted(root, 30)] == [old]  # without an alias
    client.set_registered_model_alias("fusion", "champion", "1")
    with pytest.raises(InputError, match=f"{old} was deleted in MLflow.*mlflow runs restore"):
        list_deleted(root, 30)
    client.restore_run(old)
    client.restore_run(new)
    client.set_tag(new, "kind", "promote")
    client.set_tag(new, "models", "a:b")
    client.delete_run(new)
    with pytest.raises(InputError, match=f"{new} was deleted in MLflow"):
        list_deleted(root, 0)


def test_deleted_when_a_model_of_mlflow_is_then_it_is_listed_unless_a_version_with_alias_is_it(
    store, monkeypatch
):
    root, client, (_, _, kept) = store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("idc").experiment_id
    model = client.create_logged_model(experiment, "fusion", source_run_id=kept)
    client.create_registered_model("fusion")
    client.create_model_version("fusion", model.model_uri, kept, model_id=model.model_id)
    client.delete_logged_model(model.model_id)
    assert ("model", model.model_id) in [(item.kind, item.name) for item in list_deleted(root, 0)]
    client.set_registered_model_alias("fusion", "champion", "1")
    with pytest.raises(InputError, match=f"{model.model_id} was deleted in MLflow"):
        list_deleted(root, 0)


def test_deleted_when_an_experiment_is_then_it_is_listed_unless_it_holds_what_is_not_deleted(store):
    root, client, (old, new, kept) = store
    experiment = client.get_experiment_by_name("idc").experiment_id
    assert "experiment" not in {item.kind for item in list_deleted(root, 0)}
    client.delete_experiment(experiment)
    found = {(item.kind, item.name): item.files for item in list_deleted(root, 0)}
    assert found[("experiment", experiment)] is None  # its folder is that of all experiments
    assert found.keys() == {("experiment", experiment), *(("run", run) for run in (old, new, kept))}
    assert ("experiment", experiment) not in {(i.kind, i.name) for i in list_deleted(root, 30)}

    client.restore_run(kept)  # of the experiment still deleted, with which MLflow would remove it
    said = f"{experiment} was deleted in MLflow.*mlflow experiments restore"
    with pytest.raises(InputError, match=said):
        list_deleted(root, 0)


def test_deleted_when_an_empty_experiment_alone_is_then_it_goes_for_good(store):
    root, client, (old, *_) = store
    client.restore_run(old)
    other = client.create_experiment("empty")
    client.delete_experiment(other)
    long_ago = time.time() * 1000 - 40 * DAY_MS
    with closing(sqlite3.connect(root / "mlruns/mlflow.db")) as database, database:
        database.execute(
            "UPDATE experiments SET last_update_time = ? WHERE name = 'empty'", (long_ago,)
        )
    found = list_deleted(root, 30)
    assert [(item.kind, item.name) for item in found] == [("experiment", other)]
    remove_deleted(root, found, 30)
    names = {item.name for item in client.search_experiments(ViewType.ALL)}
    assert "idc" in names
    assert "empty" not in names


def test_deleted_when_there_is_no_store_then_none_is_made(tmp_path):
    assert list_deleted(tmp_path, 0) == []
    assert not (tmp_path / "mlruns").exists()
