import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from idc.training.ranks import Ranks, under_torchrun

SCRIPT = Path(__file__).with_name("run_twenty_steps.py")


def run_steps(project_root, file, *launcher):
    environment = os.environ | {
        "PYTHONPATH": f"{project_root / 'src'}{os.pathsep}{project_root}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *launcher, str(SCRIPT), str(file)]
    done = subprocess.run(
        command, cwd=project_root, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(file)


@pytest.mark.slow
def test_training_when_two_processes_share_a_batch_then_the_losses_are_those_of_one(
    project_root, tmp_path
):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    alone = run_steps(project_root, tmp_path / "alone.npz")
    together = run_steps(project_root, tmp_path / "together.npz", *torchrun)
    assert len(alone["losses"]) == 20
    assert alone["losses"][-5:].mean() < 0.9 * alone["losses"][:5].mean()  # it does learn
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-4)
    np.testing.assert_allclose(together["scores"], alone["scores"], rtol=1e-3, atol=1e-3)


def test_ranks_when_alone_then_it_leads_and_shares_with_nobody():
    ranks = Ranks(torch.device("cpu"))
    values = np.arange(3)
    assert (ranks.is_main, ranks.several, ranks.least(5)) == (True, False, 5)
    assert ranks.interleave(values) is values


def test_under_torchrun_when_the_environment_says_so_then_true(monkeypatch):
    before = under_torchrun()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (before, under_torchrun()) == (False, True)
