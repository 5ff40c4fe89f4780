import os
import sys
import time

import psutil
import pytest

from tasks.process import run_group

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


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_run_group_when_it_ends_then_every_line_and_the_code_are_returned(tmp_path):
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    finished, lines = run(code, tmp_path)
    assert finished.returncode == 3
    assert sorted(finished.lines) == ["one", "two"]
    assert lines == list(finished.lines)


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
    assert not is_alive(pids[0])


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
    assert not is_alive(pids[0])


def test_run_group_when_the_group_ignores_term_then_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.process._GRACE_S", 1.0)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        run(deaf, tmp_path, timeout_s=2)
    assert time.monotonic() - start < 20
