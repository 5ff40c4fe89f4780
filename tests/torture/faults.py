"""Faults that happen to a run at a random moment, and how each is undone."""

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.operations.servers import Service
from tests.torture.place import STORE, Place, list_processes, stages_begun

_STARTING_SHARE = 0.2  # of the moments, before the stage begins
_BALLAST = "ballast"


@dataclass
class Run:
    """A run under way that a fault is about to happen to."""

    place: Place
    mark: str
    command: tuple[str, ...]
    stage: str
    log: Path
    seconds: Mapping[str, float]
    """How long the start of the command, and the stage, have last taken."""
    process: subprocess.Popen[bytes]
    server: Service | None = None
    """The tracking server, where there is one."""
    stage_began: float | None = None
    """Seconds after the start at which the stage was seen to begin."""

    def wait_for_moment(self, draw: random.Random) -> float | None:
        """Sleep until a random moment, at the latest until the next stage begins.

        Returns:
            Seconds since the stage began, negative before; None if the run ended first.
        """
        early = draw.random() < _STARTING_SHARE
        moment = draw.uniform(0, self.seconds["start" if early else self.stage])
        began = time.monotonic()
        while self.process.poll() is None:
            passed = time.monotonic() - began
            if early and (passed >= moment or self.stage_began is not None):
                return passed - self.seconds["start"]
            seen = stages_begun(self.log)
            if self.stage_began is None and self.stage in seen:
                self.stage_began = passed
            in_stage = passed - (self.stage_began or passed)
            if in_stage >= moment or (seen and seen[-1] != self.stage):
                return in_stage
            time.sleep(0.05)
        return None


Fault = Callable[[Run, random.Random, ExitStack], str]
"""Does it, has it undone by the stack, and says what it was; "" if the run had ended before."""


def kill(run: Run, draw: random.Random, _: ExitStack) -> str:
    """Kill a random process of the run's tree, by its number."""
    moment = run.wait_for_moment(draw)
    processes = sorted(list_processes(run.mark), key=lambda process: process.pid)
    kinds = [(name, process) for process in processes if (name := name_process(process))]
    if moment is None or not kinds:
        return ""
    name, victim = draw.choice(kinds)
    os.kill(victim.pid, signal.SIGKILL)
    return f"killed {name} at {moment:.1f} s"


def name_process(process: psutil.Process) -> str:
    """Return what the process is to the run; "" for what only waits for its death."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    names = {
        "descendants.py": "",
        "group_leader.py": "leader",
        "flows.": "flow",
        "-m idc pipeline": "flow",
        "prefect.server": "Prefect server",
        "multiprocessing": "worker process",
        "-m dvc": "dvc",
        "-m idc check": "check",
        "-m idc ": "stage",
    }
    return next((name for part, name in names.items() if part in command), "other")


def fill_disk(run: Run, draw: random.Random, stack: ExitStack) -> str:
    """Leave the file system a few kilobytes, until the run has ended."""
    moment = run.wait_for_moment(draw)
    if moment is None:
        return ""
    left = draw.choice((0, 4, 64, 1024)) * 1024
    ballast = run.place.disk / _BALLAST
    stack.callback(ballast.unlink)
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue
        file.truncate(max(0, file.tell() - left))
    return f"{left // 1024} KB left at {moment:.1f} s"


def lock_store(run: Run, draw: random.Random, stack: ExitStack) -> str:
    """Hold the store's lock from another connection, for a while or until the run has ended."""
    moment = run.wait_for_moment(draw)
    if moment is None:
        return ""
    limit_s = draw.choice((2.0, 20.0, 300.0))
    ended = threading.Event()
    holder = threading.Thread(target=_hold, args=(run.place.project / STORE, ended, limit_s))
    holder.start()
    stack.callback(holder.join)
    stack.callback(ended.set)
    return f"store locked for at most {limit_s:.0f} s at {moment:.1f} s"


def _hold(database: Path, ended: threading.Event, limit_s: float) -> None:
    with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as store:
        store.execute("BEGIN EXCLUSIVE")
        ended.wait(limit_s)
        store.execute("ROLLBACK")


def kill_server(run: Run, draw: random.Random, _: ExitStack) -> str:
    """Kill the tracking server."""
    moment = run.wait_for_moment(draw)
    if moment is None:
        return ""
    assert run.server is not None
    os.killpg(run.server.process.pid, signal.SIGKILL)
    run.server.process.wait()
    return f"tracking server killed at {moment:.1f} s"


def start_another(run: Run, draw: random.Random, stack: ExitStack) -> str:
    """Start a second pipeline in the same folder."""
    moment = run.wait_for_moment(draw)
    if moment is None:
        return ""
    command = draw.choice((("idc", "pipeline"), ("dvc", "repro")))
    other = run.place.start(run.mark, run.log.with_suffix(".other.log"), *command)
    stack.callback(other.wait)
    return f"second pipeline ({' '.join(command)}) at {moment:.1f} s"


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "full": fill_disk,
    "locked": lock_store,
    "away": kill_server,
    "two": start_another,
}
