import errno
import os
import shutil
import subprocess
import sys
import time

import pytest

from idc.ops import logs
from idc.ops.logs import rotate_logs

WRITER = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_log_when_it_is_too_large_then_its_writer_goes_on_in_a_small_one(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MAX_BYTES", 100)
    folder = tmp_path / ".idc/services"
    folder.mkdir(parents=True)
    log = folder / "worker.log"
    with log.open("ab") as output, subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=output, text=True
    ) as writer:  # fmt: skip

        def write(text):
            writer.stdin.write(f"{text}\n")
            writer.stdin.flush()
            while not log.read_text().endswith(f"{text}\n"):
                time.sleep(0.01)

        write("a" * 40)
        rotate_logs(tmp_path)
        assert log.read_text() == "a" * 40 + "\n"
        write("b" * 80)
        rotate_logs(tmp_path)
        assert log.read_text() == ""
        write("c" * 20)
        writer.stdin.close()
    assert log.read_text() == "c" * 20 + "\n"
    assert (folder / "worker.log.1").read_text() == f"{'a' * 40}\n{'b' * 80}\n"
    rotate_logs(tmp_path / "without services")


@pytest.fixture
def large_log(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MAX_BYTES", 100)
    log = tmp_path / ".idc/services/worker.log"
    log.parent.mkdir(parents=True)
    log.write_text("a" * 200)
    return log


def test_log_when_another_process_moves_it_at_once_then_what_was_moved_stays(
    tmp_path, large_log, monkeypatch
):
    copies = []

    def copy_while_another_looks(source, target):
        copies.append(target)
        if len(copies) == 1:
            rotate_logs(tmp_path)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copy_while_another_looks)
    rotate_logs(tmp_path)
    assert len(copies) == 1
    assert large_log.read_text() == ""
    assert large_log.with_name("worker.log.1").read_text() == "a" * 200


def test_log_when_the_disk_is_full_then_it_stays_with_a_warning_and_the_caller_goes_on(
    tmp_path, large_log, monkeypatch, caplog
):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", fail)
    rotate_logs(tmp_path)
    assert large_log.read_text() == "a" * 200
    assert "logs of the services stay as they are (No space left on device)" in caplog.text
