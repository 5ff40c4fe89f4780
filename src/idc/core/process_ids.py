"""Which process it was, and whether it still runs."""

import socket
from dataclasses import dataclass

import psutil

_SAME_START_S = 1.0  # the system's clock may be set a little between two looks


@dataclass(frozen=True)
class ProcessId:
    """One process among all that ever had its number."""

    host: str
    pid: int
    started: float
    """Seconds since 1970, by the clock of its host."""


def identify_process(pid: int) -> ProcessId:
    """Return which process of this host has the number now.

    Raises:
        psutil.NoSuchProcess: If none has.
    """
    return ProcessId(socket.gethostname(), pid, psutil.Process(pid).create_time())


def is_dead(process: ProcessId) -> bool:
    """Say whether the process has surely ended; of another host's nothing is sure."""
    if process.host != socket.gethostname():
        return False
    try:
        found = psutil.Process(process.pid)
        another = abs(found.create_time() - process.started) > _SAME_START_S
        return another or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
