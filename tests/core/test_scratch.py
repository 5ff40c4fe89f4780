import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from idc.core.scratch import scratch_folder

HOLD = """
import sys
from idc.core.scratch import scratch_folder

with scratch_folder() as folder:
    (folder / "model").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_scratch_folder_when_left_then_it_is_gone(temporary):
    with scratch_folder() as folder:
        (folder / "model").touch()
        assert folder.parent == temporary
    assert not list(temporary.iterdir())


def test_scratch_folder_when_another_was_killed_then_the_next_removes_what_it_left(
    temporary, project_root
):
    environment = {"PYTHONPATH": str(project_root / "src"), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=os.environ | environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        left = Path(process.stdout.readline().strip())
        with scratch_folder():
            assert left.exists()  # of a process at work
        os.kill(process.pid, signal.SIGKILL)
    assert left.exists()
    with scratch_folder():
        assert not left.exists()


@pytest.mark.parametrize("host", ["lab_2", "lab~2"])
def test_scratch_folder_when_the_hosts_name_holds_any_character_then_it_is_removed_all_the_same(
    temporary, monkeypatch, host
):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    with scratch_folder() as own:
        of_another = own.name.replace(f"~{os.getpid()}~", f"~{2**22 + 1}~")
        left = own.rename(temporary / of_another)
        own.mkdir()
    with scratch_folder():
        assert not left.exists()


def test_scratch_folder_when_a_name_is_not_its_own_then_it_stays(temporary):
    # of another machine, on a shared disk; of anybody
    others = [temporary / f"idc-scratch~{name}" for name in ("1~0.0~abc~elsewhere", "mine")]
    for other in others:
        other.mkdir()
    with scratch_folder():
        assert all(other.exists() for other in others)
