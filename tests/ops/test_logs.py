import subprocess
import sys
import time

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
