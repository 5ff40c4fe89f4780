import os
import subprocess
import sys

import pytest
import yaml

from idc.runs.run_cache import remove_empty_entries
from idc.runs.workspace import stage_environment


def dvc(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project, env=stage_environment(project), capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", [None, "elsewhere"])
def test_run_cache_when_an_entry_was_left_empty_then_removing_it_lets_the_stage_run(
    tmp_path, where
):
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    if where is not None:
        dvc(tmp_path, "cache", "dir", where)
    stage = {"cmd": "cp in out", "deps": ["in"], "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    (tmp_path / "in").write_text("1")
    assert dvc(tmp_path, "repro").returncode == 0
    assert remove_empty_entries(tmp_path) == 0
    (entry,) = (tmp_path / (where or ".dvc/cache")).glob("runs/*/*/*")
    entry.unlink()  # as a DVC that was killed between making the folder and the file leaves it
    (tmp_path / "dvc.lock").unlink()
    (tmp_path / "out").unlink()
    assert "join() argument must be str" in dvc(tmp_path, "repro").stderr
    assert remove_empty_entries(tmp_path) == 0  # as young as one that is about to be filled
    os.utime(entry.parent, (0, 0))
    assert remove_empty_entries(tmp_path) == 1
    assert dvc(tmp_path, "repro").returncode == 0
    assert (tmp_path / "out").read_text() == "1"


def test_run_cache_when_there_is_none_then_nothing_happens(tmp_path):
    assert remove_empty_entries(tmp_path) == 0
