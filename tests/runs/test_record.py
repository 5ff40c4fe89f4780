import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from idc.core.errors import InputError
from idc.core.files import load_json, save_json
from idc.core.git import git
from idc.core.layout import WORKSPACE_RECORD
from idc.runs.record import (
    Retention,
    adopt_run,
    cache_command,
    find_garbage,
    keep_case_subsets,
    record_run,
    remove_garbage,
)
from idc.runs.workspace import WORKSPACES, list_workspaces, override_params

ROOT = Path(__file__).parents[2]
SUBSETS = "# assigned by a rule\ncase,subset\n"


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml", ".gitignore"):
        shutil.copy2(ROOT / name, root)
    (root / "src").mkdir()
    (root / "src/code.py").write_text("A = 1\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def finish_run(project, name, *, epochs=3, subsets=SUBSETS, opened=None):
    """A worktree with what a finished run leaves; return its tag."""
    folder = project / WORKSPACES / name
    git(project, "worktree", "add", "--quiet", "--detach", str(folder))
    override_params(
        folder / "params.yaml", {"train.epochs": epochs, "publish.move_challenger": False}
    )
    lock = {"schema": "2.0", "stages": {"train": {"cmd": name}, "publish": {"cmd": "p"}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/case_subsets.csv").write_text(subsets)
    (folder / "data/raw/a.zip.dvc").write_text("outs: []\n")
    published = {"run_id": "r1", "model_name": "m", "model_version": "4", "result_digest": "d"}
    save_json(folder / "reports/published.json", published)
    save_json(
        folder / WORKSPACE_RECORD,
        {
            "root": str(project),
            "commit": git(project, "rev-parse", "HEAD"),
            "opened": (opened or datetime.now(UTC)).isoformat(),
            "opened_by": {"host": os.uname().nodename, "pid": 2**22 + 1, "started": 0.0},
        },
    )
    return record_run(folder)


def test_run_when_finished_then_its_tag_survives_the_workspace(project):
    tag = finish_run(project, "one")
    assert tag.startswith("idc-run/")
    assert len(tag) == len("idc-run/") + 12
    remove_garbage(project, find_garbage(project, Retention(-1, 0), ()), lambda _: None)
    assert list_workspaces(project) == []

    tag = finish_run(project, "one")
    shutil.rmtree(project / WORKSPACES / "one")
    git(project, "worktree", "prune")
    files = git(project, "ls-tree", "-r", "--name-only", tag).splitlines()
    assert {"dvc.lock", "params.yaml", "data/case_subsets.csv", "data/raw/a.zip.dvc"} <= set(files)
    assert "model m version 4" in git(project, "show", "--no-patch", tag)
    assert git(project, "status", "--porcelain") == ""


def test_run_when_recorded_again_then_the_tag_stays(project):
    tag = finish_run(project, "one")
    commit = git(project, "rev-parse", tag)
    assert record_run(project / WORKSPACES / "one") == tag
    assert git(project, "rev-parse", tag) == commit


def test_adopt_when_the_tree_is_clean_then_lock_params_and_sides_are_committed(project):
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    before = (project / "params.yaml").read_text().splitlines()
    adopted = adopt_run(project, tag)
    assert git(project, "rev-parse", "HEAD") == adopted.commit
    assert git(project, "status", "--porcelain") == ""
    for name in ("dvc.lock", "data/case_subsets.csv", "data/raw/a.zip.dvc"):
        ours = (project / name).read_bytes()
        assert ours == (project / WORKSPACES / "one" / name).read_bytes()
    changed = [
        line.strip()
        for line in (project / "params.yaml").read_text().splitlines()
        if line not in before
    ]
    # comments stay, and where results are told is the branch's own affair
    assert changed == ["epochs: 3"]
    assert adopted.changed_code == ()
    assert not adopted.changed_raw
    assert adopt_run(project, tag).commit == adopted.commit


@pytest.mark.parametrize(("ours", "changed"), [("outs: []\n", False), ("outs: [b]\n", True)])
def test_adopt_when_a_pointer_lies_here_uncommitted_then_it_stays_and_is_compared(
    project, ours, changed
):
    tag = finish_run(project, "one")
    pointer = project / "data/raw/a.zip.dvc"
    pointer.parent.mkdir(parents=True)
    pointer.write_text(ours)
    assert adopt_run(project, tag).changed_raw is changed
    assert pointer.read_text() == ours


def test_adopt_when_the_code_went_on_then_it_says_where(project):
    tag = finish_run(project, "one")
    (project / "src/code.py").write_text("A = 2\n")
    git(project, "commit", "--quiet", "--all", "-m", "second")
    assert adopt_run(project, tag).changed_code == ("src/code.py",)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock"])
def test_adopt_when_a_file_is_not_committed_then_it_refuses_and_changes_nothing(project, name):
    tag = finish_run(project, "one")
    with (project / name).open("a") as file:
        file.write("# mine\n")
    head = git(project, "rev-parse", "HEAD")
    with pytest.raises(InputError, match=f"{name} is not committed"):
        adopt_run(project, tag)
    assert git(project, "rev-parse", "HEAD") == head
    assert (project / name).read_text().endswith("# mine\n")


def test_adopt_when_a_case_stands_on_another_side_then_it_refuses(project):
    (project / "data").mkdir()
    (project / "data/case_subsets.csv").write_text(SUBSETS + "7,train\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "subsets")
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    with pytest.raises(InputError, match="case 7 is on train here, on test in the run"):
        adopt_run(project, tag)
    assert git(project, "status", "--porcelain") == ""


def test_adopt_when_the_sides_alone_are_not_committed_then_they_are_with_the_run(project):
    tag = finish_run(project, "one", subsets=SUBSETS + "7,test\n")
    keep_case_subsets(project / WORKSPACES / "one")
    assert git(project, "status", "--porcelain") != ""
    adopt_run(project, tag)
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "show", "HEAD:data/case_subsets.csv").endswith("7,test")


def test_keep_case_subsets_when_a_workspace_assigned_new_cases_then_the_project_knows_them(project):
    subsets = project / "data/case_subsets.csv"
    finish_run(project, "one", subsets=SUBSETS + "7,test\n8,val\n")
    assert keep_case_subsets(project / WORKSPACES / "one") == 2
    assert subsets.read_text() == SUBSETS + "7,test\n8,val\n"
    finish_run(project, "two", subsets=SUBSETS + "8,val\n9,gate\n")
    assert keep_case_subsets(project / WORKSPACES / "two") == 1
    assert keep_case_subsets(project / WORKSPACES / "two") == 0
    assert subsets.read_text() == SUBSETS + "7,test\n8,val\n9,gate\n"


def test_keep_case_subsets_when_another_run_assigned_otherwise_then_refuses_and_keeps_the_first(
    project,
):
    for name, subset in (("one", "test"), ("two", "train")):
        finish_run(project, name, subsets=f"{SUBSETS}7,{subset}\n")
    keep_case_subsets(project / WORKSPACES / "one")
    with pytest.raises(InputError, match="case 7 is on test here, on train in the run"):
        keep_case_subsets(project / WORKSPACES / "two")
    assert (project / "data/case_subsets.csv").read_text() == SUBSETS + "7,test\n"


def test_adopt_when_the_branch_knows_more_cases_then_none_is_lost(project):
    (project / "data").mkdir()
    (project / "data/case_subsets.csv").write_text(SUBSETS + "7,test\n8,val\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "subsets")
    adopt_run(project, finish_run(project, "one", subsets=SUBSETS + "7,test\n"))
    assert (project / "data/case_subsets.csv").read_text() == SUBSETS + "7,test\n8,val\n"


def test_adopt_when_there_is_no_such_tag_then_it_says_how_to_list_them(project):
    with pytest.raises(InputError, match="no tag idc-run/0: `git tag --list"):
        adopt_run(project, "idc-run/0")


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


EARLIER = "# assigned by a rule\ncase,side\n7,test\n"


def tag_earlier_run(project, params):
    """A recorded run from before December 2026, as its tag holds it."""
    folder = project / WORKSPACES / "old"
    git(project, "worktree", "add", "--quiet", "--detach", str(folder))
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/case_sides.csv").write_text(EARLIER)
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {train: {cmd: old}}\n")
    content = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in params.items():
        content.setdefault(section, {}).update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    git(folder, "add", "--force", ".")
    git(folder, "commit", "--quiet", "-m", "Results of old")
    git(folder, "tag", "idc-run/0123456789ab")
    return "idc-run/0123456789ab"


def test_adopt_when_the_run_holds_the_earlier_file_and_parameters_then_both_are_todays(
    project, caplog
):
    gone = {"train": {"epochs": 3, "ema_decay": None}, "pretrain": {"stem_dictionary": False}}
    adopt_run(project, tag_earlier_run(project, gone))
    subsets = (project / "data/case_subsets.csv").read_text()
    assert subsets == EARLIER.replace("side", "subset")
    assert not (project / "data/case_sides.csv").exists()
    assert yaml.safe_load((project / "params.yaml").read_text())["train"]["epochs"] == 3
    assert "left out, for they are no parameters any more: " in caplog.text
    assert "pretrain.stem_dictionary, train.ema_decay" in caplog.text


def test_adopt_when_the_branch_has_the_earlier_file_then_says_how_to_rename_it(project):
    tag = tag_earlier_run(project, {})
    (project / "data").mkdir()
    (project / "data/case_sides.csv").write_text(EARLIER)
    git(project, "add", "--force", "data/case_sides.csv")
    git(project, "commit", "--quiet", "-m", "subsets")
    with pytest.raises(InputError, match=r"`git mv \S*case_sides\.csv \S*case_subsets\.csv`"):
        adopt_run(project, tag)
    git(project, "mv", "data/case_sides.csv", "data/case_subsets.csv")
    git(project, "commit", "--quiet", "-m", "renamed")
    adopt_run(project, tag)
    assert "case,subset\n7,test\n" in (project / "data/case_subsets.csv").read_text()
