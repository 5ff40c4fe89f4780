"""Upkeep by hand: real tags, workspaces and stores, and services that do not answer."""

import json
import re
import sqlite3
from contextlib import closing, nullcontext
from types import SimpleNamespace

import pytest
from filelock import FileLock

from idc.cli import EXIT_FAILED, EXIT_INPUT, main
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.core.git import git
from idc.core.layout import CHECKPOINTS, WORKSPACE_RECORD
from idc.ops import prefect_api, services
from idc.runs import retention
from idc.runs.workspace import WORKSPACES
from idc.tracking import orphans
from tests.runs.finished_run import finish_run


@pytest.fixture
def repository(project):
    (project / ".gitignore").write_text(".workspaces\n")
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "first")
    return project


def test_gc_when_runs_are_old_then_lists_them_and_removes_them_with_yes_alone(repository, capsys):
    tag = finish_run(repository, "one")
    all_of_them = ("--days", "-1", "--last", "0")
    assert main(["gc"]) == 0  # a run of today stays by the rules that hold by themselves
    said = "frees the cache (first with --dry; or `idc gc --cache`): "
    command = "dvc gc --workspace --all-branches --all-tags --all-experiments"
    kept = f"{said}{command} --projects .workspaces/one"
    assert capsys.readouterr().out.splitlines() == [kept]

    assert main(["gc", *all_of_them]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = re.fullmatch(r"would remove .workspaces/one \(20\S+, (\S+ MB)\)", lines[0])[1]
    assert lines[1:] == [
        f"would remove {tag}",
        f"nothing was removed: add --yes, which frees {size}",
        said + command,
    ]
    assert (repository / WORKSPACES / "one").is_dir()
    assert git(repository, "tag", "--list") == tag

    assert main(["gc", *all_of_them, "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["removed .workspaces/one", f"removed {tag}"]
    assert not (repository / WORKSPACES / "one").exists()
    assert git(repository, "tag", "--list") == ""
    assert not (repository / "mlruns").exists()


def test_gc_when_runs_stand_open_then_they_are_named_and_closed_with_yes_alone(
    project, monkeypatch, capsys
):
    closed = []
    monkeypatch.setattr(orphans, "list_orphans", lambda _: ["r1"])
    monkeypatch.setattr(orphans, "close_runs", lambda _, run_ids: closed.extend(run_ids))
    assert main(["gc"]) == 0
    assert "would close MLflow run r1: its process died" in capsys.readouterr().out
    assert closed == []
    assert main(["gc", "--yes"]) == 0
    assert "\nclosed MLflow run r1: its process died" in f"\n{capsys.readouterr().out}"
    assert closed == ["r1"]


def test_gc_when_json_and_yes_then_standard_output_is_the_object_alone(
    project, monkeypatch, capsys
):
    workspace = SimpleNamespace(folder=project / ".workspaces/old")
    garbage = retention.Garbage((workspace,), ())
    monkeypatch.setattr(retention, "find_garbage", lambda *_: garbage)
    monkeypatch.setattr(retention, "remove_workspace", lambda *_: None)
    assert main(["gc", "--json", "--yes"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("{")
    assert printed.out.endswith("}\n")
    assert "removed .workspaces/old" in printed.err


def test_gc_when_json_and_the_removal_fails_then_it_does_not_say_that_things_were_removed(
    project, monkeypatch, capsys
):
    def fail(*_, **__):
        raise InputError("git gc failed")

    monkeypatch.setattr(retention, "remove_garbage", fail)
    assert main(["gc", "--json", "--yes"]) == EXIT_INPUT
    assert json.loads(capsys.readouterr().out).keys() == {"error"}


@pytest.mark.parametrize("what", ["a workspace in use", "a training in it", "a training here"])
def test_gc_when_a_run_is_at_work_then_the_cache_is_refused_and_nothing_goes(
    repository, capsys, what
):
    finish_run(repository, "old")
    finish_run(repository, "run")
    folder = repository / WORKSPACES / "run"
    if what == "a workspace in use":
        used = load_json(folder / WORKSPACE_RECORD)
        used["opened_by"]["host"] = "elsewhere"
        save_json(folder / WORKSPACE_RECORD, used)
    if what == "a training here":
        folder = repository
    (folder / CHECKPOINTS).mkdir(parents=True)
    lock = FileLock(folder / CHECKPOINTS / "train.lock")
    with nullcontext() if what == "a workspace in use" else lock:
        assert main(["gc", "--days", "-1", "--last", "0", "--cache", "--yes"]) == EXIT_INPUT
        assert f"--cache: a run is at work in {folder}" in capsys.readouterr().err
        assert (repository / WORKSPACES / "old").is_dir()
        with pytest.raises(InputError, match="is at work"):
            retention.remove_unused_cache(repository, ["dvc", "gc", "--workspace"])


@pytest.mark.parametrize(
    ("command", "action"), [("up", "start_services"), ("down", "stop_services")]
)
def test_services_when_the_server_rejects_then_says_which_and_fails(
    project, monkeypatch, capsys, command, action
):
    def fail(root):
        raise ConnectionRefusedError("refused")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4321/api")
    monkeypatch.setattr(services, action, fail)
    assert main([command]) == EXIT_FAILED
    assert capsys.readouterr().err.splitlines() == [
        "http://127.0.0.1:4321/api does not answer (refused): run again"
    ]


def test_up_when_all_runs_then_says_how_prefect_finds_the_server(project, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(services, "start_services", started.append)
    assert main(["up"]) == 0
    assert started == [project]
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"for `prefect` here: export PREFECT_API_URL={prefect_api.api_url()}"
    )


def test_down_when_nothing_was_started_then_there_is_nothing_to_do(project, capsys):
    assert main(["down"]) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def moved_store(project):
    """A store, without MLflow's own tables, that says its files are where it stood before."""
    place = "file:///old/clone/mlruns/artifacts"
    (project / "mlruns/artifacts/1").mkdir(parents=True)
    (project / "mlruns/artifacts/1/model").write_text("weights")
    with closing(sqlite3.connect(project / "mlruns/mlflow.db")) as store, store:
        for table, columns in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "source, storage_location"),
        ):
            store.execute(f"CREATE TABLE {table} ({columns})")
        store.execute("INSERT INTO experiments VALUES (?)", (place,))
        store.execute("INSERT INTO runs VALUES (?)", (f"{place}/1",))
    return project


def addresses(store):
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        return [
            connection.execute(query).fetchall()[0][0]
            for query in ("SELECT * FROM experiments", "SELECT * FROM runs")
        ]


def test_relocate_when_the_clone_was_moved_then_its_files_are_found_and_once_is_enough(
    moved_store, capsys
):
    assert main(["relocate"]) == 0
    own = (moved_store / "mlruns/artifacts").as_uri()
    assert addresses(moved_store / "mlruns") == [own, f"{own}/1"]
    assert "no longer in file:///old/clone/mlruns/artifacts" in capsys.readouterr().err
    assert main(["relocate"]) == 0
    assert "nothing to fix" in capsys.readouterr().err


def test_backup_when_done_then_the_folder_holds_database_and_files(moved_store, capsys):
    assert main(["backup", "copy"]) == 0
    assert addresses(moved_store / "copy") == addresses(moved_store / "mlruns")
    assert (moved_store / "copy/artifacts/1/model").read_text() == "weights"
    assert capsys.readouterr().err.splitlines()[-1] == "copy holds the store"
    assert main(["backup", "copy"]) == EXIT_INPUT
    assert "copy exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["backup", "copy"], ["relocate"]])
def test_store_when_a_server_keeps_it_then_says_where_to_do_so_and_shows_no_password(
    project, monkeypatch, capsys, command
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    assert main(command) == EXIT_INPUT
    said = capsys.readouterr().err
    assert "back it up where its server runs" in said
    assert "secret" not in said
    assert {path.name for path in project.iterdir()} == {"params.yaml", "dvc.yaml"}
