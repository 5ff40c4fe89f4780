"""Stages beside other DVC processes, which are real and are killed by their number."""

import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import yaml
from prefect.logging import disable_run_logger

from idc.core.errors import StageFailedError, TransientError
from idc.runs.workspace import stage_environment
from tasks.stages import run_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HOLD = """
import sys, time
from dvc.repo import Repo
with Repo().lock:
    print("held", flush=True)
    time.sleep(600)
"""
STAGE = "import pathlib, time; time.sleep(float(pathlib.Path('seconds').read_text()))"


@pytest.fixture
def project(tmp_path):
    """A DVC project of one stage, which takes as many seconds as a file says."""
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"],
        cwd=tmp_path, env=stage_environment(tmp_path), check=True,
    )  # fmt: skip
    (tmp_path / "stage.py").write_text(STAGE + "\npathlib.Path('out').write_text('done')\n")
    stage = {"cmd": "python stage.py", "deps": ["seconds"], "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"sample": stage}}))
    (tmp_path / "seconds").write_text("0")
    return tmp_path


def start(project, *command):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=project, env=stage_environment(project), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def sample(project):
    with disable_run_logger():
        return run_stage.fn("sample", project)


def test_stage_when_the_repo_lock_is_held_then_it_is_tried_again_and_runs_once_it_is_free(project):
    holder = start(project, "-c", textwrap.dedent(HOLD))
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TransientError, match="lock"):
        sample(project)
    holder.kill()
    holder.wait()
    assert sample(project)
    assert (project / "out").read_text() == "done"


def test_stage_when_it_runs_elsewhere_then_it_fails_naming_that_process(project):
    (project / "seconds").write_text("600")
    other = start(project, "-m", "dvc", "repro", "sample")
    for line in other.stdout:
        if line.startswith("> python"):
            break
    children = wait_for_children(other.pid)
    with pytest.raises(StageFailedError, match=rf"runs elsewhere.*PID {other.pid}\)"):
        sample(project)
    for process in (psutil.Process(other.pid), *children):
        process.kill()
    other.wait()
    (project / "seconds").write_text("0")
    assert sample(project)
    assert (project / "out").read_text() == "done"


def wait_for_children(pid):
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(pid).children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return children
