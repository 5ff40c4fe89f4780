import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from filelock import FileLock

from idc.core.disk import disk_usage
from idc.core.dvc import dvc
from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.core.git import git
from idc.core.layout import CHECKPOINTS, EMBEDDINGS, WORKSPACE_RECORD
from idc.runs.record import record_run
from idc.runs.retention import (
    Garbage,
    Retention,
    cache_command,
    find_garbage,
    find_unused_cache,
    remove_garbage,
    remove_unused_cache,
)
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
    assert command[2:6] == ["--workspace", "--all-branches", "--all-tags", "--all-experiments"]
    assert command[6:] == ["--projects", ".workspaces/run-1", ".workspaces/run-0"]
    removed = []
    remove_garbage(project, garbage, removed.append)
    assert set(removed) == {".workspaces/run-3", ".workspaces/run-2", *tags[1:]}
    assert git(project, "tag", "--list") == tags[0]
    assert sorted(item.folder.name for item in list_workspaces(project)) == ["run-0", "run-1"]


def test_garbage_when_workspaces_take_too_much_then_the_oldest_go_but_none_in_use_or_aliased(
    project,
):
    now = datetime.now(UTC)
    tags = [finish_run(project, f"run-{k}", opened=now + timedelta(hours=k)) for k in range(4)]
    folders = [project / WORKSPACES / f"run-{k}" for k in range(4)]
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/a.zip").write_bytes(bytes(50_000_000))
    for folder in folders:
        (folder / "weights").write_bytes(b"x" * 1_000_000)
        (folder / "data/raw/a.zip").hardlink_to(project / "data/raw/a.zip")  # costs nothing
    used = load_json(folders[1] / WORKSPACE_RECORD)
    used["opened_by"]["host"] = "elsewhere"
    save_json(folders[1] / WORKSPACE_RECORD, used)
    aliased = [tags[0].removeprefix("idc-run/") + "0" * 52]

    def removed(max_gb):
        garbage = find_garbage(project, Retention(max_gb=max_gb), aliased)
        return [item.folder.name for item in garbage.workspaces], set(garbage.tags)

    each = (disk_usage(*folders) - 50_000_000) / 4e9
    assert removed(4.1 * each) == ([], set())
    assert removed(3.1 * each) == (["run-2"], {tags[2]})
    assert removed(0) == (["run-3", "run-2"], {tags[2], tags[3]})


def test_garbage_when_two_workspaces_have_one_result_then_its_tag_stays_while_one_of_them_does(
    project,
):
    now = datetime.now(UTC)
    finish_run(project, "older", opened=now)
    tag = finish_run(project, "newer", opened=now + timedelta(hours=1))
    older, newer = (project / WORKSPACES / name for name in ("older", "newer"))
    git(project, "tag", "--delete", tag)
    shutil.copy2(older / "dvc.lock", newer / "dvc.lock")
    tag = record_run(newer)
    assert record_run(older) == tag
    (older / "weights").write_bytes(b"x" * 1_000_000)

    size_gb = disk_usage(newer) / 1e9
    garbage = find_garbage(project, Retention(max_gb=1.1 * size_gb), ())
    assert [item.folder.name for item in garbage.workspaces] == ["older"]
    assert garbage.tags == ()
    assert tag in find_garbage(project, Retention(max_gb=0), ()).tags


def test_garbage_when_the_lock_of_a_workspace_is_damaged_then_it_goes_with_age_like_others(project):
    now = datetime.now(UTC)
    tags = [
        finish_run(project, name, opened=now - timedelta(days=days))
        for name, days in (("old", 40), ("damaged", 39), ("young", 0))
    ]
    (project / WORKSPACES / "damaged/dvc.lock").write_text("stages: [")
    garbage = find_garbage(project, Retention(last=0), ())
    assert [item.folder.name for item in garbage.workspaces] == ["damaged", "old"]
    aliased = [tags[0].removeprefix("idc-run/") + "0" * 52]
    garbage = find_garbage(project, Retention(max_gb=0), aliased)
    assert {item.folder.name for item in garbage.workspaces} == {"damaged", "young"}


def test_garbage_when_checkpoints_and_embeddings_are_old_then_they_go_unless_a_training_runs(
    project,
):
    finish_run(project, "run")
    old = (datetime.now(UTC) - timedelta(days=40)).timestamp()
    places = [
        folder / kind / name
        for folder in (project, project / WORKSPACES / "run")
        for kind in (CHECKPOINTS, EMBEDDINGS)
        for name in ("left", "young")
    ]
    for place in places:
        place.mkdir(parents=True)
        (place / "000000001.pt").write_bytes(b"x" * 10_000)
        if place.name == "left":
            for path in (place, place / "000000001.pt"):
                os.utime(path, (old, old))

    left = {place for place in places if place.name == "left"}
    assert set(find_garbage(project, Retention(), ()).leftovers) == left
    with FileLock(project / CHECKPOINTS / "young.lock"):
        garbage = find_garbage(project, Retention(), ())
    assert set(garbage.leftovers) == {place for place in left if WORKSPACES.name in place.parts}
    removed = []
    remove_garbage(project, garbage, removed.append)
    assert removed == [str(place.relative_to(project)) for place in garbage.leftovers]
    assert {place for place in places if place.exists()} == {*places} - {*garbage.leftovers}


@pytest.mark.slow
def test_cache_when_a_tag_is_gone_then_what_it_alone_named_goes(project):
    dvc(project, "init", "--quiet")
    data = project / "data.bin"
    for number, content in enumerate((b"first", b"second", b"third")):
        data.write_bytes(content)
        dvc(project, "add", "data.bin")
        git(project, "add", "--force", "data.bin.dvc")
        git(project, "commit", "--quiet", "-m", content.decode())
        git(project, "tag", f"idc-run/{number}")
    nothing = Garbage((), ())
    command = cache_command(project, nothing)
    assert find_unused_cache(project, command) == []
    git(project, "tag", "--delete", "idc-run/1")
    (unused,) = find_unused_cache(project, command)
    assert unused.read_bytes() == b"second"
    assert remove_unused_cache(project, command) == 1
    assert not unused.exists()
    assert sorted(path.read_bytes() for path in (project / ".dvc/cache/files").rglob("*") if
                  path.is_file()) == [b"first", b"third"]  # fmt: skip

    shutil.move(project / ".dvc/cache", project.parent / "shared")
    dvc(project, "cache", "dir", "--local", str(project.parent / "shared"))
    with pytest.raises(InputError, match=r"shared lies outside the clone.*run it yourself: dvc gc"):
        find_unused_cache(project, command)
