"""Training over two processes, launched by a flow."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from idc.runs.workspace import copy_project, stage_environment
from tests.small_run import SMALL

ROOT = Path(__file__).parents[2]
OVERRIDES = SMALL | {"train.epochs": 2, "runtime.num_devices": 2}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_train_when_the_flow_asks_for_two_processes_then_both_train_and_one_run_is_told(tmp_path):
    project = copy_project(ROOT, tmp_path / "project", OVERRIDES)
    environment = stage_environment(project) | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        # its 20 s are too few beside a training on both cores
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    }
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    commands = (
        ("-m", "dvc", "config", "--local", "cache.dir", str(tmp_path / "cache")),
        ("-m", "idc", "synth", "data/raw/s.zip", "--cases", "16", "--patches-per-case", "16"),
        (str(ROOT / "tests/operations/training_flow.py"),),
    )
    for arguments in commands:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=project, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (project / "models/fusion").is_dir()
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("idc").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["runtime.num_devices"] == "2"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(item.step for item in losses) == [1, 2]
