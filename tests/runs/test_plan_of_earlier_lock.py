"""A `dvc.lock` of November 2026, when `src/idc` had few folders and there was no stage baselines.

The lock is made by DVC itself from the graph and the parameters of then; today's stand beside it.
"""

import shutil
from pathlib import Path

import pytest
import yaml

import idc.cli
from idc.cli import main
from idc.core.dvc import dvc
from idc.runs.lineage import load_lock
from idc.runs.plan import plan_run
from idc.stages import STAGES

ROOT = Path(__file__).parents[2]
GRAPH = Path(__file__).with_name("dvc_before_rooms.yaml")
PARAMS = ROOT / "tests/core/params_before_seeds.yaml"


def write_files(root, paths):
    """A file of one line at each path; a folder holds one."""
    for path in (root / path for path in paths):
        file = path if path.suffix else path / "index.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a line")


def paths_of(graph, *kinds):
    items = [
        item for stage in graph["stages"].values() for kind in kinds for item in stage.get(kind, [])
    ]
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


@pytest.fixture
def project(tmp_path, monkeypatch):
    earlier = yaml.safe_load(GRAPH.read_text())
    write_files(tmp_path, paths_of(earlier, "deps", "outs", "metrics", "plots"))
    shutil.copy2(GRAPH, tmp_path / "dvc.yaml")
    shutil.copy2(PARAMS, tmp_path / "params.yaml")
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    dvc(tmp_path, "commit", "--quiet", "--force")  # lock and cache as a run leaves them

    shutil.rmtree(tmp_path / "src")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(ROOT / name, tmp_path)
    today = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    write_files(tmp_path, [path for path in paths_of(today, "deps") if path.startswith("src/")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(idc.cli, "_require_own_code", lambda: None)  # src/ holds no code here
    return tmp_path


def test_plan_when_the_lock_is_of_the_earlier_layout_then_each_stage_says_what_is_new_to_it(
    project, capsys
):
    lock = load_lock(project)
    assert len(lock) == 9
    assert "src/idc/data/augment.py" in {dep["path"] for dep in lock["train"]["deps"]}
    assert main(["plan"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    plan = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    assert list(plan) == list(STAGES)
    assert plan["ingest"] == "runs: src/idc/data/ingest new; src/idc/data/subsets.py new"
    assert plan["baselines"] == "runs: it never ran"
    publish = plan["publish"].removeprefix("runs: ").split("; ")
    assert publish[0] == "reports/training_profile.json missing"
    # a parameter of later that it reads, and what checks it
    assert publish[1:] == ["src/idc/models/licences.py new", "publish modified"]
    assert all(line.startswith("runs: ") for line in plan.values())

    train = plan["train"].removeprefix("runs: ").split("; ")
    assert {"src/idc/training new", "train modified", "seeds.training new"} <= set(train)
    # what the lock of then records is held against the files of now, and agrees
    assert not {"data/patches", "src/idc/stages/train.py"} & {line.split()[0] for line in train}
    split = plan["split"].removeprefix("runs: ").split("; ")
    assert "data/case_subsets.csv missing" in split
    assert not [line for line in split if line.startswith("data/splits.csv")]


def test_plan_when_a_file_that_the_earlier_lock_records_changed_then_it_is_modified(project):
    (project / "src/idc/stages/train.py").write_text("other")
    shutil.rmtree(project / "models/fusion")
    plan = {stage.name: stage for stage in plan_run(project)}
    assert "src/idc/stages/train.py modified" in plan["train"].reasons
    assert "models/fusion deleted" in plan["train"].reasons
    assert not any(stage.restorable for stage in plan.values())
