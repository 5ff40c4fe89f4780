"""Runs that a crash left in the store: a real training's process, killed by its number."""

import os
import signal
import subprocess
import sys

import mlflow
import pytest
import yaml

from idc.cli import main
from idc.tracking.connection import tracking_uri
from idc.tracking.live import live_run
from idc.tracking.orphans import list_orphans

TRAINING = """
import sys
from pathlib import Path
from idc.core.config import load_params
from idc.tracking.live import live_run

params = load_params(Path("params.yaml"))
with live_run(Path.cwd(), params, "abc", training="t1", resumed=False) as live:
    live.log_epoch(1, {"train/loss": 0.5})
    print("an epoch is told", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.timeout(600)  # making a store's tables takes minutes on a busy machine


@pytest.mark.slow
def test_run_when_its_process_is_killed_then_gc_closes_it_and_not_before_and_it_can_go_on(
    tmp_path, change_params, project_root, monkeypatch, capsys
):
    params = change_params()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(tracking_uri(tmp_path))

    def runs():
        experiment = client.get_experiment_by_name("idc").experiment_id
        return client.search_runs([experiment])

    with subprocess.Popen(
        [sys.executable, "-c", TRAINING], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{project_root}/src"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "an epoch is told\n"
        assert main(["gc", "--yes"]) == 0
        assert [run.info.status for run in runs()] == ["RUNNING"]
        os.kill(process.pid, signal.SIGKILL)
    (run,) = runs()
    assert run.info.status == "RUNNING"  # nothing could say otherwise
    assert list_orphans(tmp_path) == [run.info.run_id]
    assert main(["gc"]) == 0
    assert f"would close MLflow run {run.info.run_id}" in capsys.readouterr().out
    assert [run.info.status for run in runs()] == ["RUNNING"]
    assert main(["gc", "--yes"]) == 0
    assert [run.info.status for run in runs()] == ["KILLED"]
    with live_run(tmp_path, params, "abc", training="t1", resumed=True) as live:
        live.log_epoch(1, {"train/loss": 0.5})
        live.log_epoch(2, {"train/loss": 0.4})
    (again,) = runs()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    steps = [item.step for item in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(steps) == [1, 2]
