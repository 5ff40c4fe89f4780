import base64
import contextlib
import os
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from idc.core.errors import InputError, StoreUnavailableError
from idc.tracking.connection import (
    check_experiment,
    check_store,
    describe_faults,
    ensure_experiment,
    tracking_uri,
)
from idc.tracking.live import live_run
from idc.tracking.model_version import ALIAS
from idc.tracking.orphans import list_orphans
from idc.tracking.parents import close_parent, open_parent, place_below
from idc.tracking.probe import probe_store
from idc.tracking.publishing import publish_result
from idc.tracking.registry import Registry, list_aliased_digests, list_aliased_without_files


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store with its tables and nothing in them: making them takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


def open_root(folder, empty_store):
    store = folder / "mlruns/mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(empty_store)
    return folder


def snapshot(root, result):
    client = MlflowClient(tracking_uri(root), tracking_uri(root))
    experiment = client.get_experiment_by_name(result.params.publish.experiment)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    versions = client.search_model_versions(f"name = '{result.params.publish.model_name}'")
    steps = {
        run.info.run_id: [
            (metric.step, metric.value)
            for metric in client.get_metric_history(run.info.run_id, "val/epoch_auroc")
        ]
        for run in runs
    }
    files = {
        run.info.run_id: sorted(item.path for item in client.list_artifacts(run.info.run_id))
        for run in runs
    }
    model = client.get_registered_model(result.params.publish.model_name)
    return SimpleNamespace(
        runs={run.info.run_id: run for run in runs},
        versions={str(version.version): version.tags["result_digest"] for version in versions},
        steps=steps,
        files=files,
        challenger=str(model.aliases[ALIAS]),
    )


@pytest.fixture(scope="module")
def story(tmp_path_factory, empty_store, result):
    """A training that lost its second epoch, published twice, then evaluated another way."""
    root = open_root(tmp_path_factory.mktemp("root"), empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        with live_run(root, result.params, "abc", training="t1", resumed=False) as live:
            live.log_class_weights(np.array([1.0, 1.0]))
            live.log_epoch(1, {"train/loss": 0.7, "val/epoch_auroc": 0.6})
            live.name_model(result.model_digest, {"torch": "2"})
        first = publish_result(result, root)
        after_first = snapshot(root, result)
        again = publish_result(result, root)
        after_again = snapshot(root, result)
        other = replace(result, digest="r2", figures={"test/auroc": 0.7})
        second = publish_result(other, root)
        after_second = snapshot(root, result)
    return SimpleNamespace(
        first=first, again=again, second=second,
        after_first=after_first, after_again=after_again, after_second=after_second,
    )  # fmt: skip


def test_publish_result_when_a_live_run_trained_it_then_joins_that_run(story):
    assert list(story.after_first.runs) == [story.first.run_id]


def test_publish_result_when_an_epoch_was_lost_then_adds_it_without_repeating(story):
    assert story.after_first.steps[story.first.run_id] == [(1, 0.6), (2, 0.8)]


def test_publish_result_when_done_then_the_run_has_parameters_metrics_and_tags(story, result):
    data = story.after_first.runs[story.first.run_id].data
    assert data.params["evaluate.num_replicates"] == "100"
    assert data.params["train.epochs"] == str(result.params.train.epochs)
    assert data.metrics["test/auroc"] == 0.75
    assert data.metrics["class_weights/0"] == 1.0
    assert (data.tags["result_digest"], data.tags["git_commit"]) == ("r1", "abc")


def test_publish_result_when_done_then_the_run_names_its_data(story):
    inputs = story.after_first.runs[story.first.run_id].inputs.dataset_inputs
    assert {item.dataset.digest for item in inputs} == {"raw1", "manifest1"}


def test_publish_result_when_done_then_the_run_is_finished(story):
    assert story.after_first.runs[story.first.run_id].info.status == "FINISHED"


def test_publish_result_when_done_then_the_challenger_is_its_version(story):
    assert story.after_first.challenger == story.first.model_version


def test_publish_result_when_called_again_then_returns_the_same(story):
    assert story.again == story.first


def test_publish_result_when_called_again_then_changes_nothing(story):
    before, after = story.after_first, story.after_again
    assert after.versions == before.versions
    assert after.steps == before.steps
    assert after.files == before.files
    assert after.challenger == before.challenger
    for run_id, run in before.runs.items():
        assert after.runs[run_id].to_dictionary() == run.to_dictionary()


def test_publish_result_when_evaluated_another_way_then_gets_a_run_tagged_trained_by(story):
    run = story.after_second.runs[story.second.run_id]
    assert story.second.run_id != story.first.run_id
    assert run.data.tags["trained_by"] == story.first.run_id


def test_publish_result_when_evaluated_another_way_then_leaves_the_first_figures(story):
    assert story.after_second.runs[story.first.run_id].data.metrics["test/auroc"] == 0.75


def test_publish_result_when_evaluated_another_way_then_the_challenger_follows(story):
    assert story.after_second.versions == {"1": "r1", "2": "r2"}
    assert story.after_second.challenger == "2"


def named(result, name, **changes):
    """The result of a sweep's point, which is called so."""
    content = result.params.model_dump()
    content["publish"] |= {"run_name": name, "experiment": "sweep", "move_challenger": False}
    return replace(result, params=type(result.params).model_validate(content), **changes)


def runs_by_name(root):
    client = MlflowClient(tracking_uri(root), tracking_uri(root))
    experiment = client.get_experiment_by_name("sweep").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_publish_result_when_two_points_of_a_sweep_are_equal_then_each_has_its_run_and_one_model(
    tmp_path, empty_store, result
):
    root = open_root(tmp_path, empty_store)
    points = [named(result, name) for name in ("num_workers=1", "num_workers=2")]
    first, second = (publish_result(point, root) for point in points)
    assert [publish_result(point, root) for point in points] == [first, second]
    assert first.model_version == second.model_version
    runs = runs_by_name(root)
    assert {name: run.info.run_id for name, run in runs.items()} == {
        "num_workers=1": first.run_id, "num_workers=2": second.run_id,
    }  # fmt: skip
    assert [run.data.metrics["test/auroc"] for run in runs.values()] == [0.75, 0.75]
    assert runs["num_workers=2"].data.tags["trained_by"] == first.run_id


def test_publish_result_when_a_point_ends_before_the_one_that_trained_then_each_keeps_its_name(
    tmp_path, empty_store, result
):
    root = open_root(tmp_path, empty_store)
    trained = named(result, "rule=f1")
    with live_run(root, trained.params, "abc", training="t1", resumed=False) as live:
        live.name_model(result.model_digest, {"torch": "2"})
    other = publish_result(named(result, "rule=youden", digest="r2"), root)
    (training,) = (run for name, run in runs_by_name(root).items() if name == "rule=f1")
    assert publish_result(trained, root).run_id == training.info.run_id
    runs = runs_by_name(root)
    assert {name: run.data.tags["result_digest"] for name, run in runs.items()} == {
        "rule=f1": "r1", "rule=youden": "r2",
    }  # fmt: skip
    assert runs["rule=youden"].info.run_id == other.run_id


def test_publish_result_when_the_store_was_wiped_then_rebuilds_it(tmp_path, empty_store, result):
    root = open_root(tmp_path, empty_store)
    published = publish_result(result, root)
    state = snapshot(root, result)
    assert state.steps == {published.run_id: [(1, 0.6), (2, 0.8)]}
    assert state.runs[published.run_id].data.metrics["test/auroc"] == 0.75
    assert state.versions == {published.model_version: "r1"}
    assert "card.md" in state.files[published.run_id]


@contextlib.contextmanager
def rival_adds_first(root, *tables):
    """Another process that writes the very rows of these tables which are about to be written."""
    engine = create_engine(tracking_uri(root))
    met = []

    def write_first(session, *_):
        for row in session.new:
            table = row.__table__
            if table.name in tables and table.name not in met:
                met.append(table.name)
                values = {column.name: getattr(row, column.name) for column in table.columns}
                known = {name: value for name, value in values.items() if value is not None}
                with engine.begin() as connection:
                    connection.execute(table.insert().values(known))

    event.listen(Session, "before_flush", write_first)
    try:
        yield met
    finally:
        event.remove(Session, "before_flush", write_first)
        engine.dispose()


def test_publish_result_when_another_is_published_at_once_then_both_are_whole(
    tmp_path, empty_store, result
):
    root = open_root(tmp_path, empty_store)
    tables = ("experiments", "datasets", "registered_model_aliases")
    with rival_adds_first(root, *tables) as met:
        published = publish_result(result, root)
    assert met == list(tables)
    state = snapshot(root, result)
    assert list(state.runs) == [published.run_id]
    assert state.versions == {published.model_version: "r1"}
    assert state.challenger == published.model_version
    inputs = state.runs[published.run_id].inputs.dataset_inputs
    assert {item.dataset.digest for item in inputs} == {"raw1", "manifest1"}


def test_live_run_when_an_error_passes_then_the_run_is_failed(tmp_path, empty_store, change_params):
    open_root(tmp_path, empty_store)
    with (
        pytest.raises(KeyError),
        live_run(tmp_path, change_params(), "abc", training="t1", resumed=False),
    ):
        raise KeyError
    client = MlflowClient(tracking_uri(tmp_path))
    experiment = client.get_experiment_by_name("idc")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


@pytest.fixture
def interrupted(tmp_path, empty_store, change_params):
    """A store in which a training told its first epoch, then ended."""
    open_root(tmp_path, empty_store)
    params = change_params()
    with (
        contextlib.suppress(KeyError),
        live_run(tmp_path, params, "abc", training="t1", resumed=False) as live,
    ):
        live.log_class_weights([1.0, 1.0])
        live.log_epoch(1, {"train/loss": 0.7})
        raise KeyError

    def resume(**changes):
        options = {"training": "t1", "resumed": True, **changes}
        with live_run(tmp_path, params, "abc", **options) as live:
            live.log_class_weights([1.0, 1.0])
            for epoch in (1, 2):
                live.log_epoch(epoch, {"train/loss": 0.7 - 0.1 * epoch})
        client = MlflowClient(tracking_uri(tmp_path))
        (experiment,) = (e for e in client.search_experiments() if e.name == "idc")
        runs = client.search_runs([experiment.experiment_id])
        history = {
            run.info.run_id: [m.step for m in client.get_metric_history(run.info.run_id, key)]
            for run in runs
            for key in ("train/loss",)
        }
        return runs, list(history.values())

    return resume


def test_live_run_when_a_training_is_resumed_then_its_run_goes_on_without_repeating(interrupted):
    runs, steps = interrupted()
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert steps == [[1, 2]]


def test_live_run_when_a_lost_training_begins_anew_then_its_run_goes_on(interrupted):
    runs, steps = interrupted(resumed=False)
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert steps == [[1, 2]]


def test_live_run_when_another_training_starts_then_gets_a_run_of_its_own(interrupted):
    runs, steps = interrupted(training="t2")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    assert sorted(steps) == [[1], [1, 2]]


@pytest.fixture(scope="module")
def linked(tmp_path_factory, result):
    """A result whose files are links out of its folder, as DVC's are to a cache on another disk."""
    disk, here = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("here")
    (disk / "plots").mkdir()
    for name in ("roc.csv", "pr.csv"):
        (disk / "plots" / name).write_text(name)
    shutil.copytree(result.bundle, disk / "fusion")
    shutil.copy2(result.operating_point, disk / "point.json")
    shutil.copytree(disk, here, copy_function=os.symlink, dirs_exist_ok=True)
    artifacts = result.artifacts | {"plots": here / "plots"}
    return replace(
        result, artifacts=artifacts, bundle=here / "fusion", operating_point=here / "point.json"
    )


def stored_files(root):
    store = root / "mlruns/artifacts"
    return {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_publish_result_when_files_were_removed_by_hand_then_restores_them_and_says_so(
    tmp_path, empty_store, linked, caplog
):
    root = open_root(tmp_path, empty_store)
    published = publish_result(linked, root)
    assert "put back" not in caplog.text
    before = {name: path.read_bytes() for name, path in stored_files(root).items()}
    assert not any(path.is_symlink() for path in stored_files(root).values())
    removed = ("plots/roc.csv", "fusion/model.safetensors", "code/idc/serving/pyfunc_model.py")
    for name, path in stored_files(root).items():
        if name.endswith(removed):
            path.unlink()
    assert publish_result(linked, root) == published
    assert f"MLflow run {published.run_id} lacked files, which were put back: 1" in caplog.text
    assert "idc-fusion version 1 lacked files, which were put back: 2" in caplog.text
    after = {name: path.read_bytes() for name, path in stored_files(root).items()}
    written_anew = {"MLmodel", "SHA256SUMS"}  # with the time of now
    assert {Path(name).name for name in before if after[name] != before[name]} <= written_anew
    assert after.keys() == before.keys()
    registry = Registry(root, linked.params)
    with registry.files(registry.load(published.model_version)) as (bundle, _):
        assert bundle.is_dir()
    assert list_aliased_without_files(root) == []

    caplog.clear()
    publish_result(linked, root)
    assert "put back" not in caplog.text
    shutil.rmtree(root / "mlruns/artifacts")
    assert list_aliased_without_files(root) == ["idc-fusion version 1 (challenger)"]
    assert publish_result(linked, root) == published
    assert stored_files(root).keys() == before.keys()


class KilledError(BaseException):
    """Stands for a death between two calls of the store."""


@pytest.mark.slow
def test_publish_result_when_killed_with_half_a_file_uploaded_then_the_next_call_writes_all_of_it(
    tmp_path, empty_store, result, monkeypatch
):
    root = open_root(tmp_path, empty_store)

    def upload_half(client, run_id, path, *_):
        half = tmp_path / Path(path).name
        half.write_bytes(Path(path).read_bytes()[:2])
        upload(client, run_id, str(half))
        raise KilledError

    upload = MlflowClient.log_artifact
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", upload_half)
        with pytest.raises(KilledError):
            publish_result(result, root)
    (half,) = (path for name, path in stored_files(root).items() if name.endswith("card.md"))
    assert half.read_text() == "ca"
    publish_result(result, root)
    assert half.read_text() == "card"


@pytest.mark.slow
@pytest.mark.parametrize("step", ["log_model_artifacts", "finalize_logged_model"])
def test_publish_result_when_killed_while_the_model_is_stored_then_the_next_call_goes_on_with_it(
    tmp_path, empty_store, result, monkeypatch, step
):
    root = open_root(tmp_path, empty_store)

    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, die)
        with pytest.raises(KilledError):
            publish_result(result, root)
    published = publish_result(result, root)
    client = MlflowClient(tracking_uri(root), tracking_uri(root))
    run = client.get_run(published.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.status == "READY"
    assert [item.model_id for item in run.outputs.model_outputs] == [model.model_id]
    (version,) = client.search_model_versions(f"name = '{published.model_name}'")
    assert version.source == model.artifact_location


@pytest.mark.slow
def test_publish_result_when_killed_while_files_are_put_back_then_the_next_call_puts_back_the_rest(
    tmp_path, empty_store, result, monkeypatch
):
    root = open_root(tmp_path, empty_store)
    published = publish_result(result, root)
    (removed,) = (path for name, path in stored_files(root).items() if name.endswith("point.json"))
    removed.unlink()

    def upload_one(client, model_id, folder):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.name != "point.json":
                path.unlink()
        upload(client, model_id, folder)
        raise KilledError

    upload = MlflowClient.log_model_artifacts
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", upload_one)
        with pytest.raises(KilledError):
            publish_result(result, root)
    assert removed.is_file()
    registry = Registry(root, result.params)
    with pytest.raises(InputError, match="is not what was registered"):
        registry.files(registry.load(published.model_version)).__enter__()
    publish_result(result, root)
    with registry.files(registry.load(published.model_version)) as (bundle, _):
        assert bundle.is_dir()


@pytest.mark.slow
def test_publish_result_when_published_under_a_second_name_then_both_versions_are_whole(
    tmp_path, empty_store, result
):
    root = open_root(tmp_path, empty_store)
    publish = result.params.publish.model_copy(update={"model_name": "other"})
    other = replace(result, params=result.params.model_copy(update={"publish": publish}))
    for each in (result, other, result, other):
        publish_result(each, root)
    for each in (result, other):
        registry = Registry(root, each.params)
        with registry.files(registry.load("1")) as (bundle, _):
            assert bundle.is_dir()


def num_runs_of(root):
    client = MlflowClient(tracking_uri(root))
    experiment = client.get_experiment_by_name("idc")
    return len(client.search_runs([experiment.experiment_id]))


def test_live_run_when_the_same_training_is_at_work_elsewhere_then_gets_a_run_of_its_own(
    tmp_path, empty_store, change_params
):
    root = open_root(tmp_path, empty_store)
    options = {"training": "t1", "resumed": False}
    with (
        live_run(root, change_params(), "abc", **options),
        live_run(root, change_params(), "abc", **options),
    ):
        assert num_runs_of(root) == 2


@pytest.mark.slow
def test_live_run_when_its_training_was_published_then_repeating_it_is_a_run_of_its_own(
    tmp_path, empty_store, result
):
    root = open_root(tmp_path, empty_store)
    for _ in range(2):
        with live_run(root, result.params, "abc", training="t1", resumed=False) as live:
            live.name_model(result.model_digest, {})
        publish_result(result, root)
    assert num_runs_of(root) == 2


def test_live_run_when_a_pipeline_elsewhere_has_not_published_yet_then_gets_a_run_of_its_own(
    tmp_path, empty_store, change_params, monkeypatch
):
    root = open_root(tmp_path, empty_store)
    options = {"training": "t1", "resumed": False}
    with live_run(root, change_params(), "abc", **options) as live:
        live.name_model("m1", {})
    with live_run(root, change_params(), "abc", **options):
        assert num_runs_of(root) == 2


def test_tracking_uri_when_the_environment_names_a_store_then_uses_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    assert tracking_uri(tmp_path) == "http://localhost:1"


def test_check_store_when_no_server_answers_then_says_try_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        check_store(tmp_path)


def test_check_store_when_the_store_is_no_database_then_says_so(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").write_bytes(b"not a database, only bytes" * 40)
    with pytest.raises(InputError, match="cannot be written"):
        check_store(tmp_path)


def test_experiment_when_it_was_deleted_then_says_how_to_restore_it(tmp_path, empty_store):
    root = open_root(tmp_path / "a", empty_store)
    client = MlflowClient(tracking_uri(root), tracking_uri(root))
    check_experiment(root, "idc")
    number = ensure_experiment(client, "idc", root)
    check_experiment(root, "idc")
    client.delete_experiment(number)
    says = f"idc was deleted in MLflow: restore it .*restore --experiment-id {number}"
    with pytest.raises(InputError, match=says):
        check_experiment(root, "idc")
    with pytest.raises(InputError, match=says):
        ensure_experiment(client, "idc", root)
    client.restore_experiment(number)
    assert ensure_experiment(client, "idc", root) == number


def test_check_store_when_there_is_none_then_it_passes_and_creates_nothing(tmp_path):
    check_store(tmp_path)
    assert describe_faults(tmp_path) == []
    assert list_orphans(tmp_path) == []
    assert list_aliased_digests(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []


def test_check_store_when_the_database_is_empty_then_it_stays_empty(tmp_path):
    database = tmp_path / "mlruns/mlflow.db"
    database.parent.mkdir()
    database.touch()
    check_store(tmp_path)
    assert list_orphans(tmp_path) == []
    assert list_aliased_digests(tmp_path) == set()
    assert list(database.parent.iterdir()) == [database]
    assert database.stat().st_size == 0


@pytest.mark.parametrize("exists", [False, True])
def test_check_store_when_the_folder_cannot_be_written_then_says_so(tmp_path, monkeypatch, exists):
    (tmp_path / "mlruns").mkdir()
    if exists:
        (tmp_path / "mlruns/mlflow.db").touch()

    def access(path, mode):  # a real read-only folder does not stop root
        return not (Path(path) == tmp_path / "mlruns" and mode & os.W_OK)

    monkeypatch.setattr("os.access", access)
    with pytest.raises(InputError, match=r"mlflow\.db cannot be written \(no permission"):
        check_store(tmp_path)


def test_parent_when_opened_again_then_it_is_the_same_run_and_children_name_it(
    tmp_path, empty_store
):
    root = open_root(tmp_path, empty_store)
    client = MlflowClient(tracking_uri(root), tracking_uri(root))
    parent = open_parent(root, "idc sweep rates", "sweep rates")
    assert client.get_run(parent.run_id).info.status == "RUNNING"
    close_parent(root, parent, failed=True)
    assert client.get_run(parent.run_id).info.status == "FAILED"

    assert open_parent(root, "idc sweep rates", "sweep rates") == parent
    assert client.get_run(parent.run_id).info.status == "RUNNING"
    assert open_parent(root, "idc sweep rates", "sweep others") != parent
    assert list_orphans(root) == []  # this process is alive, and the tags say that it is theirs

    experiment = client.get_experiment_by_name("idc sweep rates").experiment_id
    child = client.create_run(experiment).info.run_id
    place_below(root, parent, child)
    tags = client.get_run(child).data.tags
    assert (tags["mlflow.parentRunId"], tags["sweep"]) == (parent.run_id, "sweep rates")
    close_parent(root, parent, failed=False)
    assert client.get_run(parent.run_id).info.status == "FINISHED"


@pytest.fixture
def tracking_server(monkeypatch):
    """A server whose API answers the code that the test sets."""
    codes, seen = [200], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/mlflow/api/2.0/mlflow/experiments/search"):
                seen.append(self.headers.get("Authorization"))
                self.send_response(codes[-1])
            else:
                self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/mlflow/")
        yield SimpleNamespace(codes=codes, seen=seen, port=server.server_port)
        server.shutdown()


def test_check_store_when_the_server_answers_then_it_passes(tmp_path, tracking_server):
    check_store(tmp_path)
    assert tracking_server.seen == [None]


@pytest.mark.parametrize("code", [401, 403])
def test_check_store_when_the_server_wants_credentials_then_says_how_to_give_them(
    tmp_path, tracking_server, code
):
    tracking_server.codes.append(code)
    with pytest.raises(InputError, match=rf"rejects.*\({code}\).*MLFLOW_TRACKING_PASSWORD"):
        check_store(tmp_path)


def test_check_store_when_credentials_are_in_the_address_then_they_are_sent_and_never_shown(
    tmp_path, tracking_server, monkeypatch
):
    address = f"http://me:planted-secret@127.0.0.1:{tracking_server.port}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    check_store(tmp_path)
    encoded = base64.b64encode(b"me:planted-secret").decode()
    assert tracking_server.seen == [f"Basic {encoded}"]
    tracking_server.codes.append(503)
    with pytest.raises(StoreUnavailableError) as raised:
        check_store(tmp_path)
    assert "planted-secret" not in str(raised.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:planted-secret@127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match="does not answer") as raised:
        check_store(tmp_path)
    assert "planted-secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreUnavailableError("is busy"), StoreUnavailableError),
        (MlflowException("API request to {address}/api failed: planted-secret"), InputError),
        (OSError(""), InputError),
    ],
)
def test_probe_when_the_server_fails_then_says_whether_to_try_again_and_repeats_no_password(
    tmp_path, tracking_server, monkeypatch, error, kind
):
    address = f"http://me:planted-secret@127.0.0.1:{tracking_server.port}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def fail(*_):
        raise type(error)(str(error).format(address=address))

    monkeypatch.setattr("idc.tracking.probe.ensure_experiment", fail)
    with pytest.raises(kind) as refused:
        probe_store(tmp_path, "idc", "idc-fusion")
    assert "planted-secret" not in str(refused.value)


def test_check_store_when_another_server_is_there_then_says_so(
    tmp_path, tracking_server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{tracking_server.port}/other")
    with pytest.raises(InputError, match="answers 404 to MLflow's API"):
        check_store(tmp_path)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("localhost:5000", "localhost:5000 has no http.*: write http://localhost:5000"),
        ("127.0.0.1:5000/mlflow", "has no http"),
        ("htps://me:planted-secret@host", "htps:// is none of http://, https://.*correct the"),
        ("file:./mlruns", "is a folder"),
        ("./mlruns", "is a folder"),
        ("//me:planted-secret@host", r"^MLFLOW_TRACKING_URI: //\*\*\*@host is a folder"),
        ("http//me:planted-secret@host", r"http//\*\*\*@host is a folder"),
        ("file:me:planted-secret@host", r"\*\*\*@host is a folder"),
        ("/srv/mlruns", "is a folder.*name a database, as sqlite:////"),
        ("file:/home/me@lab/mlruns", "file:/home/me@lab/mlruns is a folder"),
        ("me:planted-secret@host", r"\*\*\*@host has no http.*: write http://\*\*\*@host"),
        ("me:planted/se@cret@host:5000/a", r"\*\*\*@host:5000/a has no http"),
        ("sqlite:///:memory:", "is a database in memory.*name a file, as sqlite:////"),
        ("sqlite://", "is a database in memory"),
    ],
)
def test_check_store_when_the_address_is_none_that_can_be_used_then_says_which_can(
    tmp_path, monkeypatch, uri, says
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=says) as raised:
        check_store(tmp_path)
    assert "planted" not in str(raised.value)


def test_tracking_uri_when_the_path_is_relative_then_it_is_below_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////srv/mlflow.db")
    assert tracking_uri(tmp_path) == "sqlite:////srv/mlflow.db"


def test_check_store_when_the_server_fails_then_says_try_again(tmp_path, tracking_server):
    tracking_server.codes.append(503)
    with pytest.raises(StoreUnavailableError, match="answers 503"):
        check_store(tmp_path)


def test_check_store_when_the_databases_driver_is_missing_then_names_the_package(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@127.0.0.1/x")
    monkeypatch.setattr("sqlalchemy.create_engine", fail_to_import)
    with pytest.raises(InputError, match="needs the package psycopg2") as caught:
        check_store(tmp_path)
    assert "secret" not in str(caught.value)


def fail_to_import(*_, **__):
    raise ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")
