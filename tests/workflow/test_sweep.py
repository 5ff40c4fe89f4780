"""A sweep of the real pipeline on a synthetic archive, as MLflow and Prefect then show it."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from idc.core.git import git
from idc.runs.workspace import copy_project, stage_environment
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
PLAN = {
    "name": "rates",
    "overrides": {},
    "grid": {
        "model.pretrained": ["none", "no/such/folder"],
        "train.learning_rate": [0.001, 0.002],
    },
    "max_parallel": 2,
    "gpu_slots": 1,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_sweep_when_some_points_fail_then_the_others_line_up_below_one_parent_and_no_alias_moves(
    tmp_path,
):
    project = copy_project(ROOT, tmp_path / "project", SMALL)
    (project / ".dvc/config.local").unlink()
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copy2(ROOT / name, project / name)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "first")
    environment = stage_environment(project) | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_TASK_RUN_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        # its 20 s are too few beside a training on both cores
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    }
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=project, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    own_cache = ("config", "--local", "cache.dir", str(tmp_path / "cache"))
    assert run("dvc", *own_cache).returncode == 0
    size = ("--cases", "16", "--patches-per-case", "16")
    assert run("idc", "synth", "data/raw/synthetic.zip", *size).returncode == 0
    (project / "configs").mkdir(exist_ok=True)
    (project / "configs/sweep.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    done = run("idc", "sweep")
    assert done.returncode == 1, (done.stdout + done.stderr)[-3000:]
    for rate in (0.001, 0.002):
        label = f"pretrained=no/such/folder learning_rate={rate}"
        assert f"{label} failed: check: " in done.stdout + done.stderr

    store = f"sqlite:///{project}/mlruns/mlflow.db"
    client = MlflowClient(store, store)
    experiment = client.get_experiment_by_name("idc sweep rates").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    parent = runs.pop("sweep rates")
    assert parent.info.status == "FAILED"
    assert set(runs) == {f"pretrained=none learning_rate={rate}" for rate in (0.001, 0.002)}
    first, second = runs.values()
    # but for scores of explanations: an interval needs maps of two cases that are not empty
    names = [
        {name for name in run.data.metrics if not name.startswith("explain/")}
        for run in (first, second)
    ]
    assert names[0] == names[1] >= {"val/auroc", "test/auroc_low"}
    assert set(first.data.params) == set(second.data.params)
    differing = [
        key for key, value in first.data.params.items() if second.data.params[key] != value
    ]
    assert differing == ["train.learning_rate"]
    for run_ in runs.values():
        assert run_.info.status == "FINISHED"
        assert run_.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run_.data.tags["sweep"] == "sweep rates"
    assert not client.get_registered_model("idc-fusion").aliases
    assert not (project / "dvc.lock").exists()  # nothing happened in the project itself
    assert len(git(project, "tag", "--list", "idc-run/*").splitlines()) == 2

    with closing(sqlite3.connect(tmp_path / "prefect/prefect.db")) as prefect:
        on_gpu = prefect.execute(
            "SELECT start_time, end_time FROM task_run "
            "WHERE name IN ('train', 'predict', 'explain') ORDER BY start_time"
        ).fetchall()
        flows = prefect.execute("SELECT name, state_name FROM flow_run").fetchall()
    assert len(on_gpu) == 6
    assert all(end <= start for (_, end), (start, _) in pairwise(on_gpu))
    assert ("rates-pretrained=none,learning_rate=0.001", "Completed") in flows
