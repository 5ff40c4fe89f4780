"""Real processes whose ancestor dies: those that it started, at any depth, end; others stay."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from idc.ops.descendants import end_descendants_at_death
from idc.runs.workspace import copy_project, stage_environment
from tests.small_run import SMALL
from tests.waiting import has_ended, wait_until

ROOT = Path(__file__).parents[2]

# an ancestor whose grandchild leads a session of its own, as servers do, and has lost its parent
ANCESTOR = """
import os, signal, subprocess, sys, time
from idc.ops.descendants import end_descendants_at_death

for each in (signal.SIGINT, signal.SIGHUP):
    signal.signal(each, signal.SIG_DFL)  # a shell may have started the tests with them ignored
environment = end_descendants_at_death(os.environ)
sleep = "import time; print(__import__('os').getpid(), flush=True); time.sleep(600)"
if sys.argv[1] == "deaf":
    sleep = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" + sleep
start = f"subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True, stdout=-1)"
# ends only when it has begun, and so has the ancestor something to end
parent = f"import subprocess, sys; print(int({start}.stdout.readline()), flush=True)"
subprocess.run([sys.executable, "-c", parent], env=environment)
if sys.argv[1] == "exec":
    os.execve("/bin/sleep", ["sleep", "600"], environment)
if sys.argv[1] != "returns":
    time.sleep(600)
"""


def start(how):
    """Start an ancestor; return it and the number of its orphaned grandchild."""
    ancestor = subprocess.Popen(
        [sys.executable, "-c", ANCESTOR, how],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    return ancestor, int(ancestor.stdout.readline())


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_descendants_when_the_ancestor_is_ended_then_an_orphan_in_its_own_session_ends_too(signal_):
    ancestor, orphan = start("waits")
    assert not has_ended(orphan)
    ancestor.send_signal(signal_)
    ancestor.wait()
    wait_until(lambda: has_ended(orphan), "the end of the orphan")


@pytest.mark.parametrize("how", ["returns", "exec"])
def test_descendants_when_the_ancestor_returns_or_became_another_program_then_they_end_with_it(how):
    ancestor, orphan = start(how)
    if how == "exec":
        time.sleep(1)
        assert not has_ended(orphan)
        ancestor.kill()
    ancestor.wait()
    wait_until(lambda: has_ended(orphan), "the end of the orphan")


@pytest.mark.slow
def test_descendants_when_one_ignores_term_then_it_is_killed():
    ancestor, orphan = start("deaf")
    ancestor.kill()
    ancestor.wait()
    wait_until(lambda: has_ended(orphan), "the end of the orphan")


def test_descendants_when_another_ancestor_dies_then_they_stay():
    first, own = start("waits")
    second, others = start("waits")
    first.kill()
    first.wait()
    wait_until(lambda: has_ended(own), "the end of the orphan")
    assert not has_ended(others)
    second.kill()
    second.wait()
    wait_until(lambda: has_ended(others), "the end of the other's orphan")


def test_marks_when_ancestors_are_nested_then_each_has_its_own():
    outer = end_descendants_at_death({})
    inner = end_descendants_at_death(outer)
    (name,) = outer
    assert inner[name].split()[:-1] == outer[name].split()
    assert len(set(inner[name].split())) == 2


def processes_in(home):
    """Return the processes that work with this PREFECT_HOME: the flow, its server, stages."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_server(process):
    try:
        return "uvicorn" in process.cmdline()
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_flow_when_it_is_ended_then_its_temporary_prefect_server_ends_too(tmp_path, signal_):
    project = copy_project(ROOT, tmp_path / "project", SMALL)
    (project / "data/raw").mkdir(parents=True)
    home = tmp_path / "prefect"
    environment = stage_environment(project) | {"PREFECT_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)
    flow = subprocess.Popen(
        [sys.executable, "-m", "idc", "pipeline"],
        cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: any(map(is_server, processes_in(home))), "the server")
    finally:
        flow.send_signal(signal_)
        flow.wait()
    wait_until(lambda: not processes_in(home), f"the end of {processes_in(home)}")


PYTEST = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as above
os.execv(sys.executable, [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]])
"""
TESTS = """
import subprocess, sys, time

def test_server():
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                              start_new_session=True)
    with open("pid.partial", "w") as file:
        file.write(str(server.pid))
    __import__("os").replace("pid.partial", "pid")
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_tests_when_they_are_interrupted_then_the_servers_that_they_started_end(
    tmp_path, signal_, workers
):
    (tmp_path / "tests").mkdir()
    shutil.copy2(ROOT / "tests/conftest.py", tmp_path / "tests")
    (tmp_path / "tests/test_server.py").write_text(TESTS)
    run = subprocess.Popen(
        [sys.executable, "-c", PYTEST, "-n", workers, "tests"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until((tmp_path / "pid").exists, "the server")
    server = int((tmp_path / "pid").read_text())
    os.killpg(run.pid, signal_)  # the terminal tells all of the foreground group
    run.wait()
    wait_until(lambda: has_ended(server), "the end of the server")
