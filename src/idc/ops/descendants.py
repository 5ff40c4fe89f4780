"""Ends whatever a process has started, at any depth, once that process is dead, however it died.

A process group does not hold them all: Prefect's temporary server stays in the group of the shell,
and servers of the tests lead groups of their own. But each inherits the environment, so a mark in
it tells them from all others, also where the parent between has gone. A small process waits for
the death: the other end of its standard input is then closed by the system.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

_VARIABLE = "IDC_DESCENDS_FROM"
_TERM_S = 12.0  # longer than a group leader takes to end its own group
_KILL_S = 5.0
_POLL_S = 0.2


def end_descendants_at_death(environment: Mapping[str, str]) -> dict[str, str]:
    """Promise that nothing started with the returned environment outlives this process for long.

    It holds however this process ends, by `SIGKILL` too, and also if it becomes another program by
    `exec`. Who gets TERM has 12 s until KILL.

    Args:
        environment: Variables for the processes that will be started.

    Returns:
        The same with a mark, beside those of processes further up.
    """
    mark = uuid.uuid4().hex
    ours, theirs = os.pipe()
    # by its path, in a session of its own: neither Ctrl-C nor the end of the terminal ends it
    watcher = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__)), mark],
        stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != _VARIABLE}, start_new_session=True,
    )  # fmt: skip
    watcher.returncode = 0  # it outlives this process: nobody waits for it
    os.close(ours)
    os.set_inheritable(theirs, True)  # stays open through exec, and until this process ends
    marks = [*environment.get(_VARIABLE, "").split(), mark]
    return {**environment, _VARIABLE: " ".join(marks)}


def list_marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that carry the mark in their environment."""
    return [process for process in psutil.process_iter() if _carries(process, mark)]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in process.environ().get(_VARIABLE, "").split()
    except (psutil.Error, OSError):  # another user's, a zombie, or just gone
        return False


def main() -> None:
    """Wait until nobody holds the other end of standard input, then end who carries the mark."""
    os.read(0, 1)  # nothing is ever written
    for signal_, limit_s in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, _KILL_S)):
        told: set[psutil.Process] = set()
        deadline = time.monotonic() + limit_s
        while (left := list_marked(sys.argv[1])) and time.monotonic() < deadline:
            for process in left:
                if process not in told:
                    told.add(process)
                    _signal(process, signal_)
            time.sleep(_POLL_S)


def _signal(process: psutil.Process, signal_: signal.Signals) -> None:
    try:
        process.send_signal(signal_)
    except psutil.Error:  # gone in the meantime
        return


if __name__ == "__main__":
    main()
