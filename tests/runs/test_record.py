import shutil

import pytest

from idc.core.errors import InputError
from idc.core.git import git
from idc.runs.record import keep_case_subsets, record_run
from idc.runs.retention import Retention, find_garbage, remove_garbage
from idc.runs.workspace import WORKSPACES, list_workspaces
from tests.runs.finished_run import SUBSETS, finish_run


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
