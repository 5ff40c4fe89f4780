"""Run a command in a process group of its own, stream its lines, and always end the whole group.

Killing `dvc` alone would leave the training that it started running, and a timeout does not
interrupt a thread that waits for a process: so the group is polled, and ended as a whole. If this
process is killed, the leader of the group (`group_leader.py`) notices and ends the group.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2
_LEADER = Path(__file__).with_name("group_leader.py")
_GRACE_S = 8.0  # between TERM and KILL; Prefect's worker itself gives 30 s


@dataclass(frozen=True)
class Finished:
    """The exit code of a command and every line it printed."""

    returncode: int
    lines: tuple[str, ...]


class AbandonedError(RuntimeError):
    """The process that started this one has ended, so the result of the command is not needed."""


def run_group(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float | None,
    on_line: Callable[[str], None],
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Finished:
    """Run to the end, or end every process of the group on timeout, cancellation or any error.

    The group ends too when this process is killed.

    Raises:
        TimeoutError: If the command takes longer than `timeout_s`.
        AbandonedError: As soon as `is_abandoned` says so.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LEADER), str(_GRACE_S), *command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []
    pending: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(process, pending), daemon=True)
    reader.start()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        while process.poll() is None:
            _drain(pending, lines, on_line, wait_s=_POLL_S)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{' '.join(command)} took longer than {timeout_s:.0f} s")
            if is_abandoned():
                raise AbandonedError(f"{' '.join(command)} was ended: what started it has ended")
    finally:
        end_group(process)
        if process.stdin is not None:
            process.stdin.close()
    reader.join(timeout=_GRACE_S)
    _drain(pending, lines, on_line, wait_s=0.0)
    return Finished(process.returncode, tuple(lines))


def end_group(process: subprocess.Popen[str]) -> None:
    """End the remaining processes of the group: TERM, then KILL."""
    for signal_, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        if not _signal_group(process.pid, signal_):
            break
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and _signal_group(process.pid, 0):
            process.poll()  # reaps the leader, which would otherwise count as alive
            time.sleep(_POLL_S / 2)
    process.wait()


def _signal_group(group: int, signal_: int) -> bool:
    try:
        os.killpg(group, signal_)
    except ProcessLookupError:
        return False
    return True


def _read_lines(process: subprocess.Popen[str], pending: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        pending.put(line.rstrip())


def _drain(
    pending: "queue.Queue[str]",
    lines: list[str],
    on_line: Callable[[str], None],
    *,
    wait_s: float,
) -> None:
    try:
        line = pending.get(timeout=wait_s) if wait_s else pending.get_nowait()
        while True:
            if line:
                lines.append(line)
                on_line(line)
            line = pending.get_nowait()
    except queue.Empty:
        return
