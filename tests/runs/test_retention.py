from datetime import UTC, datetime, timedelta

from idc.core.files import load_json, save_json
from idc.core.git import git
from idc.core.layout import WORKSPACE_RECORD
from idc.runs.retention import Retention, cache_command, find_garbage, remove_garbage
from idc.runs.workspace import WORKSPACES, list_workspaces
from tests.runs.finished_run import finish_run


def test_garbage_when_runs_are_old_then_last_aliased_and_used_ones_stay(project):
    old = datetime.now(UTC) - timedelta(days=40)
    tags = [finish_run(project, f"run-{k}", opened=old + timedelta(hours=k)) for k in range(4)]
    aliased = [tags[0].removeprefix("idc-run/") + "0" * 52]
    used = load_json(project / WORKSPACES / "run-1" / WORKSPACE_RECORD)
    used["opened_by"]["host"] = "elsewhere"
    save_json(project / WORKSPACES / "run-1" / WORKSPACE_RECORD, used)

    garbage = find_garbage(project, Retention(days=30, last=1), aliased)
    assert [item.folder.name for item in garbage.workspaces] == ["run-2"]
    assert garbage.tags == ()  # their commits are of today
    assert find_garbage(project, Retention(days=30, last=4), ()).workspaces == ()
    assert find_garbage(project, Retention(days=60, last=0), ()).workspaces == ()

    garbage = find_garbage(project, Retention(days=-1, last=0), aliased)
    assert set(garbage.tags) == set(tags[1:])
    command = cache_command(project, garbage)
    assert command[:5] == ["dvc", "gc", "--workspace", "--all-branches", "--all-tags"]
    assert command[5:] == ["--projects", ".workspaces/run-1", ".workspaces/run-0"]
    removed = []
    remove_garbage(project, garbage, removed.append)
    assert set(removed) == {".workspaces/run-3", ".workspaces/run-2", *tags[1:]}
    assert git(project, "tag", "--list") == tags[0]
    assert sorted(item.folder.name for item in list_workspaces(project)) == ["run-0", "run-1"]
