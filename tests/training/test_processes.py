"""The stage `train` in processes of its own: ended by SIGKILL and started again; two together."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient

from idc.core.layout import BUNDLE, DVC_FILE, INDEX, PARAMS, PIXELS, SPLITS

NUM_PATCHES = 96


@pytest.fixture
def create_project(project_root, tmp_path, make_index):
    """Make a folder in which `idc train` runs on 64 patches, 8 steps an epoch."""

    def create(name, batch_size=8, **runtime):
        root = tmp_path / name
        (root / PIXELS).parent.mkdir(parents=True)
        index = make_index({"a": (32, 32), "b": (16, 16)})
        index.to_parquet(root / INDEX)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 200, (NUM_PATCHES, 50, 50, 3), dtype=np.uint8)
        pixels[index["label"].to_numpy() == 1, :, :, 1] += 30
        np.save(root / PIXELS, pixels)
        splits = index.rename_axis("row").reset_index()[["row", "case", "x", "y", "label"]]
        splits["split"] = splits["case"].map({"a": "train", "b": "val"})
        splits["in_manifest"] = True
        splits.to_csv(root / SPLITS, index=False)
        content = yaml.safe_load((project_root / PARAMS).read_text(encoding="utf-8"))
        content["model"] |= {"backbones": ["test_resnet"], "pretrained": "none", "size_px": 32}
        content["model"] |= {"texture_member": False}
        content["train"] |= {"epochs": 12, "patience": 12, "batch_size": batch_size}
        content["runtime"] |= {"num_threads": 1, "checkpoint_interval_s": 0.0, "device": "cpu"}
        content["runtime"] |= runtime
        (root / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
        (root / DVC_FILE).write_text("stages: {}\n", encoding="utf-8")
        return root

    return create


def start(root, project_root):
    environment = os.environ | {
        "PYTHONPATH": str(project_root / "src"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlruns/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "idc", "train"],
        cwd=root, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(root, project_root):
    process = start(root, project_root)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def last_step(root):
    return max((int(p.stem) for p in root.glob(".idc/checkpoints/*/*.pt")), default=0)


def kill_in_the_middle(root, project_root, delay_s):
    """Kill once a step beyond the last checkpoint was kept, `delay_s` later."""
    before = last_step(root)
    process = start(root, project_root)
    deadline = time.monotonic() + 300
    while last_step(root) <= before:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(900)  # five starts of a process that imports torch and mlflow
def test_train_when_killed_at_three_random_moments_then_ends_as_if_uninterrupted(
    create_project, project_root
):
    whole, killed = create_project("whole"), create_project("killed")
    finish(whole, project_root)
    moments = random.Random()
    for _ in range(3):
        kill_in_the_middle(killed, project_root, moments.uniform(0.0, 0.5))
    reached = last_step(killed)
    assert 0 < reached < 96
    said = finish(killed, project_root)
    assert f"going on at epoch {reached // 8 + 1}, batch {reached % 8 + 1}" in said
    for name in ("model.safetensors", "history.csv", "spec.json", "profile.safetensors"):
        assert (killed / BUNDLE / name).read_bytes() == (whole / BUNDLE / name).read_bytes(), name
    assert not list(killed.glob(".idc/checkpoints/*/*.pt"))
    _assert_one_run_told_each_epoch_once(killed)


def _assert_one_run_told_each_epoch_once(root):
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    epochs = len(pd.read_csv(root / BUNDLE / "history.csv"))
    for key in ("train/loss", "val/epoch_auroc"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
        assert steps == list(range(1, epochs + 1))
    assert len(client.get_metric_history(run.info.run_id, "class_weights/0")) == 1
    assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_train_when_two_processes_are_asked_for_then_one_of_them_tracks_and_writes(
    create_project, project_root
):
    root = create_project("two", num_devices=2, checkpoint_interval_s=1e9)
    said = finish(root, project_root)
    assert said.count("64 training patches on cpu") == 1
    _assert_one_run_told_each_epoch_once(root)


@pytest.mark.slow
def test_train_when_a_batch_cannot_be_shared_then_says_so_once_more_at_the_end(
    create_project, project_root
):
    root = create_project("uneven", batch_size=7, num_devices=2)
    process = start(root, project_root)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "train.batch_size: 7 cannot be shared equally by 2 processes" in said
    assert said.strip().splitlines()[-1].startswith("idc train: error: one of the 2 processes")
