import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idc.ops.process_group import AbandonedError, run_group
from tests.waiting import has_ended, wait_until

ROOT = Path(__file__).parents[2]
ORPHAN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def run(code, tmp_path, timeout_s=None):
    lines = []
    finished = run_group(
        [sys.executable, "-c", code],
        folder=tmp_path,
        environment=dict(os.environ),
        timeout_s=timeout_s,
        on_line=lines.append,
    )
    return finished, lines


def test_run_group_when_it_ends_then_every_line_and_the_code_are_returned(tmp_path):
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    finished, lines = run(code, tmp_path)
    assert finished.returncode == 3
    assert sorted(finished.lines) == ["one", "two"]
    assert lines == list(finished.lines)


@pytest.mark.slow
def test_run_group_when_it_takes_too_long_then_grandchildren_end_too(tmp_path):
    pids = []
    with pytest.raises(TimeoutError, match="longer than 2 s"):
        run_group(
            [sys.executable, "-c", ORPHAN],
            folder=tmp_path,
            environment=dict(os.environ),
            timeout_s=2,
            on_line=lambda line: pids.append(int(line)),
        )
    assert pids
    assert has_ended(pids[0])


def test_run_group_when_the_caller_is_interrupted_then_grandchildren_end_too(tmp_path):
    pids = []

    def interrupt(line):
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_group(
            [sys.executable, "-c", ORPHAN],
            folder=tmp_path,
            environment=dict(os.environ),
            timeout_s=None,
            on_line=interrupt,
        )
    time.sleep(0.2)
    assert has_ended(pids[0])


@pytest.mark.slow
def test_run_group_when_the_group_ignores_term_then_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("idc.ops.process_group._GRACE_S", 1.0)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        run(deaf, tmp_path, timeout_s=2)
    assert time.monotonic() - start < 20


STARTER = """
import os, sys
from pathlib import Path
from idc.ops.process_group import AbandonedError, run_group
code = sys.argv[1]
run_group([sys.executable, "-c", code], folder=Path.cwd(), environment=dict(os.environ),
          timeout_s=None, on_line=lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True])
def test_run_group_when_the_starter_is_killed_then_no_process_of_the_group_is_left(tmp_path, deaf):
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, ignoring + ORPHAN],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    pid = int(starter.stdout.readline())
    group = os.getpgid(pid)  # the number of its leader
    starter.kill()
    starter.wait()
    wait_until(lambda: has_ended(pid) and has_ended(group))


def test_run_group_when_abandoned_then_the_group_ends_and_that_is_the_error(tmp_path):
    pids = []
    with pytest.raises(AbandonedError, match="what started it has ended"):
        run_group(
            [sys.executable, "-c", ORPHAN],
            folder=tmp_path,
            environment=dict(os.environ),
            timeout_s=None,
            on_line=lambda line: pids.append(int(line)),
            is_abandoned=lambda: bool(pids),
        )
    assert has_ended(pids[0])


def test_run_group_when_the_command_fails_then_its_code_passes_the_leader(tmp_path):
    finished, _ = run("import sys; sys.exit(75)", tmp_path)
    assert finished.returncode == 75
    finished, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert finished.returncode == 128 + 9
