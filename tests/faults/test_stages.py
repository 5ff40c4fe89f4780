"""Stages beside other DVC processes, which are real and are killed by their number."""

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.logging import disable_run_logger

from idc.core.errors import StageFailedError, TransientError
from idc.runs.workspace import stage_environment
from tasks.stages import run_stage
from tests.waiting import has_ended, wait_until

ROOT = Path(__file__).parents[2]

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


ENDS_WITH_DVC = """
import os, time
from pathlib import Path
from idc.ops.under_dvc import end_with_dvc

end_with_dvc()
try:
    Path("begun.partial").write_text(str(os.getpid()))
    Path("begun.partial").rename("begun")
    time.sleep(600)
finally:
    Path("cleaned").touch()
"""


REPRO = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro"])
"""


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
    children = wait_until(lambda: psutil.Process(other.pid).children(recursive=True))
    with pytest.raises(StageFailedError, match=rf"runs elsewhere.*PID {other.pid}\)"):
        sample(project)
    for process in (psutil.Process(other.pid), *children):
        process.kill()
    other.wait()
    (project / "seconds").write_text("0")
    assert sample(project)
    assert (project / "out").read_text() == "done"


@pytest.mark.parametrize("interrupts", ["heeded", "ignored"])  # as `dvc repro &` in a script
def test_stage_when_its_dvc_is_killed_then_it_ends_as_by_ctrl_c(project, interrupts):
    (project / "stage.py").write_text(ENDS_WITH_DVC)
    environment = stage_environment(project) | {"PYTHONPATH": str(ROOT / "src")}
    handler = "SIG_IGN" if interrupts == "ignored" else "SIG_DFL"
    dvc = subprocess.Popen(
        [sys.executable, "-c", REPRO.format(handler=handler)],
        cwd=project, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until((project / "begun").exists)
    # not DVC's only child: DVC may also start git, or a shell around the stage
    stage = int((project / "begun").read_text())
    dvc.kill()
    dvc.wait()
    wait_until(lambda: has_ended(stage))
    assert (project / "cleaned").exists()


ADOPTED = """
import os, time
from pathlib import Path
from idc.core.errors import StageFailedError
from idc.ops.under_dvc import end_with_dvc

starter = int(os.environ["STARTER"])
while os.getppid() == starter:
    time.sleep(0.05)
try:
    end_with_dvc()
except StageFailedError as error:
    Path("said.partial").write_text(str(error))
    Path("said.partial").rename("said")
"""
START = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "stage.py"], env=os.environ | {"STARTER": str(os.getpid())})
"""


def test_stage_when_its_dvc_was_killed_before_it_began_then_it_does_nothing(tmp_path):
    (tmp_path / "stage.py").write_text(ADOPTED)
    environment = stage_environment(tmp_path) | {
        "PYTHONPATH": str(ROOT / "src"),
        "DVC_STAGE": "train",
    }
    subprocess.run(
        [sys.executable, "-c", START], cwd=tmp_path, env=environment, start_new_session=True
    )
    wait_until((tmp_path / "said").exists)
    assert (tmp_path / "said").read_text() == "DVC, which started this stage, has died"
